"""Networks in Flax's files, written by real Flax."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import linen, nnx, serialization

from evenkeel import checkpoints
from evenkeel.checkpoints import Checkpoint, StoredArray
from evenkeel.dialects import flax as dialect
from evenkeel.dialects._layers import Layer, stored
from evenkeel.errors import InputError, UnsayableError
from evenkeel.spec import Momentum

GOLDENS = Path(__file__).parent / "goldens" / "flax"
FILES = ["linen.msgpack", "nnx.msgpack", "nnx_orbax"]


def make():
    """The script that wrote the goldens, for its models."""
    spec = importlib.util.spec_from_file_location("flax_goldens", GOLDENS / "make.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def in_memory(tree) -> Checkpoint:
    """A checkpoint of nested dictionaries of arrays."""
    flat: dict[str, StoredArray] = {}

    def visit(node, path):
        if isinstance(node, dict):
            for key, value in node.items():
                visit(value, (*path, str(key)))
        else:
            flat["/".join(path)] = stored(np.asarray(node))

    visit(tree, ())
    return Checkpoint(Path("memory"), "msgpack", flat)


def zeros(*shape: int) -> np.ndarray:
    return np.zeros(shape, np.float32)


def kinds_of(network) -> dict[str, str]:
    return {layer.name: layer.kind for layer in network.layers}


@pytest.mark.parametrize("name", FILES)
def test_goldens_are_told_by_names_and_shapes(name):
    network = dialect.read_network(checkpoints.read(GOLDENS / name))
    if name == "linen.msgpack":
        assert kinds_of(network) == {
            "stem": "conv", "BatchNorm_0": "batch_norm", "Conv_0": "conv",
            "second": "batch_norm", "OptimizedLSTMCell_0": "lstm", "LayerNorm_0": "layer_norm",
            "head": "dense",
        }  # fmt: skip
    else:
        assert kinds_of(network) == {
            "stem": "conv", "norms/0": "batch_norm", "norms/1": "batch_norm",
            "body/layers/0": "conv", "rnn/cell": "lstm", "head": "dense",
        }  # fmt: skip
    norms = [layer for layer in network.layers if layer.kind == "batch_norm"]
    assert [layer.spec.offset for layer in norms] == [True, False]
    for layer in norms:
        assert {"eps", "momentum", "variance"} <= {*layer.assumed}
        assert layer.spec.momentum == Momentum(0.99, "old")
        assert layer.spec.axis == -1
    assert all("rngs" in unread for unread in network.unread)


@pytest.mark.slow
@pytest.mark.parametrize("name", FILES)
def test_the_arrays_of_goldens_give_the_outputs_that_were_recorded(name):
    goldens = make()
    if name == "linen.msgpack":
        module, x = goldens.LinenNet(), goldens.example()
        model = module, module.init(jax.random.key(5), x, train=False)
        expected = np.load(GOLDENS / "linen_expected.npz")
    else:
        model, x = goldens.NnxNet(nnx.Rngs(5)), goldens.example()
        expected = np.load(GOLDENS / "nnx_expected.npz")
    np.testing.assert_array_equal(x, expected["x"])
    live = dialect.open_network(model)
    live.canonical_inputs(x)
    stored_network = dialect.read_network(checkpoints.read(GOLDENS / name))
    live.write({la.name: {r: a.read() for r, a in la.arrays.items()}
                for la in stored_network.layers})  # fmt: skip
    np.testing.assert_allclose(live.trace(x).output, expected["output"], rtol=1e-5)
    step = live.step(x, lambda output: (0.0, output))
    np.testing.assert_allclose(step.output, expected["trained"], rtol=1e-4)
    for layer, roles in step.statistics.items():
        for role, own in (("running_mean", "mean"), ("running_var", "var")):
            np.testing.assert_allclose(roles[role], expected[f"{layer}/{own}"], rtol=1e-5)


def test_versions_of_the_goldens_are_recorded():
    assert {"flax", "jax", "orbax-checkpoint"} <= json.loads(
        (GOLDENS / "versions.json").read_text()
    ).keys()


def test_reading_files_loads_no_framework():
    code = (
        "import sys; from evenkeel import checkpoints; from evenkeel.dialects import flax;"
        f"c = checkpoints.read({str(GOLDENS / 'linen.msgpack')!r});"
        "n = flax.read_network(c); flax.write_network(n.layers);"
        "assert not {'flax', 'jax', 'torch'} & sys.modules.keys(), sorted(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_what_names_and_shapes_leave_open_is_other_until_told():
    tree = {
        "norm": {"scale": zeros(4), "bias": zeros(4)},
        "up": {"ConvTranspose_0": {"kernel": zeros(3, 3, 2, 4)}},
        "LayerNorm_0": {"scale": zeros(4)},
        "odd": {"mean": zeros(3), "var": zeros(4)},
        "stacked": {"mean": zeros(2, 3), "var": zeros(2, 3)},
    }
    network = dialect.read_network(in_memory({"params": tree}))
    assert kinds_of(network) == {
        "norm": "other", "up/ConvTranspose_0": "other", "LayerNorm_0": "layer_norm",
        "odd": "other", "stacked": "other",
    }  # fmt: skip
    by_name = {layer.name: layer for layer in network.layers}
    assert by_name["norm"].settings["could_be"] == ("layer_norm", "group_norm")
    told = {"norm": "group_norm", "up/ConvTranspose_0": "conv_transpose"}
    network = dialect.read_network(in_memory({"params": tree}), kinds=told)
    by_name = {layer.name: layer for layer in network.layers}
    assert by_name["norm"].shapes == {"scale": (4,), "offset": (4,)}
    assert by_name["up/ConvTranspose_0"].shapes == {"kernel": (3, 3, 4, 2)}


@pytest.mark.parametrize(
    "kinds", [{"nothing": "dense"}, {"dense": "lstm"}, {"dense": "batch_norm"}]
)
def test_kinds_that_do_not_fit_are_refused(kinds):
    checkpoint = in_memory({"params": {"dense": {"kernel": zeros(3, 4)}}})
    with pytest.raises(InputError, match=next(iter(kinds))):
        dialect.read_network(checkpoint, kinds=kinds)


def test_other_collections_and_states_of_optimizers_are_unread():
    tree = {
        "params": {"dense": {"kernel": zeros(3, 4)}},
        "opt_state": {"0": {"mu": {"dense": {"kernel": zeros(3, 4)}}}},
        "step": np.int32(3),
    }
    network = dialect.read_network(in_memory(tree))
    assert kinds_of(network) == {"dense": "dense"}
    assert network.unread == ("opt_state/0/mu/dense/kernel", "step")


class Small(linen.Module):
    @linen.compact
    def __call__(self, x):
        x = linen.Conv(4, (3, 3), name="conv")(x)
        x = linen.BatchNorm(use_running_average=True, name="norm")(x)
        x = linen.ConvTranspose(5, (3, 3), name="up")(x)
        x = linen.RNN(linen.GRUCell(3, name="gru"))(x.mean(1))
        return linen.Dense(2, name="head")(x)


@pytest.mark.slow
def test_what_is_written_for_linen_is_what_linen_expects(tmp_path):
    module = Small()
    variables = module.init(jax.random.key(0), zeros(1, 8, 8, 3))
    live = dialect.open_network((module, variables))
    live.canonical_inputs(zeros(1, 8, 8, 3))
    checkpoint = in_memory(dialect_tree(dialect.write_network(live.layers())))
    original = in_memory(variables)
    assert checkpoint.arrays.keys() == original.arrays.keys()
    for name, array in original.arrays.items():
        np.testing.assert_array_equal(checkpoint.arrays[name].read(), array.read())
    path = tmp_path / "model.msgpack"
    checkpoints._write.write(path, dialect.write_network(live.layers()))
    restored = serialization.from_bytes(variables, path.read_bytes())
    jax.tree.map(np.testing.assert_array_equal, restored, variables)


def dialect_tree(arrays) -> dict:
    return {name: array.read() for name, array in arrays.items()}


@pytest.mark.parametrize("name", FILES)
def test_a_file_gives_its_names_to_its_own_layers(name):
    like = checkpoints.read(GOLDENS / name)
    network = dialect.read_network(like)
    written = dialect.write_network(network.layers, like=like)
    assert written.keys() == like.arrays.keys() - set(network.unread)
    for key, array in written.items():
        assert array.shape == like.arrays[key].shape
        assert array.dtype == like.arrays[key].dtype
        np.testing.assert_array_equal(array.read(), like.arrays[key].read())


def test_one_lstm_is_written_in_every_form_that_a_file_has():
    generator = np.random.default_rng(0)
    arrays = {"kernel": (3, 16), "recurrent": (4, 16), "bias": (16,)}
    values = {k: generator.normal(size=s).astype(np.float32) for k, s in arrays.items()}
    layer = Layer("cell", "lstm", {role: stored(array) for role, array in values.items()})
    for cell in (nnx.LSTMCell, nnx.OptimizedLSTMCell):
        state = nnx.to_pure_dict(nnx.state(cell(3, 4, rngs=nnx.Rngs(0)), nnx.Param))
        like = in_memory({"cell": state})
        written = dialect.write_network([layer], like=like)
        assert written.keys() == like.arrays.keys()
        again = dialect.read_network(in_memory(dialect_tree(written))).layers[0]
        for role, array in values.items():
            np.testing.assert_array_equal(again.arrays[role].read(), array)


@pytest.mark.parametrize(
    ("kind", "shapes", "settings"),
    [
        ("other", {"weird": (3,)}, {}),
        ("normalization", {"mean": (3,), "variance": (3,)}, {}),
        ("gru", {"kernel": (3, 12), "recurrent": (4, 12), "bias": (12,)}, {"reset_after": False}),
        ("prelu", {"alpha": (3,)}, {}),
        ("batch_norm", {"weight": (3,), "bias": (3,)}, {}),
    ],
)
def test_what_flax_does_not_have_is_refused(kind, shapes, settings):
    arrays = {role: stored(zeros(*shape)) for role, shape in shapes.items()}
    with pytest.raises(UnsayableError, match=f"'layer' \\({kind}\\)"):
        dialect.write_network([Layer("layer", kind, arrays, settings)])


def test_what_does_not_fit_the_file_is_refused():
    like = in_memory({"params": {"a": {"kernel": zeros(3, 4)}, "up": {"kernel": zeros(2, 5, 5)}}})
    for name, match in (("b", "none has that name"), ("a", "do not fit")):
        layer = Layer(name, "dense", {"kernel": stored(zeros(3, 5))})
        with pytest.raises(InputError, match=match):
            dialect.write_network([layer], like=like)
    layer = Layer("up", "conv_transpose", {"kernel": stored(zeros(2, 5, 5))})
    with pytest.raises(InputError, match="transpose_kernel"):
        dialect.write_network([layer], like=like)


def test_dots_in_names_become_levels_and_bfloat16_stays_one():
    array = StoredArray((3, 4), "bfloat16", lambda: zeros(3, 4))
    layer = Layer("features.0.dense", "dense", {"kernel": array})
    ((name, written),) = dialect.write_network([layer]).items()
    assert name == "params/features/0/dense/kernel"
    assert written.dtype == "bfloat16"
