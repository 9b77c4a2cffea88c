"""``inspect`` beyond torch: files that frameworks wrote, live models, counts, and conventions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from evenkeel.errors import InputError
from evenkeel.spec import Momentum, Spec, State
from evenkeel.tools import inspect
from evenkeel.tools._inspect._counts import count
from evenkeel.tools._inspect._rules import Subject, judge

GOLDENS = Path(__file__).parents[1] / "checkpoints" / "goldens"
KERAS = Spec(3, eps=1e-3, momentum=Momentum(0.99, "old"), variance="biased", axis=-1)
OLD = Momentum(0.9, "old")


@pytest.mark.parametrize(
    ("name", "framework", "settings"),
    [
        ("keras3.keras", "keras", (0.002, OLD, "biased")),
        ("keras3.h5", "keras", (0.002, OLD, "biased")),
        ("keras2.h5", "keras", (0.002, OLD, "unbiased")),
        ("keras3.weights.h5", "keras", (None, None, None)),
        ("model.msgpack", "flax", (None, None, None)),
        ("orbax", "flax", (None, None, None)),
        ("model.safetensors", "torch", (None, None, None)),
    ],
)
def test_files_that_frameworks_wrote(name, framework, settings):
    report = inspect(GOLDENS / name)
    (row,) = report.rows
    assert report.framework == framework
    assert (row.eps, row.momentum, row.variance) == settings
    assert (row.channels, row.mode, row.kind) == (3, None, "batch norm")
    assert row.running_var is not None
    assert max(map(len, str(report).splitlines()[1:])) <= 80


def test_onnx_files_say_their_settings_in_float32():
    (row,) = inspect(GOLDENS / "model.onnx").rows
    assert row.eps == float(np.float32(1e-3))
    assert row.momentum == Momentum(float(np.float32(0.9)), "old")


def test_settings_that_convert_stored_are_shown(tmp_path):
    state = {f"bn.{name}": array for name, array in State.initial(KERAS).arrays().items()}
    metadata = {"evenkeel.batch_norm": json.dumps({"bn": KERAS.to_json()})}
    save_file(state, tmp_path / "a.safetensors", metadata=metadata)
    report = inspect(tmp_path / "a.safetensors")
    assert (report.rows[0].eps, report.rows[0].momentum) == (1e-3, Momentum(0.99, "old"))
    save_file(state, tmp_path / "a.safetensors", metadata={"evenkeel.batch_norm": "{"})
    with pytest.raises(InputError, match=r"evenkeel\.batch_norm"):
        inspect(tmp_path / "a.safetensors")


def counts_of(*specs: Spec) -> dict[str, tuple[int, int, int]]:
    return {c.framework: (c.parameters, c.trained, c.beside) for c in count(specs)}


def test_each_framework_counts_in_its_own_way():
    assert counts_of(Spec(8), Spec(4)) == {
        "torch": (24, 24, 26),  # 2C parameters, 2C + 1 buffers
        "keras": (48, 24, 0),  # 4C, of which 2C are not trained
        "flax": (24, 24, 24),  # 2C in params, 2C in batch_stats
        "onnx": (48, 0, 0),  # five inputs, four of them stored
    }
    assert count([]) == ()


@pytest.mark.parametrize(
    ("change", "framework", "numbers"),
    [
        ({"scale": False}, "keras", (24, 8, 0)),
        ({"scale": False}, "onnx", (32, 0, 0)),
        ({"scale": False, "offset": False}, "torch", (0, 0, 17)),
        ({"track_statistics": False}, "torch", (16, 16, 0)),
        ({"affine_frozen": True}, "torch", (16, 0, 17)),
        ({"affine_frozen": True, "statistics_frozen": True}, "torch", (0, 0, 32)),
        ({"affine_frozen": True, "statistics_frozen": True}, "keras", (32, 0, 0)),
    ],
)
def test_what_a_layer_lacks_is_not_counted(change, framework, numbers):
    assert counts_of(replace(Spec(8), **change))[framework] == numbers


def test_the_counts_of_torch_are_those_of_a_live_layer():
    from torch import nn

    layer = nn.BatchNorm2d(5, affine=False)
    (row,) = inspect(layer).rows
    (torch, *_) = inspect(layer).counts
    assert (row.parameters, row.buffers) == (torch.parameters, torch.beside)


def found(framework: str, **change: object) -> list[tuple[str, str, str]]:
    spec = replace(KERAS, **change)
    state = State(np.ones(3), np.zeros(3), np.full(3, 0.5), np.full(3, 2.0))
    subject = Subject("bn", spec, state, "call", framework=framework)
    return [(f.severity, f.code, f.text) for f in judge(subject)]


def test_the_default_of_keras_is_no_finding_in_keras():
    assert found("keras") == []
    ((severity, code, text),) = found("flax")
    assert (severity, code) == ("note", "eps")
    assert "Flax's is 1e-05" in text
    ((severity, code, text),) = found("keras", eps=1e-5)
    assert (severity, code) == ("note", "eps")
    assert "Keras's is 0.001" in text


@pytest.mark.parametrize("framework", ["keras", "flax", "onnx"])
def test_a_momentum_of_torch_is_seen_elsewhere(framework):
    small = float(np.float32(0.1)) if framework == "onnx" else 0.1
    findings = found(framework, eps=1e-4, momentum=Momentum(small, "old"))
    ((severity, code, text),) = findings
    assert (severity, code) == ("warning", "momentum")
    assert "momentum 0.1 weighs the stored statistics here" in text
    assert found(framework, eps=1e-4, momentum=Momentum(0.5, "old")) == []


def test_momentum_that_never_moves_is_seen_on_both_sides():
    assert found("keras", momentum=Momentum(1.0, "old")) == [
        ("note", "momentum", "momentum 1: the running statistics never move")
    ]


def test_eps_of_zero_does_not_stop_keras():
    ((severity, _, text),) = found("keras", eps=0.0)
    assert (severity, "torch" in text) == ("warning", False)


def test_a_live_onnx_model():
    import onnx

    report = inspect(onnx.load(GOLDENS / "model.onnx"))
    (row,) = report.rows
    assert (report.framework, row.kind, row.mode) == ("onnx", "BatchNormalization", "eval")


@pytest.mark.slow
def test_live_models_of_flax():
    import jax
    from flax import linen, nnx

    class Net(nnx.Module):
        def __init__(self) -> None:
            self.norm = nnx.BatchNorm(4, momentum=0.1, rngs=nnx.Rngs(0))

        def __call__(self, x: object) -> object:
            return self.norm(x)

    report = inspect(Net())
    (row,) = report.rows
    assert (report.framework, row.name, row.kind) == ("flax", "norm", "BatchNorm")
    assert (row.eps, row.momentum) == (1e-5, Momentum(0.1, "old"))
    assert "momentum" in [finding.code for finding in report.findings]

    class Other(linen.Module):
        @linen.compact
        def __call__(self, x: jax.Array, train: bool = False) -> jax.Array:
            return linen.BatchNorm(use_running_average=not train)(x)

    module = Other()
    variables = module.init(jax.random.key(0), jax.numpy.ones((2, 3)))
    assert inspect((module, dict(variables))).rows[0].channels == 3


LIVE_KERAS = """
import json, sys, keras
from evenkeel.tools import inspect
model = keras.Sequential([keras.Input((3,)), keras.layers.BatchNormalization(momentum=0.1)])
found = []
for trainable in (True, False):
    model.layers[0].trainable = trainable
    counted = model.count_params(), sum(v.shape[0] for v in model.trainable_variables)
    found.append((inspect(model).to_dict(), counted))
print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_live_models_of_keras(backend):
    done = subprocess.run(
        [sys.executable, "-c", LIVE_KERAS],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    for (report, counted), mode in zip(found, ("call", "frozen"), strict=True):
        (row,) = report["rows"]
        assert (report["framework"], row["mode"]) == ("keras", mode)
        assert (row["eps"], row["momentum"]) == (1e-3, {"value": 0.1, "weighs": "old"})
        (keras,) = [c for c in report["counts"] if c["framework"] == "keras"]
        assert [keras["parameters"], keras["trained"]] == counted
