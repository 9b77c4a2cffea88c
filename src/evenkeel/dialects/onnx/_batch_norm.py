"""The operator BatchNormalization as Spec and State, and the way back.

Opsets 7, 9, 14 and 15 are understood. ``epsilon`` and ``momentum`` are float32 attributes: the
description gets the float32 number, widened.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.dialects._unsayable import refuse
from evenkeel.dialects.onnx._graph import STANDARD, Graph, Node, graph_of_model, missing_array
from evenkeel.dialects.onnx._unsayable import unsayable
from evenkeel.errors import InputError, explain
from evenkeel.spec import Momentum, Spec, State

if TYPE_CHECKING:
    import onnx

OP: Final = "BatchNormalization"
#: Roles of inputs 1 to 4.
ROLES: Final = ("weight", "bias", "running_mean", "running_var")
_ELEMENTS: Final = {
    "float16": "FLOAT16",
    "bfloat16": "BFLOAT16",
    "float32": "FLOAT",
    "float64": "DOUBLE",
}
_OLDEST: Final = 7
#: Version of the file format since which initializers need not be inputs, too.
_INITIALIZERS_ALONE: Final = 4
#: Since this version the training mode is an attribute; before, it followed from the outputs.
_WITH_MODE: Final = 14


def is_batch_norm(node: onnx.NodeProto | Node) -> bool:
    """Whether the node is the standard operator BatchNormalization."""
    op = node.op if isinstance(node, Node) else node.op_type
    return op == OP and node.domain in STANDARD


def read_module(layer: onnx.ModelProto, name: str = "") -> tuple[Spec, State]:
    """Read one batch-norm node of a model.

    Args:
        layer: the model.
        name: of the node, or of its output; may be empty if there is one such node only.

    Raises:
        InputError: there is no such node, or it cannot be read (an opset before 7,
            ``spatial=0``, a missing initializer).

    Example:
        >>> spec = Spec(3, momentum=Momentum(0.9, "old"), variance="biased")
        >>> read_module(build_module(spec, State.initial(spec)))[0].momentum
        Momentum(value=0.8999999761581421, weighs='old')
    """
    graph = graph_of_model(layer)
    nodes = [node for node in graph.nodes if is_batch_norm(node)]
    chosen = [node for node in nodes if name in (node.name, *node.outputs)] if name else nodes
    if len(chosen) != 1:
        raise InputError(
            explain(
                asked=f"read the batch-norm node {name!r}",
                got=f"{len(chosen)} of {len(nodes)} such nodes in the graph",
                why="exactly one is read",
                do="pass the name of a node or of its output",
            )
        )
    spec = read_spec(graph, chosen[0], name or chosen[0].name)
    weight, bias, mean, var = (graph.arrays[a].read() for a in array_names(graph, chosen[0]))
    return spec, State(weight, bias, mean, var).check(spec)


def build_module(
    spec: Spec,
    state: State,
    opset: int = 15,
    *,
    rank: int = 4,
    inference_only: bool = False,
) -> onnx.ModelProto:
    """A model of one batch-norm node, in inference mode, with input ``x`` and output ``y``.

    Args:
        spec: the description.
        state: the arrays; a missing scale is written as 1, a missing offset as 0.
        opset: 7 to the newest; all dtypes are equal before 14.
        rank: of the model's input, where ``spec`` leaves it open.
        inference_only: whether a node will do that is right in inference only.

    Raises:
        UnsayableError: such a node cannot say it; every field is named.
        InputError: ``state`` is not one of a layer like ``spec``.
    """
    from onnx import TensorProto, helper

    state.check(spec)
    refused = ("inference",) if inference_only else ("inference", "training")
    found = unsayable(spec, state, opset)
    refuse(spec, f"ONNX opset {opset}", [item for item in found if item.effect in refused])
    momentum = spec.momentum.as_weighing("old").value
    attributes: dict[str, Any] = {"epsilon": spec.eps} | (
        {} if momentum is None else {"momentum": momentum}
    )
    name = spec.name or "bn"
    arrays = [f"{name}.{role}" for role in ROLES]
    node = helper.make_node(OP, ["x", *arrays], ["y"], name, **attributes)
    shape = ["N", spec.channels, *(f"S{index}" for index in range((spec.rank or rank) - 2))]
    element = TensorProto.DataType.Value(_ELEMENTS[spec.parameter_dtype])
    graph = helper.make_graph(
        [node],
        "batch_norm",
        [helper.make_tensor_value_info("x", element, shape)],
        [helper.make_tensor_value_info("y", element, shape)],
        [_tensor(spec, state, role, array) for role, array in zip(ROLES, arrays, strict=True)],
    )
    opsets = [helper.make_opsetid("", opset)]
    version = max(helper.find_min_ir_version_for(opsets), _INITIALIZERS_ALONE)
    return helper.make_model(graph, opset_imports=opsets, ir_version=version)


def read_spec(graph: Graph, node: Node, name: str) -> Spec:
    """The description of a batch-norm node.

    Raises:
        InputError: it cannot be read.
    """
    _require_known(graph, node)
    weight, _, mean, _ = (graph.arrays[array] for array in array_names(graph, node))
    training = len(node.outputs) > 1 or bool(node.attributes.get("training_mode", 0))
    settings: dict[str, Any] = {
        "channels": mean.shape[0] if mean.shape else 0,
        "eps": _float32(node.attributes.get("epsilon", 1e-5)),
        "momentum": Momentum(_float32(node.attributes.get("momentum", 0.9)), "old"),
        "variance": "biased",
        "statistics_dtype": mean.dtype,
        "parameter_dtype": weight.dtype,
        "name": name,
        "options": {"training_mode": 1} if training else {},
    }
    return Spec(**settings)


def array_names(graph: Graph, node: Node) -> list[str]:
    """Names of scale, offset, mean and variance.

    Raises:
        InputError: one of them is no constant of the graph.
    """
    names: list[str] = []
    for index, role in enumerate(("scale", "B", "mean", "var"), start=1):
        constant = graph.constant(node.input(index))
        if constant is None:
            raise missing_array(node, role, node.input(index))
        names.append(constant)
    return names


def _require_known(graph: Graph, node: Node) -> None:
    why = do = ""
    if graph.opset < _OLDEST:
        why = f"opset {graph.opset} is before {_OLDEST}, and its modes are other ones"
        do = f"convert it: onnx.version_converter.convert_version(model, {_WITH_MODE})"
    elif not node.attributes.get("spatial", 1):
        why = "spatial=0 means one mean for each position, which no other framework has"
        do = "train the model again with spatial=1"
    if why:
        got = f"opset {graph.opset}, attributes {sorted(node.attributes)}"
        raise InputError(
            explain(asked=f"read the batch-norm node {node.name!r}", got=got, why=why, do=do)
        )


def _float32(value: float) -> float:
    return float(np.float32(value))


def _tensor(spec: Spec, state: State, role: str, name: str) -> onnx.TensorProto:
    array = getattr(state, role)
    dtype = spec.parameter_dtype if role in ROLES[:2] else spec.statistics_dtype
    if array is None:
        array = (np.ones if role == "weight" else np.zeros)(spec.channels, np.float32)
    return to_tensor(array, dtype, name)


def to_tensor(array: Any, dtype: str, name: str) -> onnx.TensorProto:
    """An array as a tensor of the file; ``dtype`` may be bfloat16."""
    from onnx import numpy_helper

    if dtype == "bfloat16":
        import ml_dtypes

        return numpy_helper.from_array(array.astype(ml_dtypes.bfloat16), name)
    return numpy_helper.from_array(np.asarray(array, dtype, order="C"), name)
