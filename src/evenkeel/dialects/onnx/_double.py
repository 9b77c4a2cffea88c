"""An ONNX model that computes in float64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from evenkeel.dialects.onnx._graph import to_array
from evenkeel.errors import UnsayableError, explain

if TYPE_CHECKING:
    import onnx

#: Before this version ONNX's reference evaluator blends statistics in inference.
_SOUND: Final = 14
_NARROW: Final = ("FLOAT", "FLOAT16", "BFLOAT16")


def to_double(model: onnx.ModelProto) -> onnx.ModelProto:
    """A copy whose arrays, inputs, outputs and casts are float64; other types stay.

    Raises:
        UnsayableError: it has functions, subgraphs, or operators of other domains, whose types
            are not known here, or its opset cannot be raised to 14.
    """
    import onnx

    copy = _raised(model)
    _require_plain(copy)
    graph = copy.graph
    for tensor in graph.initializer:
        _widen(tensor)
    for node in graph.node:
        _widen_node(node)
    for info in (*graph.input, *graph.output, *graph.value_info):
        element = info.type.tensor_type
        if _is_narrow(element.elem_type):
            element.elem_type = onnx.TensorProto.DOUBLE
    return copy


def _raised(model: onnx.ModelProto) -> onnx.ModelProto:
    import onnx
    from onnx import version_converter

    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    version = next((item.version for item in model.opset_import if item.domain == ""), _SOUND)
    if version >= _SOUND:
        return copy
    try:
        return version_converter.convert_version(copy, _SOUND)
    except (RuntimeError, version_converter.ConvertError) as error:
        raise _refusal(f"opset {version}", f"its conversion fails ({error})") from error


def _require_plain(model: onnx.ModelProto) -> None:
    import onnx

    if model.functions:
        raise _refusal(f"{len(model.functions)} functions", "their types are not known")
    for node in model.graph.node:
        if node.domain not in ("", "ai.onnx"):
            raise _refusal(f"{node.domain}.{node.op_type}", "its types are not known")
        graphs = (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS)
        if any(item.type in graphs for item in node.attribute):
            raise _refusal(f"{node.op_type} {node.name!r}", "it holds a graph of its own")


def _widen_node(node: onnx.NodeProto) -> None:
    import onnx

    for item in node.attribute:
        if item.type == onnx.AttributeProto.TENSOR:
            _widen(item.t)
        elif node.op_type == "Constant" and item.name in {"value_float", "value_floats"}:
            values = item.f if item.name == "value_float" else list(item.floats)
            tensor = onnx.numpy_helper.from_array(np.asarray(values, np.float64))
            item.CopyFrom(onnx.helper.make_attribute("value", tensor))
        elif item.name in {"to", "dtype"} and _is_narrow(item.i):
            item.i = onnx.TensorProto.DOUBLE


def _widen(tensor: onnx.TensorProto) -> None:
    from onnx import numpy_helper

    if _is_narrow(tensor.data_type):
        wide = to_array(tensor).astype(np.float64)
        tensor.CopyFrom(numpy_helper.from_array(wide, tensor.name))


def _is_narrow(element: int) -> bool:
    from onnx import TensorProto

    return element in {TensorProto.DataType.Value(name) for name in _NARROW}


def _refusal(got: str, why: str) -> UnsayableError:
    return UnsayableError(
        explain(
            asked="compute an ONNX model in float64",
            got=got,
            why=why,
            do="take the float64 numbers from the network that it was exported from",
        )
    )
