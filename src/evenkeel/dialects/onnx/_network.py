"""A live ONNX model as a :class:`~evenkeel.dialects._network.Network`, run by ONNX Runtime."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np

from evenkeel.dialects._network import Call, Trace, no_such_part
from evenkeel.dialects.onnx._batch_norm import to_tensor
from evenkeel.dialects.onnx._double import to_double
from evenkeel.dialects.onnx._graph import STANDARD, Graph, graph_of_model
from evenkeel.dialects.onnx._parts import Part, find_parts
from evenkeel.dialects.onnx._runtime import run
from evenkeel.dialects.onnx._unsayable import unsayable
from evenkeel.errors import InputError, ShapeError, UnsayableError, explain

if TYPE_CHECKING:
    import onnx
    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.dialects._network import Loss
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Spec

_MOMENTS = ("eps", "momentum", "variance", "average", "renorm")


def open_network(model: onnx.ModelProto) -> OnnxNetwork:
    """The network interface of a live ONNX model; the model stays the same object.

    Raises:
        InputError: it takes several inputs, makes several outputs, or a batch-norm node cannot
            be read.
    """
    graph = graph_of_model(model)
    for what, names in (("inputs", graph.inputs), ("outputs", graph.outputs)):
        if len(names) != 1:
            raise InputError(
                explain(
                    asked="open an ONNX model as a network",
                    got=f"{what} {list(names)}",
                    why="a network has one input and one output",
                    do="cut the graph with onnx.utils.extract_model",
                )
            )
    return OnnxNetwork(model)


class OnnxNetwork:
    """A live network, as ``dialects/_network.py`` describes it. It computes inference only."""

    framework = "onnx"

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self._read()

    def layers(self) -> tuple[Layer, ...]:
        """All layers in the order of the graph."""
        return tuple(part.layer(self._graph) for part in self._by_name.values())

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Images channels last; a graph that begins with a Transpose to axis 1 has them so."""
        inputs = np.asarray(inputs)
        self._check_inputs(inputs.shape)
        return np.ascontiguousarray(np.moveaxis(inputs, 1, -1)) if self._turns(inputs) else inputs

    def trace(self, inputs: NDArray[Any]) -> Trace:
        """Run the graph with the values between its layers exposed."""
        inputs = np.asarray(inputs)
        if self._turns(inputs):
            inputs = np.moveaxis(inputs, -1, 1)
        parts = [part for part in self._by_name.values() if part.input]
        (output,) = self._graph.outputs
        wanted = dict.fromkeys([*(n for part in parts for n in (part.input, part.output)), output])
        values = run(self.model, np.ascontiguousarray(inputs), list(wanted))
        calls = tuple(
            Call(
                part.name,
                _channels_last(values[part.input], channels_first=part.channels_first),
                _channels_last(values[part.output], channels_first=part.channels_first),
            )
            for part in parts
        )
        first = self._output_is_first(values[output])
        return Trace(calls, _channels_last(values[output], channels_first=first))

    def write(self, values: Values) -> None:
        """Replace initializers in place, after all were checked."""
        planned: dict[str, NDArray[Any]] = {}
        for name, arrays in values.items():
            for role, array in arrays.items():
                target, value = self._planned(name, role, np.asarray(array))
                if target in planned and not np.array_equal(planned[target], value):
                    raise _shared(target, name, role)
                planned[target] = value
        for name, value in planned.items():
            tensor = self._tensors[name]
            tensor.CopyFrom(to_tensor(value, self._graph.arrays[name].dtype, name))
        self._read()

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        """Set epsilon and momentum of a batch-norm node."""
        part = self._part(layer)
        found = tuple(
            item for item in unsayable(spec) if item.field in _MOMENTS and item.effect != "none"
        )
        if part.spec is None or found:
            return found
        momentum = spec.momentum.as_weighing("old").value
        (node,) = (n for n in self.model.graph.node if part.output in n.output)
        for name, value in (("epsilon", spec.eps), ("momentum", momentum)):
            _set_attribute(node, name, value)
        self._read()
        return ()

    def step(self, inputs: NDArray[Any], loss: Loss) -> NoReturn:
        """Refused: ONNX Runtime computes inference only.

        Raises:
            UnsayableError: always.
        """
        raise UnsayableError(
            explain(
                asked="take a training step of an ONNX model",
                got=f"inputs of shape {np.shape(inputs)} and {type(loss).__name__}",
                why="an ONNX graph describes inference, and its runtime computes no gradients",
                do="compare in inference (steps=0), or train the network it was exported from",
            )
        )

    def double(self) -> OnnxNetwork:
        """A copy in float64, run by ONNX's reference evaluator where the runtime cannot.

        Raises:
            UnsayableError: the graph holds what cannot be widened.
        """
        return OnnxNetwork(to_double(self.model))

    def close(self) -> None:
        """Nothing is held beside the model."""

    def _read(self) -> None:
        self._graph: Graph = graph_of_model(self.model)
        self._by_name = {part.name: part for part in find_parts(self._graph)}
        self._tensors = {tensor.name: tensor for tensor in self.model.graph.initializer}
        for node in self.model.graph.node:
            if node.op_type == "Constant":
                for item in node.attribute:
                    if item.name == "value":
                        self._tensors[node.output[0]] = item.t

    def _part(self, name: str) -> Part:
        if name not in self._by_name:
            raise no_such_part("ONNX", f"the layer {name!r}", f"layers {list(self._by_name)}")
        return self._by_name[name]

    def _planned(self, name: str, role: str, array: NDArray[Any]) -> tuple[str, NDArray[Any]]:
        part = self._part(name)
        if role not in part.roles:
            raise no_such_part(
                "ONNX", f"{role!r} of the layer {name!r}", f"a layer with {sorted(part.roles)}"
            )
        held = part.roles[role]
        shape = part.layer(self._graph).shapes[role]
        if array.shape != shape:
            raise ShapeError(
                explain(
                    asked=f"write {role!r} of the layer {name!r}",
                    got=f"shape {array.shape}",
                    why=f"the layer holds {shape} there",
                    do="write into a layer of the same size",
                )
            )
        return held.array, held.write(array)

    def _input_shape(self) -> list[int | None]:
        (name,) = self._graph.inputs
        (info,) = (item for item in self.model.graph.input if item.name == name)
        return [
            dim.dim_value if dim.HasField("dim_value") else None
            for dim in info.type.tensor_type.shape.dim
        ]

    def _check_inputs(self, shape: tuple[int, ...]) -> None:
        wanted = self._input_shape()
        if not wanted:
            return
        fits = len(shape) == len(wanted) and all(
            want in (None, 0, length) for length, want in zip(shape, wanted, strict=True)
        )
        if not fits:
            raise ShapeError(
                explain(
                    asked="inputs of an ONNX model",
                    got=f"shape {shape}",
                    why=f"the graph takes {wanted} (None: any)",
                    do="pass inputs as the graph itself takes them",
                )
            )

    def _turns(self, inputs: NDArray[Any]) -> bool:
        """Whether the graph takes images channels first."""
        (name,) = self._graph.inputs
        if inputs.ndim < 3:
            return False
        if inputs.ndim == 3:
            first = next((p for p in self._by_name.values() if p.input == name), None)
            return first is not None and first.channels_first and first.kind != "other"
        to_first = [0, inputs.ndim - 1, *range(1, inputs.ndim - 1)]
        users = self._graph.consumers.get(name, [])
        return not any(
            node.op == "Transpose" and node.attributes.get("perm") == to_first for node in users
        )

    def _output_is_first(self, output: NDArray[Any]) -> bool:
        """Whether the output's channels are at axis 1."""
        (name,) = self._graph.outputs
        node = self._graph.producers.get(name)
        to_last = [0, *range(2, output.ndim), 1]
        if node is not None and node.op == "Transpose" and node.domain in STANDARD:
            return node.attributes.get("perm") != to_last and output.ndim > 3
        made = next((part for part in self._by_name.values() if part.output == name), None)
        return output.ndim > 3 if made is None else made.channels_first


def _channels_last(array: NDArray[Any], *, channels_first: bool) -> NDArray[Any]:
    if not channels_first or array.ndim < 3:
        return array
    return np.ascontiguousarray(np.moveaxis(array, 1, -1))


def _set_attribute(node: onnx.NodeProto, name: str, value: float | None) -> None:
    from onnx import helper

    kept = [item for item in node.attribute if item.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, helper.make_attribute(name, value)])


def _shared(array: str, name: str, role: str) -> InputError:
    return InputError(
        explain(
            asked=f"write {role!r} of the layer {name!r}",
            got=f"the initializer {array!r}, which another layer or role has, too",
            why="the exporter stored equal arrays once, and the new ones differ",
            do="export the model again with arrays that differ",
        )
    )
