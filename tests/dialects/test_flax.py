"""Flax's batch-norm layers, NNX and Linen, as Spec and State and back."""

from __future__ import annotations

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen, nnx
from hypothesis import given, settings

from evenkeel.dialects import flax as dialect
from evenkeel.errors import DTypeError, InputError, UnsayableError
from evenkeel.integrations.flax import BatchNorm
from evenkeel.spec import Activation, Momentum, Renorm, Spec, State

from ._specs import pairs

PLAIN = Spec(3, momentum=Momentum(0.9, "old"), variance="biased", axis=-1)
KINDS = [nnx.BatchNorm, linen.BatchNorm, BatchNorm]


def some_state(spec: Spec) -> State:
    """Numbers that differ from each other and from any default."""
    numbers = np.arange(1, 1 + spec.channels, dtype=np.float32)
    return State(
        numbers + 0.5 if spec.scale else None,
        -numbers if spec.offset else None,
        numbers / 4,
        numbers * 3,
    )


def nnx_layer(**settings) -> nnx.BatchNorm:
    return nnx.BatchNorm(3, **settings, rngs=nnx.Rngs(0))


def linen_layer(**settings):
    module = linen.BatchNorm(**settings)
    running = {} if module.use_running_average is not None else {"use_running_average": True}
    return module, module.init(jax.random.key(0), jnp.ones((2, 3)), **running)


LAYERS = pytest.mark.parametrize("layer", [nnx_layer, linen_layer], ids=["nnx", "linen"])


@LAYERS
@pytest.mark.parametrize(
    ("settings", "changes"),
    [
        ({}, {"momentum": Momentum(0.99, "old")}),
        ({"momentum": 0.9, "epsilon": 1e-3}, {"eps": 1e-3}),
        ({"momentum": 0.9, "use_scale": False}, {"scale": False}),
        ({"momentum": 0.9, "use_bias": False}, {"offset": False}),
        ({"momentum": 0.9, "axis": 1}, {"axis": 1}),
        ({"momentum": 0.9, "param_dtype": jnp.bfloat16}, {"parameter_dtype": "bfloat16"}),
        ({"momentum": 0.9, "axis_name": "batch"}, {"synchronized": True}),
    ],
)
def test_settings_are_read(layer, settings, changes):
    spec, state = dialect.read_module(layer(**settings), "layer")
    wanted = replace(PLAIN, name="layer", options=spec.options, **changes)
    assert spec == wanted
    assert state == replace(State.initial(wanted), batches=None)


@LAYERS
def test_options_are_read_by_name(layer):
    names = {"axis_name": "batch", "axis_index_groups": [[0, 1]], "use_fast_variance": False}
    spec, _ = dialect.read_module(layer(**names, dtype=jnp.bfloat16), "layer")
    assert spec.options.items() >= {**names, "dtype": "bfloat16"}.items()


def test_initializers_of_linen_are_named_by_what_they_are():
    init = jax.nn.initializers
    for function, name in [
        (init.zeros, "zeros"),
        (init.ones, "ones"),
        (init.constant(0.5), "constant(0.5)"),
        (init.constant(0.25), "constant(0.25)"),
    ]:
        spec, _ = dialect.read_module(linen_layer(scale_init=function))
        assert spec.options["scale_init"] == name
        module, _ = dialect.build_module(spec, State.initial(spec), linen.BatchNorm)
        again = module.init(jax.random.key(0), jnp.ones((2, 3)), use_running_average=True)
        drawn = function(jax.random.key(0), (3,), jnp.float32)
        np.testing.assert_array_equal(again["params"]["scale"], drawn)


def test_an_initializer_that_is_not_rebuilt_is_named():
    spec, state = dialect.read_module(linen_layer(scale_init=jax.nn.initializers.normal(0.5)))
    name = spec.options["scale_init"]
    assert "normal" in name
    assert "0.5" in name
    (lost,) = dialect.unsayable(spec, state, linen.BatchNorm)
    assert (lost.field, lost.effect) == ("options.scale_init", "none")


@LAYERS
def test_what_is_no_such_layer_is_refused(layer):
    other = nnx.LayerNorm(3, rngs=nnx.Rngs(0)) if layer is nnx_layer else (linen.LayerNorm(), {})
    assert not dialect.is_batch_norm(other)
    with pytest.raises(InputError, match="no batch-norm layer"):
        dialect.read_module(other)


def test_features_on_several_axes_are_refused():
    statistics = {"mean": np.zeros(3, "f4"), "var": np.ones(3, "f4")}
    for layer in (
        nnx_layer(axis=(1, 2)),
        (linen.BatchNorm(axis=(1, 2)), {"batch_stats": statistics}),
    ):
        with pytest.raises(InputError, match=r"on the axes \(1, 2\)"):
            dialect.read_module(layer)


def test_a_linen_layer_without_its_variables_is_refused():
    with pytest.raises(InputError, match="variables"):
        dialect.read_module(linen.BatchNorm())
    with pytest.raises(InputError, match="without mean and var"):
        dialect.read_module((linen.BatchNorm(), {"params": {"scale": np.ones(3, "f4")}}))


def test_a_subclass_is_read_and_named():
    class Louder(nnx.BatchNorm):
        def __call__(self, x, use_running_average=None, *, mask=None):
            return 2 * super().__call__(x, use_running_average, mask=mask)

    spec, _ = dialect.read_module(Louder(3, rngs=nnx.Rngs(0)))
    assert spec.options["class"].endswith("Louder")
    assert [item.effect for item in dialect.unsayable(spec)] == ["training"]


def test_frozen_parameters_are_no_param_in_nnx():
    spec = replace(PLAIN, affine_frozen=True)
    layer = dialect.build_module(spec, some_state(spec))
    gradients = nnx.grad(lambda layer, x: layer(x).sum())(layer, jnp.ones((2, 3)))
    assert not jax.tree.leaves(gradients)
    assert dialect.read_module(layer)[0].affine_frozen


def test_the_mode_of_an_nnx_layer_is_an_option_and_that_of_a_linen_layer_a_fact():
    assert dialect.read_module(nnx_layer(use_running_average=True))[0].options[
        "use_running_average"
    ]
    spec, _ = dialect.read_module(linen_layer(use_running_average=True))
    assert spec.statistics_frozen


@settings(max_examples=150)
@given(pair=pairs())
@pytest.mark.parametrize("kind", KINDS, ids=["nnx", "linen", "evenkeel"])
def test_what_is_built_reads_as_what_was_written_or_is_named(kind, pair):
    spec, state = pair
    found = dialect.unsayable(spec, state, kind)
    if any(item.effect != "none" for item in found):
        with pytest.raises(UnsayableError) as caught:
            dialect.build_module(spec, state, kind)
        named = [item.field for item in found if item.effect != "none"]
        assert all(field in str(caught.value) for field in named)
        return
    again, there = dialect.read_module(dialect.build_module(spec, state, kind), spec.name)
    lost = {item.field for item in found}
    differ = {field for field in spec.to_dict() if getattr(again, field) != getattr(spec, field)}
    assert differ <= lost | {"momentum", "options"}
    assert again.momentum == spec.momentum.as_weighing("old")
    assert again.options["use_fast_variance"] is False
    batches = None if "batches" in lost or kind is not BatchNorm else (state.batches or 0)
    assert there.identical(replace(state, batches=batches))


@pytest.mark.parametrize("kind", KINDS, ids=["nnx", "linen", "evenkeel"])
def test_flax_to_flax_is_the_identity(kind):
    spec = replace(PLAIN, options={"use_fast_variance": True, "dtype": "float32"})
    state = some_state(spec)
    layer = dialect.build_module(spec, state, kind)
    first = dialect.read_module(layer, "a")
    second = dialect.read_module(dialect.build_module(*first, kind), "a")
    assert second[0] == first[0]
    assert second[1].identical(first[1])


@pytest.mark.parametrize(
    ("changes", "field", "effect"),
    [
        ({"variance": "unbiased"}, "variance", "training"),
        ({"momentum": Momentum.cumulative()}, "momentum", "training"),
        ({"track_statistics": False}, "track_statistics", "inference"),
        ({"activation": Activation("relu")}, "activation", "inference"),
        ({"average": "debiased"}, "average", "training"),
        ({"renorm": Renorm(Momentum(0.99, "old"))}, "renorm", "training"),
        ({"masked": True}, "masked", "training"),
        ({"synchronized": True}, "synchronized", "training"),
        ({"statistics_frozen": True}, "statistics_frozen", "training"),
        ({"statistics_dtype": "float16"}, "statistics_dtype", "training"),
        ({"parameter_dtype": "float64"}, "parameter_dtype", "inference"),
        ({"rank": 4}, "rank", "none"),
        ({"options": {"gamma_initializer": "Ones"}}, "options.gamma_initializer", "none"),
        ({"options": {"gamma_regularizer": "L2"}}, "options.gamma_regularizer", "training"),
        ({"options": {"track_running_stats": False}}, "options.track_running_stats", "training"),
    ],
)
def test_what_nnx_cannot_say_is_named_with_its_effect(changes, field, effect):
    (item,) = dialect.unsayable(replace(PLAIN, **changes), kind=nnx.BatchNorm)
    assert (item.field, item.effect) == (field, effect)
    assert item.why
    assert item.do


def test_linen_cannot_freeze_parameters_but_statistics():
    spec = replace(PLAIN, affine_frozen=True, statistics_frozen=True)
    (item,) = dialect.unsayable(spec, kind=linen.BatchNorm)
    assert item.field == "affine_frozen"


def test_for_inference_alone_fields_of_training_may_be_lost():
    spec = replace(PLAIN, variance="unbiased", momentum=Momentum.cumulative())
    state = some_state(spec)
    layer = dialect.build_module(spec, state, nnx.BatchNorm, inference_only=True)
    assert dialect.read_module(layer)[1].identical(state)
    relu = replace(spec, activation=Activation("relu"))
    with pytest.raises(UnsayableError, match="activation"):
        dialect.build_module(relu, state, nnx.BatchNorm, inference_only=True)


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, nnx.BatchNorm),
        ({"variance": "unbiased"}, BatchNorm),
        ({"momentum": Momentum.cumulative()}, BatchNorm),
        ({"statistics_frozen": True}, BatchNorm),
    ],
)
def test_the_plainest_class_is_chosen(changes, kind):
    spec = replace(PLAIN, **changes)
    assert type(dialect.build_module(spec, some_state(spec))) is kind


def test_values_that_the_named_type_cannot_hold_are_refused():
    spec = replace(PLAIN, parameter_dtype="bfloat16")
    state = replace(some_state(spec), weight=np.array([1, 1 / 3, 2], "f4"))
    with pytest.raises(DTypeError, match="weight"):
        dialect.build_module(spec, state)


def test_a_layer_without_statistics_that_fit_is_refused():
    with pytest.raises(InputError, match="not as described"):
        dialect.build_module(PLAIN, State(running_mean=np.zeros(3), running_var=np.ones(3)))


@pytest.mark.parametrize("kind", KINDS, ids=["nnx", "linen", "evenkeel"])
def test_a_built_layer_computes_what_the_description_says(kind):
    spec = replace(PLAIN, eps=0.5, momentum=Momentum(0.25, "new"))
    state = replace(some_state(spec), running_var=np.array([0.5, 3.5, 0.5], "f4"))
    layer = dialect.build_module(spec, state, kind)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    root = np.array([1, 2, 1])
    expected = (x - state.running_mean) / root * state.weight + state.bias
    if kind is linen.BatchNorm:
        module, variables = layer
        output = module.apply(variables, x, use_running_average=True)
        _, updated = module.apply(variables, x, use_running_average=False, mutable=["batch_stats"])
        var = updated["batch_stats"]["var"]
    else:
        output = layer(x, use_running_average=True)
        layer(x, use_running_average=False)
        var = layer.var[...]
    np.testing.assert_allclose(output, expected, rtol=1e-6, atol=1e-6)
    wanted = 0.75 * state.running_var + 0.25 * x.astype(np.float64).var((0, 1))
    np.testing.assert_allclose(var, wanted, rtol=1e-6)


def test_float64_is_kept_where_jax_is_switched_to_it():
    spec = replace(PLAIN, statistics_dtype="float64", parameter_dtype="float64")
    third = np.full(3, 1 / 3)
    state = State(third, third, third, third)
    with jax.enable_x64(True):
        layer = dialect.build_module(spec, state)
        again, there = dialect.read_module(layer)
    assert there.identical(state)
    assert again.statistics_dtype == again.parameter_dtype == "float64"
