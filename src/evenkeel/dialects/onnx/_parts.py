"""What the nodes of a graph are, in no framework's words."""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import Kind, Layer
from evenkeel.dialects.onnx._batch_norm import OP, ROLES, array_names, read_spec
from evenkeel.dialects.onnx._graph import STANDARD, Graph, Node, unique_names
from evenkeel.dialects.torch._layouts import inputs_first, inputs_last

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from evenkeel.spec import Spec

    Array = NDArray[Any]
    Turn = Callable[[Array], Array]

#: What exporters put behind the last dot of an initializer that holds a module's tensor.
_TENSOR: Final = re.compile(r"(.+)\.(weight|bias|running_mean|running_var)")
#: Operators that only rearrange; a constant behind one still is that constant.
_REARRANGING: Final = ("Transpose", "Unsqueeze", "Squeeze", "Reshape", "Cast")
_FLOATING: Final = ("float16", "bfloat16", "float32", "float64")


def _same(array: Array) -> Array:
    return array


@dataclass(frozen=True, slots=True)
class Held:
    """One canonical array: the array of the graph that holds it, and the change of layout.

    Args:
        array: name of the constant.
        read: as the canonical array.
        write: undoes ``read``; the shape of the result may be changed by ``reshape``.
    """

    array: str
    read: Turn = _same
    write: Turn = _same


@dataclass(frozen=True, slots=True)
class Part:
    """One layer of a graph.

    Args:
        name: of the layer.
        kind: of the layer.
        roles: where its canonical arrays are.
        input: name of the value that it takes.
        output: name of the value that it makes.
        node: that holds its attributes.
        settings: of the kind.
        spec: of a batch norm.
    """

    name: str
    kind: Kind
    roles: dict[str, Held]
    input: str
    output: str
    node: Node
    settings: dict[str, Any] = field(default_factory=dict[str, Any])
    spec: Spec | None = None

    @property
    def channels_first(self) -> bool:
        """Whether axis 1 of input and output is that of the channels."""
        return self.kind not in {"dense", "layer_norm", "embedding"}

    def layer(self, graph: Graph) -> Layer:
        """The part in no framework's words."""
        arrays = {role: _canonical(graph, held) for role, held in self.roles.items()}
        return Layer(self.name, self.kind, arrays, self.settings, self.spec)


def find_parts(graph: Graph) -> list[Part]:
    """All layers of a graph that hold arrays, in the order of its nodes.

    A layer is named after the module whose tensors it holds, where the exporter kept that
    name, else after its node or its output. Nodes that share all their arrays are one layer.

    Raises:
        InputError: a batch-norm node cannot be read.
    """
    found: list[Part] = []
    seen: set[tuple[str, ...]] = set()
    outputs: set[str] = set()
    for node in graph.nodes:
        # The Add of a bias belongs to the product before it.
        part = None if outputs & {*node.outputs} else _part(graph, node)
        if part is None:
            continue
        outputs.add(part.output)
        arrays = tuple(held.array for held in part.roles.values())
        # Several fresh batch norms of one size may share all their arrays by chance.
        if part.kind == "batch_norm" or arrays not in seen:
            found.append(part)
        seen.add(arrays)
    names = unique_names([part.name for part in found])
    return [_renamed(part, name) for part, name in zip(found, names, strict=True)]


def _renamed(part: Part, name: str) -> Part:
    spec = None if part.spec is None else replace(part.spec, name=name)
    return replace(part, name=name, spec=spec)


def _canonical(graph: Graph, held: Held) -> StoredArray:
    source = graph.arrays[held.array]
    shape = held.read(np.broadcast_to(np.int8(0), source.shape)).shape
    return StoredArray(shape, source.dtype, lambda: held.read(source.read()))


def _part(graph: Graph, node: Node) -> Part | None:
    if node.op in {"Constant", "Identity"}:
        return None
    if node.domain in STANDARD and node.op == OP:
        name = _name(node)
        held = map(Held, array_names(graph, node))
        roles: dict[str, Held] = dict(zip(ROLES, held, strict=True))
        return Part(
            name,
            "batch_norm",
            roles,
            node.input(0),
            node.outputs[0],
            node,
            spec=read_spec(graph, node, name),
        )
    reader = _READERS.get(node.op) if node.domain in STANDARD else None
    known = reader(graph, node) if reader is not None else None
    return known or _other(graph, node)


def _other(graph: Graph, node: Node) -> Part | None:
    """A node with weights of its own that is none of the known ones; scalars are no weights."""
    if node.op in _REARRANGING and graph.constant(node.input(0)) is not None:
        return None
    named = [(name, graph.constant(name)) for name in node.inputs if name]
    roles = {
        name: Held(constant)
        for name, constant in named
        if constant is not None and _is_weight(graph.arrays[constant])
    }
    if not roles:
        return None
    settings = {"class": f"{node.domain or 'ai.onnx'}.{node.op}"}
    given = next((name for name in node.inputs if name and name not in roles), "")
    return Part(_name(node), "other", roles, given, node.outputs[0], node, settings)


def _is_weight(array: StoredArray) -> bool:
    size = 1
    for length in array.shape:
        size *= length
    return array.dtype in _FLOATING and size > 1


def _weight(graph: Graph, node: Node, index: int, rank: int | None = None) -> str | None:
    """Name of a constant floating-point input of that rank."""
    constant = graph.constant(node.input(index)) if node.input(index) else None
    if constant is None or graph.arrays[constant].dtype not in _FLOATING:
        return None
    return constant if rank in (None, len(graph.arrays[constant].shape)) else None


def _convolution(graph: Graph, node: Node) -> Part | None:
    kernel = _weight(graph, node, 1)
    if kernel is None or (node.input(2) and _weight(graph, node, 2) is None):
        return None
    roles = {"kernel": Held(kernel, inputs_last, inputs_first)}
    if bias := _weight(graph, node, 2):
        roles["bias"] = Held(bias)
    kind: Kind = "conv" if node.op == "Conv" else "conv_transpose"
    settings = _convolution_settings(node, len(graph.arrays[kernel].shape) - 2)
    return Part(_name(node), kind, roles, node.input(0), node.outputs[0], node, settings)


def _convolution_settings(node: Node, dimensions: int) -> dict[str, Any]:
    ones, attributes = [1] * dimensions, node.attributes
    pads = attributes.get("pads", [0] * 2 * dimensions)
    sides = tuple(zip(pads[:dimensions], pads[dimensions:], strict=True))
    auto = attributes.get("auto_pad", "NOTSET")
    padding: Any = {"SAME_UPPER": "same", "VALID": "valid"}.get(auto, sides)
    settings: dict[str, Any] = {
        "strides": tuple(attributes.get("strides", ones)),
        "dilation": tuple(attributes.get("dilations", ones)),
        "groups": attributes.get("group", 1),
        "padding": padding if any(map(any, sides)) or auto != "NOTSET" else "valid",
    }
    if auto == "SAME_LOWER":
        settings |= {"padding": auto}
    for name in ("output_padding", "output_shape"):
        if any(attributes.get(name, ())):
            settings[name] = tuple(attributes[name])
    return settings


def _gemm(graph: Graph, node: Node) -> Part | None:
    kernel, attributes = _weight(graph, node, 1, 2), node.attributes
    plain = attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
    if kernel is None or not plain or attributes.get("transA", 0):
        return None
    turned = attributes.get("transB", 0)
    roles = {"kernel": Held(kernel, inputs_last, inputs_first) if turned else Held(kernel)}
    if node.input(2):
        bias = _weight(graph, node, 2, 1)
        if bias is None:
            return None
        roles["bias"] = Held(bias)
    return Part(_name(node), "dense", roles, node.input(0), node.outputs[0], node)


def _matmul(graph: Graph, node: Node) -> Part | None:
    """With the Add of a bias behind it, where nothing else takes the product."""
    kernel, output = _weight(graph, node, 1, 2), node.outputs[0]
    held = None if kernel is None else Held(kernel)
    before = graph.producers.get(node.input(1))
    if before is not None and before.op == "Transpose" and kernel is None:
        kernel = _weight(graph, before, 0, 2)
        held = None if kernel is None else Held(kernel, inputs_last, inputs_first)
    if held is None:
        return None
    roles = {"kernel": held}
    features = held.read(np.broadcast_to(np.int8(0), graph.arrays[held.array].shape)).shape[1:]
    follower = graph.consumers.get(output, [])
    if len(follower) == 1 and graph.uses[output] == 1 and follower[0].op == "Add":
        other = 1 - list(follower[0].inputs).index(output)
        bias = _weight(graph, follower[0], other, 1)
        if bias is not None and graph.arrays[bias].shape == features:
            roles["bias"], output = Held(bias), follower[0].outputs[0]
    further = [held.array, *(name for node in follower for name in node.inputs if "bias" in roles)]
    return Part(_name(node, *further), "dense", roles, node.input(0), output, node)


def _layer_norm(graph: Graph, node: Node) -> Part | None:
    scale = _weight(graph, node, 1, 1)
    if scale is None or (node.input(2) and _weight(graph, node, 2, 1) is None):
        return None
    roles = {"scale": Held(scale)}
    if offset := _weight(graph, node, 2, 1):
        roles["offset"] = Held(offset)
    settings = {"eps": node.attributes.get("epsilon", 1e-5)}
    return Part(_name(node), "layer_norm", roles, node.input(0), node.outputs[0], node, settings)


def _prelu(graph: Graph, node: Node) -> Part | None:
    """With a slope for each channel, or one; it may be stored without its ones."""
    slope = _weight(graph, node, 1)
    before = graph.producers.get(node.input(1))
    if slope is None and before is not None and before.op == "Unsqueeze":
        slope = _weight(graph, before, 0, 1)
        held = None if slope is None else Held(slope)
    else:
        shape = () if slope is None else graph.arrays[slope].shape
        known = slope is not None and _is_by_channel(shape)
        held = Held(slope or "", _flat, lambda alpha: alpha.reshape(shape)) if known else None
    if held is None:
        return None
    roles = {"alpha": held}
    name = _name(node, held.array)
    return Part(name, "prelu", roles, node.input(0), node.outputs[0], node)


def _is_by_channel(shape: tuple[int, ...]) -> bool:
    """Whether a slope, broadcast from the right, varies along axis 1 at most."""
    varying = [axis for axis, length in enumerate(shape) if length != 1]
    return not varying or (len(varying) == 1 and varying[0] < min(2, len(shape) - 1))


def _flat(array: Array) -> Array:
    return array.reshape(-1)


def _embedding(graph: Graph, node: Node) -> Part | None:
    table = _weight(graph, node, 0, 2)
    if table is None or node.attributes.get("axis", 0):
        return None
    roles = {"embedding": Held(table)}
    return Part(_name(node), "embedding", roles, node.input(1), node.outputs[0], node)


_READERS: Final[dict[str, Callable[[Graph, Node], Part | None]]] = {
    "Conv": _convolution,
    "ConvTranspose": _convolution,
    "Gemm": _gemm,
    "MatMul": _matmul,
    "LayerNormalization": _layer_norm,
    "PRelu": _prelu,
    "Gather": _embedding,
}


def _name(node: Node, *further: str) -> str:
    """The module whose tensors the node takes, else the node, else what it makes."""
    for name in (*node.inputs[1:], *further):
        if match := _TENSOR.fullmatch(name):
            return match[1]
    return node.name or node.outputs[0]
