"""The description: defaults, refusals, and a JSON form that loses nothing."""

from __future__ import annotations

import copy
import json
import pickle
from dataclasses import FrozenInstanceError, fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from evenkeel.errors import InputError
from evenkeel.spec import ACTIVATIONS, Activation, Momentum, Renorm, Spec

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | NUMBERS | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2)
    ),
    max_leaves=5,
)
DTYPES = st.sampled_from(["float16", "bfloat16", "float32", "float64"])
MOMENTA = st.just(Momentum.cumulative()) | st.builds(
    Momentum, NUMBERS, st.sampled_from(["new", "old"])
)
BOUNDS = st.none() | NUMBERS


@st.composite
def specs(draw):
    rank = draw(st.none() | st.integers(2, 6))
    limit = rank or 6
    return Spec(
        channels=draw(st.integers(0, 10**9)),
        eps=draw(st.floats(0, 1e300)),
        momentum=draw(MOMENTA),
        scale=draw(st.booleans()),
        offset=draw(st.booleans()),
        track_statistics=draw(st.booleans()),
        variance=draw(st.sampled_from(["biased", "unbiased"])),
        average=draw(
            st.sampled_from(["plain", "debiased", "debiased_var_from_one", "first_batch_copied"])
        ),
        axis=draw(st.integers(-limit, limit - 1)),
        rank=rank,
        statistics_dtype=draw(DTYPES),
        parameter_dtype=draw(DTYPES),
        affine_frozen=draw(st.booleans()),
        statistics_frozen=draw(st.booleans()),
        activation=draw(st.builds(Activation, st.sampled_from(list(ACTIVATIONS)), NUMBERS)),
        synchronized=draw(st.booleans()),
        masked=draw(st.booleans()),
        renorm=draw(st.none() | st.builds(Renorm, MOMENTA, BOUNDS, BOUNDS, BOUNDS)),
        name=draw(st.text(max_size=8)),
        options=draw(st.dictionaries(st.text(max_size=5), JSON, max_size=3)),
    )


@settings(max_examples=60)
@given(specs())
def test_json_round_trip(spec):
    assert Spec.from_json(spec.to_json()) == spec
    assert Spec.from_dict(spec.to_dict()) == spec


@settings(max_examples=25)
@given(specs())
def test_copies_are_equal_and_hash_alike(spec):
    for twin in (pickle.loads(pickle.dumps(spec)), copy.deepcopy(spec), replace(spec)):
        assert twin == spec
        assert hash(twin) == hash(spec)


OTHER_VALUES = {
    "channels": 4,
    "eps": 1e-3,
    "momentum": Momentum(0.9, "old"),
    "scale": False,
    "offset": False,
    "track_statistics": False,
    "variance": "biased",
    "average": "debiased",
    "axis": -1,
    "rank": 4,
    "statistics_dtype": "float64",
    "parameter_dtype": "bfloat16",
    "affine_frozen": True,
    "statistics_frozen": True,
    "activation": Activation("leaky_relu", 0.2),
    "synchronized": True,
    "masked": True,
    "renorm": Renorm(Momentum(0.99, "old"), 0.5, 3.0, 5.0),
    "name": "bn1",
    "options": {"gamma_regularizer": {"l2": 0.1}},
}


def test_every_field_has_another_value():
    assert OTHER_VALUES.keys() == {f.name for f in fields(Spec)}


@pytest.mark.parametrize("name", OTHER_VALUES)
def test_every_field_counts_and_survives(name):
    base = Spec(3)
    changed = replace(base, **{name: OTHER_VALUES[name]})
    assert changed != base
    assert getattr(Spec.from_json(changed.to_json()), name) == OTHER_VALUES[name]


def test_defaults_are_torchs():
    layer, spec = torch.nn.BatchNorm2d(3), Spec(3)
    assert (spec.eps, spec.momentum.value, spec.momentum.weighs) == (
        layer.eps,
        layer.momentum,
        "new",
    )
    assert (spec.scale, spec.offset, spec.track_statistics) == (True, True, True)
    assert (spec.variance, spec.average, spec.axis) == ("unbiased", "plain", 1)


def test_it_is_frozen_and_its_options_are_a_copy():
    options = {"a": [1]}
    spec = Spec(3, options=options)
    options["a"].append(2)
    assert spec.options == {"a": [1]}
    with pytest.raises(FrozenInstanceError):
        spec.eps = 1.0


@pytest.mark.parametrize(
    "wrong",
    [
        {"channels": -1}, {"channels": 3.0}, {"channels": "3"}, {"channels": True},
        {"eps": -1e-5}, {"eps": float("nan")}, {"eps": float("inf")}, {"eps": "1e-5"},
        {"eps": True}, {"eps": 10**400}, {"momentum": 0.1}, {"momentum": None}, {"scale": 1},
        {"scale": None}, {"variance": "sample"}, {"variance": ["biased"]}, {"average": "ema"},
        {"axis": 1.0}, {"axis": 4, "rank": 4}, {"axis": -5, "rank": 4}, {"rank": True},
        {"statistics_dtype": "int8"}, {"parameter_dtype": "float"}, {"activation": "relu"},
        {"activation": Activation("tanh")}, {"activation": Activation("relu", float("nan"))},
        {"renorm": True}, {"name": None}, {"options": []}, {"options": {"a": float("nan")}},
        {"options": {"a": object}}, {"synchronized": "yes"},
    ],
    ids=lambda v: str(v)[:40],
)  # fmt: skip
def test_impossible_fields_are_refused(wrong):
    with pytest.raises(InputError, match="description of a batch-norm layer"):
        Spec(**({"channels": 3} | wrong))


@pytest.mark.parametrize("bound", ["r_min", "r_max", "d_max"])
def test_impossible_renorm_bounds_are_refused(bound):
    with pytest.raises(InputError, match=bound):
        Renorm(Momentum(0.99, "old"), **{bound: float("nan")})


def edited(**changes):
    return json.dumps(json.loads(Spec(3, renorm=Renorm(Momentum(0.9, "old"))).to_json()) | changes)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[" * 100_000, "not valid JSON"),
        ('{"a": 1, "a": 2}', "twice"),
        ("[]", "without that header"),
        ("null", "without that header"),
        ('{"evenkeel": "state", "version": 1}', "without that header"),
        (edited(version=2), "version 2"),
        (edited(version="1"), "version '1'"),
        (edited(version=True), "version True"),
        (edited(version=None), "version None"),
        (edited(gamma=1), r"unknown keys \['gamma'\]"),
        (json.dumps({"evenkeel": "spec", "version": 1}), "missing keys"),
        (edited(momentum={"value": 0.1}), r"missing keys \['weighs'\]"),
        (edited(momentum={"value": "x", "weighs": "new"}), "weighs"),
        (edited(momentum=0.1), "an object was expected"),
        (edited(momentum=None), "momentum=None"),
        (edited(activation=None), "activation=None"),
        (edited(activation={"name": None, "parameter": 0.0}), "known are identity"),
        (edited(activation={"name": ["relu"], "parameter": 0.0}), "known are identity"),
        (edited(renorm={"momentum": None, "r_min": 0, "r_max": 0, "d_max": 0}), "object"),
        (edited(channels="3"), "channels='3'"),
        (edited(eps=-1), "eps=-1"),
        (edited().replace("1e-05", "NaN"), "NaN is no JSON number"),
        (edited().replace("1e-05", "1e999"), "eps=inf"),
    ],
    ids=lambda v: v[:40],
)
def test_damaged_json_is_refused(text, message):
    with pytest.raises(InputError, match=message):
        Spec.from_json(text)


def test_the_unedited_text_is_accepted():
    assert Spec.from_json(edited()).renorm == Renorm(Momentum(0.9, "old"))


def test_the_written_form_of_version_1_stays_readable():
    text = """{"evenkeel": "spec", "version": 1, "channels": 8, "eps": 0.001,
        "momentum": {"value": 0.99, "weighs": "old"}, "scale": true, "offset": false,
        "track_statistics": true, "variance": "biased", "average": "plain", "axis": -1,
        "rank": 4, "statistics_dtype": "float32", "parameter_dtype": "float32",
        "affine_frozen": false, "statistics_frozen": false,
        "activation": {"name": "relu", "parameter": 0.0}, "synchronized": false,
        "masked": false, "renorm": null, "name": "bn", "options": {"beta_constraint": null}}"""
    assert Spec.from_json(text) == Spec(
        8, 1e-3, Momentum(0.99, "old"), offset=False, variance="biased", axis=-1, rank=4,
        activation=Activation("relu"), name="bn", options={"beta_constraint": None},
    )  # fmt: skip
