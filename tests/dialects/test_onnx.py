"""The operator BatchNormalization as Spec and State."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given
from onnx import TensorProto, helper, numpy_helper

from evenkeel.dialects import onnx as dialect
from evenkeel.errors import InputError, UnsayableError
from evenkeel.spec import Activation, Momentum, Renorm, Spec, State

from ._specs import pairs

PLAIN = Spec(3, eps=2**-10, momentum=Momentum(0.875, "old"), variance="biased")
ROLES = ("scale", "B", "mean", "var")
EPS, MOMENTUM = float(np.float32(1e-5)), float(np.float32(0.9))


def state(spec: Spec = PLAIN) -> State:
    values = np.array([0.5, 1.5, 2.5], np.float32)
    return replace(
        State.initial(spec),
        weight=values,
        bias=values + 1,
        running_mean=values + 2,
        running_var=values + 3,
        batches=None,
    )


def node_model(opset, outputs=("y",), arrays=ROLES, extra=(), **attributes) -> onnx.ModelProto:
    """A model as other tools write it."""
    node = helper.make_node("BatchNormalization", ["x", *arrays], list(outputs), "n", **attributes)
    held = [numpy_helper.from_array(np.full(3, i + 1, "f4"), n) for i, n in enumerate(ROLES)]
    shape = ["N", 3, 2, 2]
    graph = helper.make_graph(
        [*extra, node],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
        held,
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_every_opset_is_read(opset):
    spec, arrays = dialect.read_module(node_model(opset, epsilon=0.5, momentum=0.75))
    assert (spec.eps, spec.momentum, spec.variance) == (0.5, Momentum(0.75, "old"), "biased")
    assert (spec.name, spec.channels, spec.axis, spec.options) == ("n", 3, 1, {})
    assert [arrays.weight[0], arrays.bias[0], arrays.running_mean[0], arrays.running_var[0]] == [
        1,
        2,
        3,
        4,
    ]


def test_defaults_are_the_operators_own_float32_numbers():
    spec, _ = dialect.read_module(node_model(15))
    assert (spec.eps, spec.momentum.value) == (9.999999747378752e-06, 0.8999999761581421)


@pytest.mark.parametrize("opset", [7, 9, 14, 15])
def test_what_is_written_runs_and_reads_back(opset):
    model = dialect.build_module(PLAIN, state(), opset)
    onnx.checker.check_model(model, full_check=True)
    spec, arrays = dialect.read_module(model)
    assert spec == replace(PLAIN, name="bn")
    assert arrays.identical(state())
    x = np.random.default_rng(0).normal(size=(2, 3, 4, 5)).astype(np.float32)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    held = {name: array[:, None, None] for name, array in state().arrays().items()}
    expected = (x - held["running_mean"]) / np.sqrt(held["running_var"] + PLAIN.eps)
    np.testing.assert_allclose(y, expected * held["weight"] + held["bias"], rtol=1e-5, atol=1e-5)


@given(pairs())
def test_what_is_built_reads_as_what_was_written_or_is_named(pair):
    spec, arrays = pair
    found = dialect.unsayable(spec, arrays)
    if refused := [item.field for item in found if item.effect != "none"]:
        with pytest.raises(UnsayableError) as caught:
            dialect.build_module(spec, arrays)
        assert all(field in str(caught.value) for field in refused)
        return
    again, there = dialect.read_module(dialect.build_module(spec, arrays), spec.name)
    lost = {item.field for item in found}
    differing = {f for f in spec.to_dict() if getattr(again, f) != getattr(spec, f)}
    assert differing <= lost | {"momentum"}
    if "momentum" not in lost:
        assert again.momentum == spec.momentum.as_weighing("old")
    assert there.identical(replace(arrays, batches=None))


@pytest.mark.parametrize(
    ("value", "dtype", "effect"),
    [
        (1e-5, "float32", "none"),
        (1e-5, "float64", "inference"),
        (1e-50, "float32", "inference"),
        (2**-10, "float64", None),
        (0.0, "float32", None),
    ],
)
def test_the_float32_attribute_is_a_named_and_quantified_loss(value, dtype, effect):
    spec = replace(PLAIN, eps=value, parameter_dtype=dtype, statistics_dtype=dtype)
    found = [item for item in dialect.unsayable(spec) if item.field == "eps"]
    assert [item.effect for item in found] == ([] if effect is None else [effect])
    if value == 1e-5:
        assert "9.999999747378752e-06, a change of 2.5e-08" in found[0].why


def test_the_change_of_a_named_loss_is_below_the_rounding_of_float32():
    spec = replace(PLAIN, eps=1e-5)
    arrays = replace(state(), running_var=np.zeros(3, "f4"))  # where eps counts the most
    model = dialect.build_module(spec, arrays)
    x = np.linspace(-1, 1, 12, dtype=np.float32).reshape(1, 3, 2, 2)
    (y,) = ort.InferenceSession(model.SerializeToString()).run(None, {"x": x})
    shift = arrays.running_mean[:, None, None].astype(float)
    exact = (x - shift) / np.sqrt(1e-5) * arrays.weight[:, None, None] + arrays.bias[:, None, None]
    # Four roundings of float32, beside half of one for the root of the changed eps.
    np.testing.assert_allclose(y, exact, rtol=5 * 2**-24 * 4)


@pytest.mark.parametrize(
    ("changes", "field", "effect"),
    [
        ({"axis": -1}, "axis", "inference"),
        ({"activation": Activation("relu")}, "activation", "inference"),
        ({"track_statistics": False}, "track_statistics", "inference"),
        ({"scale": False}, "scale", "training"),
        ({"offset": False}, "offset", "training"),
        ({"variance": "unbiased"}, "variance", "training"),
        ({"momentum": Momentum.cumulative()}, "momentum", "training"),
        ({"average": "debiased"}, "average", "training"),
        ({"renorm": Renorm(Momentum(0.9, "old"))}, "renorm", "training"),
        ({"masked": True}, "masked", "training"),
        ({"affine_frozen": True}, "affine_frozen", "training"),
        ({"statistics_frozen": True}, "statistics_frozen", "training"),
        ({"synchronized": True}, "synchronized", "training"),
        ({"rank": 4}, "rank", "none"),
        ({"options": {"gamma_regularizer": "l2"}}, "options['gamma_regularizer']", "training"),
    ],
)
def test_every_field_that_a_node_cannot_say_is_named(changes, field, effect):
    spec = replace(PLAIN, **changes)
    found = {item.field: item for item in dialect.unsayable(spec)}
    assert found[field].effect == effect
    fresh = replace(State.initial(spec), batches=None)
    if effect == "none":
        dialect.build_module(spec, fresh)
    else:
        with pytest.raises(UnsayableError):
            dialect.build_module(spec, fresh)
    if effect == "training":
        model = dialect.build_module(spec, fresh, inference_only=True)
        onnx.checker.check_model(model, full_check=True)


def test_old_opsets_have_one_dtype():
    spec = replace(PLAIN, parameter_dtype="float16")
    assert not [i for i in dialect.unsayable(spec, opset=15) if "dtype" in i.field]
    assert [i for i in dialect.unsayable(spec, opset=9) if i.field == "statistics_dtype"]


def test_shared_initializers_are_resolved():
    extra = [
        helper.make_node("Identity", ["scale"], ["m1"]),
        helper.make_node("Identity", ["m1"], ["m2"]),
    ]
    model = node_model(15, arrays=("scale", "B", "m2", "m1"), extra=extra)
    _, arrays = dialect.read_module(model)
    assert arrays.running_mean.tolist() == arrays.running_var.tolist() == [1, 1, 1]


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (node_model(15, arrays=("scale", "B", "mean", "gone")), "var = 'gone'"),
        (node_model(15, arrays=("scale", "x", "mean", "var")), "B = 'x'"),
        (node_model(7, spatial=0), "spatial=0"),
        (node_model(6), "version_converter"),
        (node_model(15, arrays=("scale", "B", "mean")), "no var"),
    ],
)
def test_what_cannot_be_read_is_named(model, why):
    with pytest.raises(InputError, match=why):
        dialect.read_module(model)


@pytest.mark.parametrize(
    ("opset", "outputs", "attributes"),
    [
        (15, ("y", "m", "v"), {"training_mode": 1}),
        (9, ("y", "m", "v", "s", "t"), {}),
    ],
)
def test_training_mode_is_told(opset, outputs, attributes):
    spec, _ = dialect.read_module(node_model(opset, outputs, **attributes))
    assert spec.options == {"training_mode": 1}


def test_one_node_is_read_at_a_time():
    with pytest.raises(InputError, match="exactly one"):
        dialect.read_module(node_model(15), "other")
    assert dialect.read_module(node_model(15), "y")[0].name == "y"


def test_nodes_of_other_domains_are_no_batch_norm():
    node = node_model(15).graph.node[0]
    assert dialect.is_batch_norm(node)
    node.domain = "com.example"
    assert not dialect.is_batch_norm(node)
