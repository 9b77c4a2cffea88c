"""Files that real frameworks wrote; ``goldens/*/make.py`` makes them anew."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest

from evenkeel import checkpoints
from evenkeel.dialects import onnx as onnx_dialect
from evenkeel.dialects import torch as torch_dialect

GOLDENS = Path(__file__).parent / "goldens"


def test_the_state_dict_of_torch_is_understood():
    golden = json.loads((GOLDENS / "torch" / "model.json").read_text())
    checkpoint = checkpoints.read(GOLDENS / "torch" / "model.pt")
    network = torch_dialect.read_network(checkpoint)
    assert [(layer.name, layer.kind) for layer in network.layers] == [
        ("0", "conv"),
        *((name, "batch_norm") for name in "123"),
        ("4", "conv_transpose"),
        ("5", "dense"),
        ("6", "gru"),
    ]
    specs = {layer.name: layer.spec for layer in network.layers if layer.spec}
    assert [(spec.scale, spec.offset) for spec in specs.values()] == [
        (True, True),
        (False, False),
        (True, False),
    ]
    written = torch_dialect.write_network(network.layers, checkpoint)
    sums = {name: float(array.read().astype(np.float64).sum()) for name, array in written.items()}
    assert sums == pytest.approx(golden["sums"], rel=1e-12)


@pytest.mark.parametrize("name", ["opset7", "opset9", "opset17", "training"])
def test_the_graphs_of_torchs_exporter_are_understood(name):
    path = GOLDENS / "onnx" / f"{name}.onnx"
    network = onnx_dialect.read_network(checkpoints.read(path))
    _, norm, fresh = network.layers
    assert [layer.kind for layer in network.layers] == ["conv", "batch_norm", "batch_norm"]
    assert norm.spec.eps == float(np.float32(1e-3))
    assert norm.spec.momentum.value == float(np.float32(0.8))
    training = name == "training"
    assert [fresh.arrays[role].read()[0] for role in ("weight", "bias")] == [1, 0]
    if not training:  # this export runs the model, which moves the statistics
        assert [fresh.arrays[role].read()[0] for role in ("running_mean", "running_var")] == [0, 1]
    assert ("training_mode" in norm.spec.options) == training
    assert len(network.remarks) == 2 * training


@pytest.mark.parametrize("name", ["opset7", "opset9", "opset17"])
def test_the_graphs_of_torchs_exporter_run(name):
    with np.load(GOLDENS / "onnx" / "run.npz") as run:
        x, y = run["x"], run["y"]
    network = onnx_dialect.open_network(onnx.load(GOLDENS / "onnx" / f"{name}.onnx"))
    output = network.trace(network.canonical_inputs(x)).output
    np.testing.assert_allclose(np.moveaxis(output, -1, 1), y, rtol=1e-5, atol=1e-5)
