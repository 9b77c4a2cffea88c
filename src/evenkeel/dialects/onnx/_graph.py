"""The graph of an ONNX model, live or from a checkpoint, in one form."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints import Checkpoint, StoredArray
from evenkeel.errors import FileError, InputError, explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import onnx
    from numpy.typing import NDArray

#: The domain of the standard operators, by both of its names.
STANDARD: Final = ("", "ai.onnx")
#: Longer chains are those of a damaged graph.
_LONGEST: Final = 64


@dataclass(frozen=True, slots=True)
class Node:
    """One operator of a graph."""

    name: str
    op: str
    domain: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]

    def input(self, index: int) -> str:
        """Name of an input; empty where the node leaves it out."""
        return self.inputs[index] if index < len(self.inputs) else ""


@dataclass(frozen=True)
class Graph:
    """Nodes in the order of the file, which is an order of execution, and constant arrays.

    Args:
        nodes: of the main graph.
        arrays: initializers, and the values of ``Constant`` nodes, by name.
        opset: version of the standard operators.
        inputs: name of every input that is no initializer.
        outputs: name of every output.
    """

    nodes: tuple[Node, ...]
    arrays: Mapping[str, StoredArray]
    opset: int
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]

    @cached_property
    def producers(self) -> dict[str, Node]:
        """The node that makes a value, by the value's name."""
        return {name: node for node in self.nodes for name in node.outputs if name}

    @cached_property
    def consumers(self) -> dict[str, list[Node]]:
        """The nodes that take a value, by the value's name."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes:
            for name in node.inputs:
                found.setdefault(name, []).append(node)
        return found

    @cached_property
    def uses(self) -> Counter[str]:
        """How often a value is taken, graph outputs included."""
        taken = Counter(name for node in self.nodes for name in node.inputs)
        taken.update(self.outputs)
        return taken

    def constant(self, name: str) -> str | None:
        """Name of the array behind a value, through ``Identity`` nodes; None if there is none.

        torch's exporter stores equal initializers once: a fresh layer has
        ``running_var = Identity(weight)``.
        """
        for _ in range(_LONGEST):
            if name in self.arrays:
                return name
            node = self.producers.get(name)
            if node is None or node.op != "Identity" or node.domain not in STANDARD:
                return None
            name = node.input(0)
        return None


def graph_of_checkpoint(checkpoint: Checkpoint) -> Graph:
    """The graph of a file.

    Raises:
        FileError: the checkpoint is no ONNX file.
    """
    config = checkpoint.config
    if not {"nodes", "opset", "inputs", "outputs"} <= config.keys():
        raise FileError(
            explain(
                asked=f"read {checkpoint.path} as an ONNX model",
                got=f"a checkpoint of kind {checkpoint.kind!r}",
                why="it has no graph",
                do="pass a file that begins with an ONNX ModelProto",
            )
        )
    nodes = tuple(
        Node(
            node["name"],
            node["op"],
            node["domain"],
            tuple(node["inputs"]),
            tuple(node["outputs"]),
            node["attributes"],
        )
        for node in config["nodes"]
    )
    arrays = checkpoint.arrays
    inputs = tuple(item["name"] for item in config["inputs"] if item["name"] not in arrays)
    outputs = tuple(item["name"] for item in config["outputs"])
    return Graph(nodes, arrays, _standard(config["opset"]), inputs, outputs)


def graph_of_model(model: onnx.ModelProto) -> Graph:
    """The graph of a live model; arrays are read from it when they are asked for.

    Raises:
        InputError: the model names no version of the standard operators.
    """
    from onnx import helper

    graph = model.graph
    nodes = tuple(
        Node(
            node.name,
            node.op_type,
            node.domain,
            tuple(node.input),
            tuple(node.output),
            {item.name: _plain(helper.get_attribute_value(item)) for item in node.attribute},
        )
        for node in graph.node
    )
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    tensors |= {
        node.outputs[0]: node.attributes["value"]
        for node in nodes
        if node.op == "Constant" and "value" in node.attributes
    }
    arrays = {name: _stored(tensor) for name, tensor in tensors.items()}
    opset = _standard({item.domain: item.version for item in model.opset_import})
    inputs = tuple(item.name for item in graph.input if item.name not in arrays)
    return Graph(nodes, arrays, opset, inputs, tuple(item.name for item in graph.output))


def to_array(tensor: onnx.TensorProto) -> NDArray[Any]:
    """The values of a tensor; bfloat16 widened to float32."""
    import numpy as np
    from onnx import numpy_helper

    array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if array.dtype.name == "bfloat16" else array


def _stored(tensor: onnx.TensorProto) -> StoredArray:
    from onnx import helper

    dtype = helper.tensor_dtype_to_np_dtype(tensor.data_type).name
    return StoredArray(tuple(tensor.dims), dtype, partial(to_array, tensor))


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return list(value) if isinstance(value, list | tuple) else value


def _standard(opsets: Mapping[str, int]) -> int:
    for domain in STANDARD:
        if domain in opsets:
            return opsets[domain]
    raise InputError(
        explain(
            asked="read an ONNX model",
            got=f"operator sets {sorted(opsets)}",
            why="no version of the standard operators is named, so none has a meaning",
            do="export the model again",
        )
    )


def missing_array(node: Node, role: str, name: str) -> InputError:
    """The refusal of a layer whose array is no constant of the graph."""
    return InputError(
        explain(
            asked=f"read the {node.op} node {node.name!r}",
            got=f"{role} = {name!r}" if name else f"no {role}",
            why="it is no initializer of the graph, but an input or a computed value"
            if name
            else "the operator needs it",
            do="export the model with its weights stored as initializers",
        )
    )


def unique_names(names: Sequence[str]) -> list[str]:
    """The names with ``#2``, ``#3`` behind those that come again."""
    seen: Counter[str] = Counter()
    found: list[str] = []
    for name in names:
        seen[name] += 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found
