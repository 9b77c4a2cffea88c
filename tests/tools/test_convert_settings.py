"""Settings of batch norm on their way: compared in one convention, listed, or refused."""

from __future__ import annotations

from dataclasses import replace

import pytest

from evenkeel.dialects._layers import Layer, state_arrays
from evenkeel.errors import UnsayableError
from evenkeel.spec import Momentum, Spec, State
from evenkeel.tools._convert import _settings as settings

TORCH = Spec(3)
KERAS = Spec(3, eps=1e-3, momentum=Momentum(0.99, "old"), variance="biased", axis=-1)
ALL = ("eps", "momentum", "variance")


def layer(spec: Spec, assumed: tuple[str, ...] = (), name: str = "bn") -> Layer:
    return Layer(name, "batch_norm", state_arrays(State.initial(spec)), {}, spec, assumed)


def left(source: Layer, like: Layer, framework="keras", purpose="training") -> list[str]:
    found = settings.compare_with_like(source, like, "like", framework, purpose)
    return [item.name for item in found]


def test_equal_settings_in_two_conventions_are_equal():
    torch = replace(KERAS, momentum=Momentum(0.01, "new"), axis=1)
    assert left(layer(torch), layer(KERAS)) == []


@pytest.mark.parametrize("purpose", ["training", "inference"])
def test_another_eps_is_always_refused(purpose):
    with pytest.raises(UnsayableError, match=r"got: eps=1e-05 .*\n.*like has eps=0.001"):
        left(layer(replace(KERAS, eps=1e-5)), layer(KERAS), purpose=purpose)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"momentum": Momentum(0.99, "new")}, "momentum"),
        ({"variance": "unbiased"}, "variance"),
        ({"statistics_frozen": True}, "statistics_frozen"),
    ],
)
def test_what_only_training_needs_is_refused_or_listed(change, name):
    source = layer(replace(KERAS, **change))
    with pytest.raises(UnsayableError, match=name):
        left(source, layer(KERAS))
    assert left(source, layer(KERAS), purpose="inference") == [f"bn: {name}"]


def test_what_the_source_does_not_store_is_not_compared():
    assert left(layer(TORCH, ALL), layer(KERAS)) == []
    assert left(layer(TORCH), layer(KERAS, ALL)) == []


def test_numbers_of_onnx_are_compared_in_float32():
    onnx = replace(KERAS, eps=9.999999747378752e-06, momentum=Momentum(0.8999999761581421, "old"))
    source = layer(replace(KERAS, eps=1e-5, momentum=Momentum(0.1, "new")))
    assert left(source, layer(onnx), "onnx") == []
    with pytest.raises(UnsayableError, match="eps"):
        left(source, layer(replace(onnx, eps=1.0001e-5)), "onnx")


@pytest.mark.parametrize(
    ("spec", "framework", "code"),
    [
        (replace(KERAS, rank=4), "torch", "evenkeel.nn.BatchNorm2d(3, eps=0.001, momentum=0.01, "),
        (TORCH, "torch", "torch.nn.BatchNorm*d(3, eps=1e-05, momentum=0.1)"),
        (KERAS, "keras", "keras.layers.BatchNormalization(epsilon=0.001, momentum=0.99)"),
        (TORCH, "keras", "evenkeel.integrations.keras.BatchNormalization(epsilon=1e-05, mom"),
        (KERAS, "flax", "flax.nnx.BatchNorm(3, epsilon=0.001, momentum=0.99)"),
        (replace(KERAS, momentum=Momentum.cumulative()), "flax", "evenkeel.integrations.flax."),
    ],
)
def test_the_code_is_in_the_conventions_of_the_target(spec, framework, code):
    assert settings.code_of(layer(spec), framework).startswith(code)


def test_the_variance_is_named_where_it_is_not_the_frameworks():
    assert settings.code_of(layer(TORCH), "flax").endswith("variance='unbiased')")
    assert settings.code_of(layer(KERAS), "torch").endswith("variance='biased')")


def test_settings_are_listed_where_the_file_does_not_carry_them():
    new = layer(KERAS)
    assert settings.setting_of(new, new, None, "torch", carried=True) is None
    assert settings.setting_of(new, new, layer(KERAS), "keras", carried=False) is None
    found = settings.setting_of(new, new, None, "torch", carried=False)
    assert found is not None
    assert found.values == {"eps": 1e-3, "momentum": 0.01, "variance": "biased"}


def test_settings_that_nobody_stores_are_not_invented():
    new = layer(TORCH, ALL)
    found = settings.setting_of(new, new, None, "flax", carried=False)
    assert (found.code, found.values, found.unknown) == ("", {}, ALL)
    half = layer(KERAS, ("eps", "momentum"))
    found = settings.setting_of(half, half, None, "torch", carried=False)
    assert (found.values, found.unknown) == ({"variance": "biased"}, ("eps", "momentum"))
