"""Torch layers built from Spec and State, and what they cannot say."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from torch import nn

from evenkeel import nn as ours
from evenkeel.dialects import torch as dialect
from evenkeel.errors import InputError, UnsayableError
from evenkeel.spec import Activation, Momentum, Renorm, Spec, State

from ._specs import pairs

PLAIN = Spec(3, rank=4)


def built(spec: Spec, **arrays: np.ndarray) -> nn.Module:
    return dialect.build_module(spec, replace(State.initial(spec), **arrays))


@pytest.mark.parametrize(
    ("changes", "kind"),
    [
        ({}, nn.BatchNorm2d),
        ({"rank": 5}, nn.BatchNorm3d),
        ({"rank": 3}, nn.BatchNorm1d),
        ({"rank": 2}, nn.BatchNorm1d),
        ({"rank": None}, nn.BatchNorm1d),
        ({"synchronized": True}, nn.SyncBatchNorm),
        ({"variance": "biased"}, ours.BatchNorm2d),
        ({"parameter_dtype": "bfloat16"}, ours.BatchNorm2d),
        ({"options": {"nonfinite": "skip"}}, ours.BatchNorm2d),
        ({"activation": Activation("relu")}, ours.BatchNormAct2d),
        ({"affine_frozen": True}, nn.BatchNorm2d),
        ({"affine_frozen": True, "statistics_frozen": True}, ours.FrozenBatchNorm),
        ({"scale": False, "offset": False, "statistics_frozen": True}, ours.FrozenBatchNorm),
    ],
)
def test_the_plainest_class_is_chosen(changes, kind):
    assert type(built(replace(PLAIN, **changes))) is kind


@given(pairs())
def test_what_is_built_reads_as_what_was_written_or_is_named(pair):
    spec, state = pair
    found = dialect.unsayable(spec, state)
    if any(item.effect != "none" for item in found):
        with pytest.raises(UnsayableError) as caught:
            dialect.build_module(spec, state)
        named = [item.field for item in found if item.effect != "none"]
        assert all(field in str(caught.value) for field in named)
        return
    again, there = dialect.read_module(dialect.build_module(spec, state), spec.name)
    assert {field for field in spec.to_dict() if getattr(again, field) != getattr(spec, field)} <= {
        *(item.field for item in found),
        "momentum",
    }
    assert again.momentum == spec.momentum.as_weighing("new")
    lost = {item.field for item in found}
    batches = 0 if "batches" in lost and spec.track_statistics else None
    wanted = replace(state, batches=batches) if "batches" in lost else state
    assert there.identical(wanted)


def test_a_built_layer_computes_what_the_description_says():
    spec = Spec(2, eps=0.5, momentum=Momentum(0.75, "old"), variance="biased", rank=4)
    layer = built(spec, weight=np.array([2, 3], "f4"), running_var=np.array([0.5, 3.5], "f4"))
    x = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0))
    expected = x * torch.tensor([2.0, 1.5])[:, None, None]  # root of 0.5 + 0.5, of 3.5 + 0.5
    torch.testing.assert_close(layer.eval()(x), expected, rtol=1e-6, atol=1e-6)
    layer.train()(x)
    var = 0.75 * np.array([0.5, 3.5]) + 0.25 * x.numpy().var((0, 2, 3))
    np.testing.assert_allclose(layer.running_var.numpy(), var, rtol=1e-6)


@pytest.mark.parametrize(
    ("changes", "field", "effect"),
    [
        ({"axis": -1}, "axis", "inference"),
        ({"axis": -3}, "axis", "none"),
        ({"rank": 6}, "rank", "inference"),
        ({"rank": 2}, "rank", "none"),
        ({"eps": 0.0}, "eps", "training"),
        ({"momentum": Momentum(1e-20, "old")}, "momentum", "training"),
        ({"average": "debiased"}, "average", "training"),
        ({"renorm": Renorm(Momentum(0.9, "old"))}, "renorm", "training"),
        ({"masked": True}, "masked", "training"),
        ({"statistics_frozen": True}, "statistics_frozen", "training"),
        ({"synchronized": True, "variance": "biased"}, "variance", "training"),
        ({"synchronized": True, "activation": Activation("relu")}, "activation", "inference"),
        ({"statistics_dtype": "float64"}, "statistics_dtype", "inference"),
        ({"variance": "biased", "statistics_dtype": "float16"}, "statistics_dtype", "training"),
        ({"options": {"beta_regularizer": "l2"}}, "options['beta_regularizer']", "training"),
        ({"options": {"beta_initializer": "he"}}, "options['beta_initializer']", "none"),
        ({"options": {"class": "a.B"}}, "options['class']", "inference"),
    ],
)
def test_every_field_that_torch_cannot_say_is_named(changes, field, effect):
    spec = replace(PLAIN, **changes)
    found = {item.field: item for item in dialect.unsayable(spec)}
    assert found[field].effect == effect
    assert found[field].why
    assert found[field].do
    if effect == "none":
        built(spec)
        return
    with pytest.raises(UnsayableError, match=field.partition("[")[0]):
        built(spec)
    if effect == "training":
        kept = replace(State.initial(spec))
        dialect.build_module(spec, kept, inference_only=True)


@pytest.mark.parametrize(
    ("changes", "kind", "field"),
    [
        ({"variance": "biased"}, nn.BatchNorm2d, "variance"),
        ({}, nn.BatchNorm3d, "rank"),
        ({"activation": Activation("relu")}, ours.BatchNorm2d, "activation"),
        ({}, nn.SyncBatchNorm, "synchronized"),
        ({}, ours.FrozenBatchNorm, "statistics_frozen"),
        ({"options": {"nonfinite": "raise"}}, nn.BatchNorm2d, "nonfinite"),
    ],
)
def test_a_class_that_cannot_say_it_is_refused(changes, kind, field):
    spec = replace(PLAIN, **changes)
    with pytest.raises(UnsayableError, match=field):
        dialect.build_module(spec, State.initial(spec), kind)


def test_values_that_a_dtype_cannot_hold_are_refused():
    spec = replace(PLAIN, parameter_dtype="bfloat16")
    state = replace(State.initial(spec), weight=np.array([1, 2, 1 + 2**-12], "f4"))
    with pytest.raises(UnsayableError, match="bfloat16 values"):
        dialect.build_module(spec, state)


def test_arrays_of_another_layer_are_refused():
    with pytest.raises(InputError, match="not as described"):
        dialect.build_module(replace(PLAIN, scale=False), State.initial(PLAIN))


def test_a_cumulative_average_needs_its_count():
    spec = replace(PLAIN, momentum=Momentum.cumulative())
    with pytest.raises(UnsayableError, match="counts from 0"):
        dialect.build_module(spec, replace(State.initial(spec), batches=None))
    layer = dialect.build_module(spec, replace(State.initial(spec), batches=9))
    layer(torch.ones(2, 3, 2, 2))
    np.testing.assert_allclose(layer.running_mean.numpy(), 0.1, rtol=1e-6)


def test_a_foreign_activation_attribute_is_not_read_as_ours():
    layer = nn.BatchNorm2d(2)
    layer.activation = nn.ReLU()
    assert dialect.read_spec(layer).activation == Activation()
