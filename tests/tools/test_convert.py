"""``convert``: files that frameworks wrote, to files that they read, value by value."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import evenkeel
from evenkeel import checkpoints
from evenkeel.errors import EvenkeelError, FileError, InputError, UnsayableError
from evenkeel.spec import Momentum, Spec
from evenkeel.tools import compare_files, convert

PICTURE = {"4": "dense:6x6x4"}


def network(**settings: object) -> nn.Sequential:
    """A convolution, a batch norm that has seen data, and a dense layer behind a flattening."""
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, **settings)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    model(torch.randn(16, 3, 8, 8))
    return model.eval()


@pytest.fixture
def source(tmp_path):
    """The weights of a network, and where."""
    torch.save(network().state_dict(), tmp_path / "a.pt")
    return tmp_path / "a.pt"


def refused(source, target, *, kind=InputError, **settings) -> str:
    """The message of a refusal, after which nothing stands beside what stood there."""
    before = sorted(target.parent.iterdir())
    with pytest.raises(kind) as caught:
        convert(source, target, **settings)
    assert sorted(target.parent.iterdir()) == before
    return str(caught.value)


def test_one_format_to_another_of_the_same_framework(source, tmp_path):
    report = convert(source, tmp_path / "b.safetensors")
    state = load_file(tmp_path / "b.safetensors")
    assert state.keys() == network().state_dict().keys()
    assert all(torch.equal(state[name], value) for name, value in network().state_dict().items())
    assert [row.kind for row in report.rows] == ["array"] * 9
    (setting,) = report.settings
    assert (setting.layer, setting.code) == ("1", "")
    assert setting.unknown == ("eps", "momentum", "variance")


def test_unknown_layers_are_copied_within_a_framework(tmp_path):
    save_file({"mystery.table": torch.ones(2, 3, 4)}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert torch.equal(torch.load(tmp_path / "b.pt")["mystery.table"], torch.ones(2, 3, 4))


def test_element_types_stay(tmp_path):
    state = network().bfloat16().state_dict()
    torch.save(state, tmp_path / "a.pt")
    convert(tmp_path / "a.pt", tmp_path / "b.safetensors")
    back = load_file(tmp_path / "b.safetensors")
    assert {name: tensor.dtype for name, tensor in back.items()} == {
        name: tensor.dtype for name, tensor in state.items()
    }
    assert all(torch.equal(back[name], tensor) for name, tensor in state.items())


def test_metadata_of_a_safetensors_file_stays(tmp_path):
    save_file({"x": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    config = checkpoints.read(tmp_path / "b.safetensors").config
    assert config["metadata"] == {"format": "pt"}


def test_torch_to_flax_and_back_keeps_every_bit(source, tmp_path):
    report = convert(source, tmp_path / "b.msgpack", kinds=PICTURE)
    arrays = checkpoints.read(tmp_path / "b.msgpack").arrays
    state = network().state_dict()
    kernel = arrays["params/4/kernel"].read()
    first_pixel = kernel[:4]  # row 0, column 0, all channels
    assert np.array_equal(first_pixel.T, state["4.weight"].numpy()[:, [0, 36, 72, 108]])
    assert np.array_equal(
        arrays["params/0/kernel"].read(), state["0.weight"].numpy().transpose(2, 3, 1, 0)
    )
    assert np.array_equal(arrays["batch_stats/1/var"].read(), state["1.running_var"].numpy())
    assert [row.change for row in report.rows] == [
        "(out, in, *k) -> (*k, in, out)",
        "",
        "(out, in) -> (in, out), rows of a flattened 6x6x4 reordered",
    ]
    assert ("1: batches", "1") in [(item.name, item.what) for item in report.left_out]
    convert(tmp_path / "b.msgpack", tmp_path / "c.pt", kinds=PICTURE)
    back = torch.load(tmp_path / "c.pt")
    assert back.keys() == state.keys()
    names = [name for name in state if not name.endswith("num_batches_tracked")]
    assert all(torch.equal(back[name], state[name]) for name in names)
    network().load_state_dict(back)


def test_a_dense_layer_behind_a_flattened_picture_needs_its_sizes(source, tmp_path):
    message = refused(source, tmp_path / "b.msgpack")
    assert "144 inputs, perhaps behind a convolution of 4 channels" in message
    assert '"dense:6x6x4"' in message
    assert "a picture of 5x6x4" in refused(
        source, tmp_path / "b.msgpack", kinds={"4": "dense:5x6x4"}
    )
    report = convert(source, tmp_path / "b.msgpack", kinds={"4": "dense"})
    assert report.rows[2].change == "(out, in) -> (in, out)"


def test_sorted_names_do_not_hide_a_flattened_picture(tmp_path):
    features = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.MaxPool2d(2))
    head = nn.Sequential(nn.Linear(128, 12), nn.ReLU(), nn.Linear(12, 5))
    model = nn.ModuleDict({"features": features, "classifier": head})
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    torch.save(model.state_dict(), tmp_path / "a.pt")
    for name in ("a.safetensors", "a.pt"):
        message = refused(tmp_path / name, tmp_path / "b.msgpack")
        assert "128 inputs, perhaps behind a convolution of 8 channels" in message
        assert '{"classifier.0": "dense:4x4x8"}' in message
    wrong, right = {"classifier.0": "dense"}, {"classifier.0": "dense:4x4x8"}
    convert(tmp_path / "a.pt", tmp_path / "wrong.msgpack", kinds=wrong)
    convert(tmp_path / "a.safetensors", tmp_path / "right.msgpack", kinds=right)
    for name in ("wrong.msgpack", "right.msgpack"):
        found = compare_files(tmp_path / "a.pt", tmp_path / name)
        assert [row.what for row in found.rows if row.verdict == "undecided"] == ["kernel"]
        assert not found.equal
    told = [
        compare_files(tmp_path / "a.pt", tmp_path / f, kinds=right).equal
        for f in ("wrong.msgpack", "right.msgpack")
    ]
    assert told == [False, True]


def test_a_layer_of_as_many_outputs_is_taken_as_the_one_before(tmp_path):
    layers = {"conv1": nn.Conv2d(3, 16, 3), "conv2": nn.Conv2d(16, 32, 3), "fc": nn.Linear(32, 5)}
    save_file(nn.ModuleDict(layers).state_dict(), tmp_path / "a.safetensors")
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.msgpack")
    assert any("not behind a flattened picture" in r and " fc" in r for r in report.remarks)
    torch.save(nn.ModuleDict(layers).state_dict(), tmp_path / "a.pt")
    assert not any(
        "flattened" in r for r in convert(tmp_path / "a.pt", tmp_path / "c.msgpack").remarks
    )


def specs_of(path) -> dict[str, Spec]:
    text = checkpoints.read(path).config["metadata"]["evenkeel.batch_norm"]
    return {name: Spec.from_json(spec) for name, spec in json.loads(text).items()}


def test_settings_travel_in_the_metadata_of_safetensors(tmp_path):
    spec = Spec(4, eps=2e-3, momentum=Momentum(0.97, "old"), variance="biased", name="1")
    metadata = {"evenkeel.batch_norm": json.dumps({"1": spec.to_json()})}
    save_file(network().state_dict(), tmp_path / "a.safetensors", metadata=metadata)
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert report.settings == ()
    assert specs_of(tmp_path / "b.safetensors") == {"1": spec}
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.pt")
    assert report.settings[0].values == {"eps": 2e-3, "momentum": 0.03, "variance": "biased"}
    report = convert(tmp_path / "a.safetensors", tmp_path / "b.msgpack", kinds=PICTURE)
    assert report.settings[0].code == "flax.nnx.BatchNorm(4, epsilon=0.002, momentum=0.97)"


def test_settings_that_are_not_stored_are_not_written(source, tmp_path):
    convert(source, tmp_path / "b.safetensors")
    assert "evenkeel.batch_norm" not in checkpoints.read(tmp_path / "b.safetensors").config.get(
        "metadata", {}
    )


def test_a_cumulative_average_without_its_counter_is_refused(tmp_path):
    spec = Spec(4, momentum=Momentum.cumulative(), variance="biased", name="1")
    metadata = {"evenkeel.batch_norm": json.dumps({"1": spec.to_json()})}
    save_file(network().state_dict(), tmp_path / "a.safetensors", metadata=metadata)
    message = refused(
        tmp_path / "a.safetensors", tmp_path / "b.msgpack", kinds=PICTURE, kind=UnsayableError
    )
    assert "a cumulative average after 1 batches" in message
    report = convert(
        tmp_path / "a.safetensors", tmp_path / "b.msgpack", kinds=PICTURE, purpose="inference"
    )
    assert "starts anew" in report.left_out[0].why


def test_the_names_of_like_are_used(source, tmp_path):
    named = nn.ModuleDict(dict(zip("abcde", network(), strict=True)))
    torch.save(named.state_dict(), tmp_path / "like.pt")
    report = convert(source, tmp_path / "b.pt", like=tmp_path / "like.pt")
    assert [(row.source, row.target, row.matched) for row in report.rows] == [
        ("0", "a", "order"),
        ("1", "b", "order"),
        ("4", "e", "order"),
    ]
    back = torch.load(tmp_path / "b.pt")
    assert torch.equal(back["e.weight"], network()[4].weight)
    live = convert(source, tmp_path / "c.pt", like=named)
    assert live.rows == report.rows
    assert torch.load(tmp_path / "c.pt").keys() == back.keys()


def test_a_missing_scale_becomes_1_where_nothing_trains_it(tmp_path):
    torch.save(nn.Sequential(nn.BatchNorm1d(3, affine=False)).state_dict(), tmp_path / "a.pt")
    torch.save(nn.Sequential(nn.BatchNorm1d(3)).state_dict(), tmp_path / "like.pt")
    like = tmp_path / "like.pt"
    assert "would train weight = 1" in refused(tmp_path / "a.pt", tmp_path / "b.pt", like=like)
    report = convert(tmp_path / "a.pt", tmp_path / "b.pt", like=like, purpose="inference")
    assert report.rows[0].made == ("weight = 1", "bias = 0")
    assert torch.equal(torch.load(tmp_path / "b.pt")["0.weight"], torch.ones(3))
    assert "has only" in refused(like, tmp_path / "b2.pt", like=tmp_path / "a.pt")


def test_a_narrower_element_type_is_refused_and_a_wider_one_taken(tmp_path):
    layer = nn.Sequential(nn.Linear(2, 3))
    torch.save(layer.state_dict(), tmp_path / "a.pt")
    torch.save(nn.Sequential(nn.Linear(2, 3)).half().state_dict(), tmp_path / "half.pt")
    message = refused(tmp_path / "a.pt", tmp_path / "b.pt", like=tmp_path / "half.pt")
    assert "cannot hold every value" in message
    report = convert(tmp_path / "half.pt", tmp_path / "b.pt", like=tmp_path / "a.pt")
    assert report.rows[0].kind == "dense"
    assert torch.load(tmp_path / "b.pt")["0.weight"].dtype == torch.float32


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("b.keras", {}, 'model.save("like.keras")'),
        ("b.onnx", {}, "torch.onnx.export"),
        ("b.npz", {}, "say which with to="),
        ("b.zip", {}, "the ending decides"),
        ("b.pt", {"to": "jax"}, "known are torch, keras, flax, onnx"),
        ("b.pt", {"to": "keras"}, "keras reads its weights from"),
        ("no/b.pt", {}, "make the folder first"),
        ("a.pt", {}, "overwrite=True"),
        ("b.pt", {"purpose": "both"}, '"training" or "inference"'),
        ("b.msgpack", {"kinds": {"4": "gemm"}}, "the kind of 4"),
        ("b.msgpack", {"kinds": {"9": "dense"}}, "no layer has such a name"),
    ],
)
def test_what_cannot_be_asked(source, name, settings, message):
    target = source.parent / name
    with pytest.raises(InputError) as caught:
        convert(source, target, **settings)
    assert message in str(caught.value)
    assert [path.name for path in source.parent.iterdir()] == ["a.pt"]


def test_unknown_layers_are_refused_between_frameworks(tmp_path):
    save_file({"mystery.table": torch.ones(2, 3)}, tmp_path / "a.safetensors")
    message = refused(tmp_path / "a.safetensors", tmp_path / "b.msgpack")
    assert "mystery" in message
    assert "--kind NAME=KIND" in message


def test_a_kind_that_is_told_is_used(tmp_path):
    save_file({"words.weight": torch.randn(5, 3)}, tmp_path / "a.safetensors")
    convert(tmp_path / "a.safetensors", tmp_path / "b.msgpack", kinds={"wor*": "embedding"})
    arrays = checkpoints.read(tmp_path / "b.msgpack").arrays
    assert {name: array.shape for name, array in arrays.items()} == {
        "params/words/embedding": (5, 3)
    }


def test_several_state_dicts_are_refused(tmp_path):
    state = network().state_dict()
    torch.save({"model": state, "ema": network().state_dict()}, tmp_path / "a.pt")
    for name in ("b.pt", "b.msgpack"):
        assert "several state dicts: model, ema" in refused(tmp_path / "a.pt", tmp_path / name)


def test_a_target_is_replaced_as_a_whole_or_not_at_all(source, tmp_path):
    target = tmp_path / "b.msgpack"
    convert(source, target, kinds=PICTURE)
    before = target.read_bytes()
    with pytest.raises(EvenkeelError):
        convert(source, target, overwrite=True)
    assert target.read_bytes() == before
    assert "it would be replaced" in refused(source, target, kinds=PICTURE, kind=FileError)
    convert(source, target, kinds={"4": "dense"}, overwrite=True)
    assert target.read_bytes() != before


def test_the_report_fits_and_is_json(source, tmp_path):
    report = convert(source, tmp_path / "b.msgpack", kinds=PICTURE)
    text = str(report)
    body = text.splitlines()[1:]
    assert max(map(len, body)) <= 80
    assert "to be set" in text
    assert "Not in the target:" in text
    records = json.loads(json.dumps(report.to_dict(), allow_nan=False))
    assert records["frameworks"] == ["torch", "flax"]
    assert records["rows"][0]["shapes"]["kernel"] == [3, 3, 3, 4]


def test_it_is_the_public_verb():
    assert evenkeel.convert is convert


def test_files_of_two_frameworks_are_compared_value_by_value(source, tmp_path):
    convert(source, tmp_path / "b.msgpack", kinds=PICTURE)
    report = compare_files(source, tmp_path / "b.msgpack", kinds=PICTURE)
    assert report.equal
    assert {row.verdict for row in report.rows} == {"equal", "not stored"}
    state = network().state_dict()
    state["1.running_var"][2] += 0.5
    torch.save(state, tmp_path / "c.pt")
    for other in (source, tmp_path / "b.msgpack"):
        report = compare_files(tmp_path / "c.pt", other, kinds=PICTURE)
        (row,) = [row for row in report.rows if row.verdict == "differs"]
        assert not report.equal
        assert row.detail.startswith("largest difference 0.5 beside")
        assert "0.5" in str(report)
        assert max(map(len, str(report).splitlines()[2:])) <= 80


def test_arrays_that_one_file_lacks_are_named(source, tmp_path):
    state = network().state_dict()
    del state["4.bias"]
    state["4.weight"] = torch.ones(3, 144)
    torch.save(state | {"more": torch.ones(1)}, tmp_path / "c.pt")
    report = compare_files(source, tmp_path / "c.pt")
    found = {(row.a, row.b): row.verdict for row in report.rows if row.verdict != "equal"}
    assert found.pop(("1", "1")) == "not stored"
    assert found == {
        ("4.weight", "4.weight"): "shape",
        ("4.bias", ""): "only in a",
        ("", "more"): "only in b",
    }


def test_nan_is_named_where_it_is_in_both_and_differs_elsewhere(tmp_path):
    nan = torch.tensor([1.0, float("nan")])
    save_file({"x": nan}, tmp_path / "a.safetensors")
    save_file({"x": torch.tensor([1.0, 2.0])}, tmp_path / "b.safetensors")
    same = compare_files(tmp_path / "a.safetensors", tmp_path / "a.safetensors")
    assert (same.equal, same.rows[0].detail) == (True, "NaN in both")
    other = compare_files(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert (other.equal, "1 NaN" in other.rows[0].detail) == (False, True)


def test_a_mapping_without_like_is_refused(source, tmp_path):
    assert "no like" in refused(source, tmp_path / "b.msgpack", mapping={"4": "head"})
