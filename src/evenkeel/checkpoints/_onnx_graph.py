"""The graph of an ONNX model as JSON values, and the tensors in it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from collections.abc import Iterator

    from onnx import (
        AttributeProto,
        GraphProto,
        ModelProto,
        NodeProto,
        TensorProto,
        ValueInfoProto,
    )

_NO_SPARSE: Final = "export the model with dense initializers"


class Problem(Exception):  # noqa: N818 - it becomes a FileError
    """What is wrong with a model, completing "a file with", and what to do about it."""

    def __init__(self, text: str, do: str = "") -> None:
        super().__init__(text)
        self.do = do


def holders(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """Every tensor of the main graph under the name that it has as an array.

    Raises:
        Problem: two arrays of one name, an array without one, or a sparse one.
    """
    if model.graph.sparse_initializer:
        raise Problem("sparse initializers", _NO_SPARSE)
    seen: set[str] = set()
    for name, tensor in _named(model.graph):
        check_text(name)
        if not name or name in seen:
            raise Problem(f"two arrays called {name}" if name else "an initializer without a name")
        seen.add(name)
        yield name, tensor


def _named(graph: GraphProto) -> Iterator[tuple[str, TensorProto]]:
    for tensor in graph.initializer:
        yield tensor.name, tensor
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == attribute.TENSOR:
                yield _array_name(node, attribute.name), attribute.t


def _array_name(node: NodeProto, attribute: str) -> str:
    owner = next(iter(node.output), node.name)
    return owner if (node.op_type, attribute) == ("Constant", "value") else f"{owner}.{attribute}"


def describe(model: ModelProto) -> tuple[dict[str, Any], tuple[str, ...]]:
    """What the model says beside its arrays, and the names of arrays in subgraphs.

    Raises:
        Problem: a domain with two versions, two attributes of one name, or one of no type.
    """
    opset = {entry.domain: int(entry.version) for entry in model.opset_import}
    if len(opset) != len(model.opset_import):
        raise Problem("two versions of one set of operators")
    left: list[str] = []
    config = {
        "ir_version": int(model.ir_version),
        "opset": opset,
        "functions": len(model.functions),
        **_graph(model.graph, left),
        "metadata": {entry.key: entry.value for entry in model.metadata_props},
        "producer": f"{model.producer_name} {model.producer_version}".strip(),
    }
    check_text([config, left])
    return config, tuple(left)


def check_text(value: Any) -> None:  # noqa: ANN401 - any JSON value
    """Refuse what protobuf gives as bytes because it is no text.

    Raises:
        Problem: there is any.
    """
    if isinstance(value, bytes):
        raise Problem(f"a name that is no text, {value[:40]!r}")
    if isinstance(value, dict):
        check_text([*cast("dict[Any, Any]", value).items()])
    if isinstance(value, list | tuple):
        for entry in cast("list[Any]", value):
            check_text(entry)


def _graph(graph: GraphProto, left: list[str]) -> dict[str, Any]:
    return {
        "nodes": [_node(node, left) for node in graph.node],
        "inputs": [_value(value) for value in graph.input],
        "outputs": [_value(value) for value in graph.output],
    }


def _node(node: NodeProto, left: list[str]) -> dict[str, Any]:
    attributes = {a.name: _attribute(node, a, left) for a in node.attribute}
    if len(attributes) != len(node.attribute):
        raise Problem(f"the node {node.name or node.op_type} with two attributes of one name")
    return {
        "name": node.name,
        "op": node.op_type,
        "domain": node.domain,
        "inputs": [*node.input],
        "outputs": [*node.output],
        "attributes": attributes,
    }


def _attribute(node: NodeProto, attribute: AttributeProto, left: list[str]) -> Any:  # noqa: ANN401 - any JSON value
    from onnx import helper

    if attribute.ref_attr_name:
        return {"reference": attribute.ref_attr_name}
    if attribute.type == attribute.TENSOR:
        return {"array": _array_name(node, attribute.name)}
    if attribute.type not in attribute.AttributeType.values()[1:]:
        raise Problem(f"an attribute of {node.name or node.op_type} of no type")
    value = helper.get_attribute_value(attribute)
    if isinstance(value, str | bytes | int | float) or hasattr(value, "DESCRIPTOR"):
        return _plain(value, left)
    return [_plain(entry, left) for entry in value]


def _plain(value: Any, left: list[str]) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, bytes):
        return value.decode(errors="backslashreplace")
    if not hasattr(value, "DESCRIPTOR"):
        return value
    kind = value.DESCRIPTOR.name
    if kind.startswith("Sparse"):
        raise Problem("a sparse tensor in an attribute", _NO_SPARSE)
    return _subgraph(value, left) if kind == "GraphProto" else {"kind": kind}


def _subgraph(graph: GraphProto, left: list[str]) -> dict[str, Any]:
    left += [name for name, _ in _named(graph)]
    return _graph(graph, left)


def _value(value: ValueInfoProto) -> dict[str, Any]:
    from onnx import TensorProto

    from evenkeel.checkpoints._onnx_tensors import dtype_name

    described: dict[str, Any] = {"name": value.name, "shape": None, "dtype": None}
    if value.type.HasField("tensor_type"):
        kind = value.type.tensor_type
        if kind.elem_type != TensorProto.UNDEFINED:
            described["dtype"] = dtype_name(kind.elem_type)
        if kind.HasField("shape"):
            described["shape"] = [_size(size) for size in kind.shape.dim]
    return described


def _size(size: Any) -> int | str | None:  # noqa: ANN401 - the type is nested in TensorShapeProto
    which = size.WhichOneof("value")
    return None if which is None else getattr(size, which)
