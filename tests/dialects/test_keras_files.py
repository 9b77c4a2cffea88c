"""Files that real Keras 3 and real Keras 2 wrote, read and written without either."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evenkeel import checkpoints
from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import layer_state, stored
from evenkeel.dialects.keras import read_network, write_network
from evenkeel.errors import InputError
from evenkeel.spec import Momentum

HERE = Path(__file__).parent / "goldens" / "keras"
STEMS = ("k2_picture", "k2_sequence", "k3_picture", "k3_sequence")
DESCRIBED = [f"{stem}{end}" for stem in STEMS for end in (".keras", ".h5")]
ROLES = {
    "kernel": "kernel",
    "depthwise_kernel": "kernel",
    "pointwise_kernel": "kernel",
    "recurrent_kernel": "recurrent",
    "bias": "bias",
    "embeddings": "embedding",
    "moving_mean": "running_mean",
    "moving_variance": "running_var",
}
NORM = {"gamma": "scale", "beta": "offset"}
BATCH_NORM = {"gamma": "weight", "beta": "bias"}


def network(name):
    return read_network(checkpoints.read(HERE / name))


def layers_of(name):
    return {layer.name: layer for layer in network(name).layers}


def expected(name):
    """Arrays by layer and role, as the framework itself listed them."""
    found = {}
    for key, value in np.load(HERE / f"{name.partition('.')[0]}.npz").items():
        layer, _, weight = key.rpartition("/")
        if layer == "sep":
            layer = "sep/depthwise" if weight == "depthwise_kernel" else "sep/pointwise"
        own = NORM if layer == "ln" else BATCH_NORM
        found.setdefault(layer, {})[(ROLES | own)[weight]] = value
    return found


def test_the_goldens_say_which_frameworks_wrote_them():
    versions = json.loads((HERE / "versions.json").read_text())
    assert versions.keys() == {"keras", "tf_keras"}
    assert versions["keras"].startswith("3.")
    assert versions["tf_keras"].startswith("2.")


@pytest.mark.parametrize("name", DESCRIBED)
def test_every_array_is_read_under_its_own_layer_and_role(name):
    found, wanted = layers_of(name), expected(name)
    assert found.keys() == wanted.keys()
    for layer, roles in wanted.items():
        assert found[layer].arrays.keys() == roles.keys()
        for role, value in roles.items():
            read = found[layer].arrays[role]
            assert read.dtype == "float32"
            assert np.array_equal(read.read().ravel(), value.ravel())
            assert read.read().shape == read.shape
    assert network(name).unread == ()


@pytest.mark.parametrize("name", [name for name in DESCRIBED if "picture" in name])
def test_kinds_and_settings_come_from_the_configuration(name):
    found = layers_of(name)
    assert found["my_conv"].settings == {
        "strides": (1, 1),
        "dilation": (1, 1),
        "padding": "valid",
        "groups": 1,
    }
    assert found["sep/depthwise"].settings["padding"] == "same"
    assert found["sep/depthwise"].shapes == {"kernel": (3, 3, 1, 4)}
    assert found["inner/dw"].settings["groups"] == 2
    assert found["inner/dw"].shapes["kernel"] == (3, 3, 1, 4)
    assert found["head"].settings == {"flattened": (2, 2, 4)}


@pytest.mark.parametrize("name", [name for name in DESCRIBED if "picture" in name])
def test_batch_norm_means_what_its_framework_means(name):
    found = layers_of(name)
    fused = "unbiased" if name.startswith("k2") else "biased"
    spec = found["my_bn"].spec
    assert (spec.eps, spec.momentum, spec.rank) == (1e-5, Momentum(0.9, "old"), 4)
    assert spec.axis % 4 == 3
    assert spec.variance == fused
    assert not found["my_bn"].assumed
    # Keras 2 runs the fused operation, which stores n / (n - 1), on rank 4 only.
    assert found["last"].spec.variance == "biased"
    assert found["last"].spec.rank == 2
    assert (found["batch_normalization"].spec.scale, spec.scale) == (False, True)
    frozen = found["inner/frozen_bn"]
    assert frozen.spec.statistics_frozen
    assert frozen.spec.affine_frozen
    assert not frozen.trainable
    assert layer_state(found["my_bn"]).check(spec).running_var is not None


@pytest.mark.parametrize("name", [name for name in DESCRIBED if "sequence" in name])
def test_recurrent_layers(name):
    found = layers_of(name)
    assert [layer.kind for layer in found.values()] == [
        "embedding",
        "lstm",
        "lstm",
        "gru",
        "layer_norm",
    ]
    assert found["gru"].settings == {"reset_after": True}
    assert found["ln"].settings == {"eps": 1e-3}


def test_a_file_of_weights_alone_has_keras_3s_names_and_assumes_settings():
    checkpoint = checkpoints.read(HERE / "k3_picture.weights.h5")
    network = read_network(checkpoint)
    found, wanted = {layer.name: layer for layer in network.layers}, expected("k3_picture")
    assert found.keys() == wanted.keys()
    assert {"eps", "momentum", "variance"} <= {*found["my_bn"].assumed}
    assert any("Keras's defaults" in remark for remark in network.remarks)
    assert "strides" not in found["my_conv"].settings
    for layer in found.values():
        if layer.kind != "other":
            for role, array in layer.arrays.items():
                assert np.array_equal(array.read().ravel(), wanted[layer.name][role].ravel())
    # Three arrays: gamma or beta is missing, and nothing says which one.
    assert found["batch_normalization"].kind == "other"


def test_kinds_that_only_the_caller_knows():
    checkpoint = checkpoints.read(HERE / "k2_picture.weights.h5")
    arrays = {
        name.replace("layers/conv2d/", "mine/"): array
        for name, array in checkpoint.arrays.items()
        if "/conv2d/" in name
    }
    unnamed = replace(checkpoint, arrays=arrays)
    (layer,) = read_network(unnamed).layers
    assert (layer.kind, layer.settings["could_be"]) == ("other", ("conv", "conv_transpose"))
    (layer,) = read_network(unnamed, kinds={"mine": "conv"}).layers
    assert (layer.kind, layer.shapes) == ("conv", {"kernel": (3, 3, 3, 4), "bias": (4,)})


@pytest.mark.parametrize("name", [*DESCRIBED, "k3_picture.weights.h5", "k2_picture.weights.h5"])
def test_what_was_read_is_written_under_the_same_names(name):
    checkpoint = checkpoints.read(HERE / name)
    network = read_network(checkpoint)
    doubled = [
        replace(
            layer, arrays={role: stored(2 * array.read()) for role, array in layer.arrays.items()}
        )
        for layer in network.layers
    ]
    written = write_network(doubled, like=checkpoint)
    assert {*written} == {*checkpoint.arrays} - {*network.unread}
    for place, array in written.items():
        assert array.shape == checkpoint.arrays[place].shape
        assert np.array_equal(array.read(), 2 * checkpoint.arrays[place].read())


def test_values_are_fetched_only_when_they_are_asked_for():
    checkpoint = checkpoints.read(HERE / "k3_picture.keras")

    def never():
        raise AssertionError("a value was read")

    lazy = {n: StoredArray(a.shape, a.dtype, never) for n, a in checkpoint.arrays.items()}
    network = read_network(replace(checkpoint, arrays=lazy))
    assert write_network(network.layers, like=checkpoint).keys() == checkpoint.arrays.keys()


@pytest.mark.parametrize("fault", ["layer", "role", "shape", "like"])
def test_a_target_that_does_not_fit_is_refused(fault):
    like = checkpoints.read(HERE / "k3_picture.keras")
    layer = layers_of("k3_picture.keras")["my_bn"]
    if fault == "layer":
        layer = replace(layer, name="nowhere")
    elif fault == "role":
        layer = replace(layer, arrays={"alpha": layer.arrays["weight"]})
    elif fault == "shape":
        layer = replace(layer, arrays={"weight": stored(np.ones(9, np.float32))})
    with pytest.raises(InputError, match="write a network for Keras"):
        write_network([layer], like=None if fault == "like" else like)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda layer: layer.pop("class_name"),
        lambda layer: layer["config"].update(kernel_size=None),
        lambda layer: layer["config"].update(strides="x"),
        lambda layer: layer.update(config=[1]),
        lambda layer: layer["config"].update(dilation_rate={}),
    ],
)
def test_a_configuration_of_another_form_is_refused_or_leaves_the_arrays(spoil):
    checkpoint = checkpoints.read(HERE / "k3_picture.keras")
    config = copy.deepcopy(dict(checkpoint.config))
    spoil(config["model"]["config"]["layers"][1])
    try:
        found = read_network(replace(checkpoint, config=config))
    except InputError:
        return
    conv = [layer for layer in found.layers if layer.shapes.get("kernel") == (3, 3, 3, 4)]
    assert all(layer.kind in {"conv", "other"} for layer in conv)
