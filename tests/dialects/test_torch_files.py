"""State dicts as networks, and networks as state dicts."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from evenkeel import checkpoints
from evenkeel.checkpoints import Checkpoint
from evenkeel.dialects import torch as dialect
from evenkeel.dialects._layers import Layer, stored
from evenkeel.errors import InputError, UnsayableError
from evenkeel.spec import Momentum, Spec

MODULES = {
    "conv": nn.Conv2d(3, 4, 3),
    "up": nn.ConvTranspose2d(4, 6, 3),
    "block/sub": nn.Conv1d(2, 4, 3, groups=2),
    "bn": nn.BatchNorm2d(4),
    "fc": nn.Linear(3, 4),
    "ln": nn.LayerNorm(4),
    "rnn": nn.GRU(3, 4, num_layers=2, bidirectional=True),
}


def checkpoint(arrays, config=None) -> Checkpoint:
    found = {name: stored(np.asarray(array)) for name, array in arrays.items()}
    return Checkpoint(Path("x"), "torch", found, config=config or {})


def of(model: nn.Module) -> Checkpoint:
    return checkpoint({name: tensor.numpy() for name, tensor in model.state_dict().items()})


def test_kinds_are_told_by_names_and_shapes():
    network = dialect.read_network(of(nn.ModuleDict(MODULES)))
    assert {layer.name: layer.kind for layer in network.layers} == {
        "conv": "conv",
        "up": "conv_transpose",
        "block/sub": "conv",
        "bn": "batch_norm",
        "fc": "dense",
        "ln": "layer_norm",
        "rnn/l0/forward": "gru",
        "rnn/l0/backward": "gru",
        "rnn/l1/forward": "gru",
        "rnn/l1/backward": "gru",
    }
    assert network.unread == ()


def test_a_file_has_the_arrays_of_the_live_model():
    model = nn.ModuleDict(MODULES)
    from_file = {layer.name: layer for layer in dialect.read_network(of(model)).layers}
    for live in dialect.open_network(model).layers():
        assert from_file[live.name].shapes == live.shapes
        for role, array in live.arrays.items():
            np.testing.assert_array_equal(from_file[live.name].arrays[role].read(), array.read())


def test_writing_gives_the_same_state_dict():
    model = nn.ModuleDict({"a": nn.ModuleDict(MODULES)})
    source = of(model)
    written = dialect.write_network(dialect.read_network(source).layers)
    written = {name.replace("block.sub", "block/sub"): array for name, array in written.items()}
    assert written.keys() == source.arrays.keys()
    for name, array in source.arrays.items():
        there = written[name]
        assert (there.shape, there.dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(there.read(), array.read(), strict=True)


def test_what_was_written_loads_strictly_and_computes_the_same():
    torch.manual_seed(0)
    source = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    target = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2))
    layers = [
        Layer(layer.name, layer.kind, {r: a for r, a in layer.arrays.items() if r != "batches"})
        for layer in dialect.read_network(of(source)).layers
    ]
    arrays = dialect.write_network(layers)
    target.load_state_dict({name: torch.tensor(array.read()) for name, array in arrays.items()})
    x = torch.randn(2, 3, 4, 4)
    assert torch.equal(source.eval()(x), target.eval()(x))


def test_nothing_is_read_before_it_is_asked_for():
    def forbidden():
        raise AssertionError

    array = checkpoints.StoredArray((4, 3), "float32", forbidden)
    bias = checkpoints.StoredArray((4,), "float32", forbidden)
    source = Checkpoint(Path("x"), "torch", {"fc.weight": array, "fc.bias": bias})
    (layer,) = dialect.read_network(source).layers
    assert layer.shapes == {"kernel": (3, 4), "bias": (4,)}
    assert dialect.write_network([layer])["fc.weight"].shape == (4, 3)


@pytest.mark.parametrize(
    ("arrays", "kind", "could_be"),
    [
        ({"weight": (4, 3)}, "other", ("dense", "embedding")),
        ({"weight": (3,)}, "other", ("layer_norm", "group_norm", "prelu")),
        ({"weight": (4, 3, 3, 3)}, "conv", None),
        ({"weight": (4, 4, 3, 3), "bias": (4,)}, "conv", None),
        ({"weight": (3,), "bias": (3,)}, "layer_norm", None),
        ({"in_proj_weight": (12, 4)}, "other", None),
        ({"weight": (4, 3), "bias": (3,)}, "other", None),
        ({"weight_ih_l0": (16, 3), "weight_hh_l0": (16, 4), "weight_hr_l0": (2, 4)}, "other", None),
        ({"weight_ih_l0": (7, 3), "weight_hh_l0": (7, 4)}, "other", None),
    ],
)
def test_what_cannot_be_told_is_said(arrays, kind, could_be):
    source = checkpoint({f"x.{n}": np.zeros(shape, np.float32) for n, shape in arrays.items()})
    network = dialect.read_network(source)
    (layer,) = network.layers
    assert layer.kind == kind
    assert layer.settings.get("could_be") == could_be
    if kind != "other":
        assert layer.assumed == ("kind",)
        assert layer.name in network.remarks[0]


def test_a_name_of_a_transposed_convolution_is_not_taken_for_a_convolution():
    source = checkpoint({"deconv1.weight": np.zeros((4, 4, 3, 3), np.float32)})
    (layer,) = dialect.read_network(source).layers
    assert layer.settings["could_be"] == ("conv", "conv_transpose")


def test_kinds_are_settled_by_the_user():
    source = checkpoint(
        {
            "emb.weight": np.zeros((5, 3), np.float32),
            "fc.weight": np.zeros((4, 3), np.float32),
            "fc.bias": np.zeros(4, np.float32),
        }
    )
    layers = dialect.read_network(source, {"*": "embedding"}).layers
    assert [layer.kind for layer in layers] == ["embedding", "dense"]
    with pytest.raises(InputError, match="has other arrays"):
        dialect.read_network(source, {"fc": "embedding"})


def test_a_batch_norm_says_what_is_assumed():
    (layer,) = dialect.read_network(of(nn.ModuleDict({"bn": nn.BatchNorm2d(3)}))).layers
    assert {"eps", "momentum", "variance"} <= {*layer.assumed}
    assert layer.arrays["batches"].read() == 0


def test_settings_in_the_metadata_are_read_back(tmp_path):
    model = nn.ModuleDict({"bn": nn.BatchNorm2d(3)})
    spec = Spec(3, eps=1e-3, momentum=Momentum(0.99, "old"), variance="biased", name="bn")
    metadata = {"evenkeel.batch_norm": json.dumps({"bn": spec.to_json()})}
    save_file(model.state_dict(), tmp_path / "x.safetensors", metadata=metadata)
    (layer,) = dialect.read_network(checkpoints.read(tmp_path / "x.safetensors")).layers
    assert layer.spec == spec
    assert layer.assumed == ()


@pytest.mark.parametrize(
    "text",
    ["{", "[]", "3", '{"bn": 3}', '{"bn": "{}"}', json.dumps({"bn": Spec(4, name="bn").to_json()})],
)
def test_damaged_settings_are_refused(text):
    arrays = {"bn.running_mean": np.zeros(3, "f4"), "bn.running_var": np.ones(3, "f4")}
    with pytest.raises(InputError):
        dialect.read_network(checkpoint(arrays, {"metadata": {"evenkeel.batch_norm": text}}))


def test_rows_behind_a_flattened_picture_are_permuted():
    height, width, channels = 2, 3, 4
    kernel = np.arange(24, dtype=np.float32)[:, None]
    layer = Layer("fc", "dense", {"kernel": stored(kernel)}, {"flattened": (2, 3, 4)})
    weight = dialect.write_network([layer])["fc.weight"].read()
    picture = np.arange(24).reshape(height, width, channels)
    np.testing.assert_array_equal(weight[0], picture.transpose(2, 0, 1).ravel())


def test_names_of_keras_become_dotted():
    layer = Layer("a/b", "dense", {"kernel": stored(np.zeros((3, 2), "f4"))})
    assert list(dialect.write_network([layer])) == ["a.b.weight"]
    clash = Layer("a.b", "dense", {"kernel": stored(np.zeros((3, 2), "f4"))})
    with pytest.raises(InputError, match="two arrays"):
        dialect.write_network([layer, clash])


@pytest.mark.parametrize(
    "layer",
    [
        Layer("gru", "gru", {"bias": stored(np.zeros(9, "f4"))}, {"reset_after": False}),
        Layer("norm", "normalization", {"mean": stored(np.zeros(3, "f4"))}),
    ],
)
def test_what_torch_does_not_have_is_refused(layer):
    with pytest.raises(UnsayableError, match=layer.name):
        dialect.write_network([layer])


def test_like_gives_names_and_shapes():
    layer = Layer("fc", "dense", {"kernel": stored(np.zeros((3, 2), "f4"))})
    written = dialect.write_network([layer], of(nn.ModuleDict({"fc": nn.Linear(3, 2, bias=False)})))
    assert list(written) == ["fc.weight"]
    with pytest.raises(InputError, match="no such array"):
        dialect.write_network([layer], of(nn.ModuleDict({"x": nn.Linear(3, 2)})))
    with pytest.raises(InputError, match="shape"):
        dialect.write_network([layer], of(nn.ModuleDict({"fc": nn.Linear(4, 2)})))
