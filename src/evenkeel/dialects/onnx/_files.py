"""ONNX files as layers, and layers as the arrays of such a file."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.checkpoints import Checkpoint, StoredArray
from evenkeel.dialects._layers import Layer, StoredNetwork
from evenkeel.dialects.onnx._graph import Graph, graph_of_checkpoint
from evenkeel.dialects.onnx._parts import Held, Part, find_parts
from evenkeel.dialects.torch._layouts import rows_of_flattened
from evenkeel.errors import InputError, UnsayableError, explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray


def read_network(
    checkpoint: Checkpoint,
    kinds: Mapping[str, str] | None = None,  # noqa: ARG001 - the graph leaves nothing open
) -> StoredNetwork:
    """The layers of an ONNX file, in the order of its graph.

    Args:
        checkpoint: of an ONNX file.
        kinds: not needed; the argument is there because other dialects have it.

    Raises:
        InputError: a batch-norm node cannot be read; its missing initializer is named.
    """
    graph = graph_of_checkpoint(checkpoint)
    parts = find_parts(graph)
    taken = {held.array for part in parts for held in part.roles.values()}
    unread = tuple(name for name in graph.arrays if name not in taken)
    remarks = [
        f"{part.name} is in training mode: run as it is, it normalizes with the moments of its "
        "own batch."
        for part in parts
        if part.spec is not None and "training_mode" in part.spec.options
    ]
    layers = tuple(part.layer(graph) for part in parts)
    return StoredNetwork("onnx", layers, unread, tuple(remarks))


def write_network(
    layers: Sequence[Layer], like: Checkpoint | None = None
) -> dict[str, StoredArray]:
    """The arrays of an ONNX file with the graph of ``like`` and the values of ``layers``.

    Args:
        layers: by the names that :func:`read_network` gives the layers of ``like``; all of
            them.
        like: a checkpoint of an ONNX file. Its graph keeps its own numbers.

    Raises:
        InputError: there is no ``like``, or names, roles, shapes or dtypes do not fit it.
        UnsayableError: a batch norm has another eps than the graph.
    """
    if like is None:
        raise _refusal(
            got="no `like`",
            why="an ONNX file is a graph, and layers alone are none",
            do="export the target network first, e.g. with torch.onnx.export, and pass that file",
        )
    graph = graph_of_checkpoint(like)
    targets = {part.name: part for part in find_parts(graph)}
    given = {layer.name: layer for layer in layers}
    if given.keys() != targets.keys():
        odd = sorted(given.keys() ^ targets.keys())
        raise _refusal(
            got=f"{odd} on one side only",
            why="every layer of the graph needs its values",
            do="name the layers as the graph of `like` does",
        )
    written: dict[str, StoredArray] = {}
    for name, layer in given.items():
        _require_equal_eps(layer, targets[name])
        for array, value in _arrays(graph, layer, targets[name]):
            if array in written and not _are_equal(written[array], value):
                raise _refusal(
                    got=f"two values for the initializer {array!r}",
                    why="the exporter of `like` stored equal arrays once",
                    do="export it again with arrays that differ",
                )
            written[array] = value
    return {name: written.get(name, array) for name, array in graph.arrays.items()}


def _arrays(graph: Graph, layer: Layer, part: Part) -> list[tuple[str, StoredArray]]:
    values = {role: array for role, array in layer.arrays.items() if role != "batches"}
    if part.kind == "batch_norm" and values.keys() != part.roles.keys():
        values = _completed(values, graph, part)
    if values.keys() != part.roles.keys() or layer.kind != part.kind:
        raise _refusal(
            got=f"{layer.name!r}: {layer.kind} with {sorted(values)}",
            why=f"the graph has a {part.kind} with {sorted(part.roles)} there",
            do="absorb or fill in what is missing first",
        )
    return [
        (part.roles[role].array, _turned(graph, layer, part.roles[role], role, array))
        for role, array in values.items()
    ]


def _completed(values: dict[str, StoredArray], graph: Graph, part: Part) -> dict[str, StoredArray]:
    """With the scale 1 and the offset 0 of a batch norm that has none."""
    completed = dict(values)
    for role, constant in (("weight", 1), ("bias", 0)):
        target = graph.arrays[part.roles[role].array]
        dtype = "float32" if target.dtype == "bfloat16" else target.dtype
        filled = partial(np.full, target.shape, constant, dtype)
        completed.setdefault(role, StoredArray(target.shape, target.dtype, filled))
    return completed


def _turned(graph: Graph, layer: Layer, held: Held, role: str, array: StoredArray) -> StoredArray:
    target = graph.arrays[held.array]
    flattened = layer.settings.get("flattened") if role == "kernel" else None

    def read() -> NDArray[Any]:
        value = array.read()
        if flattened is not None:
            value = rows_of_flattened(value, tuple(flattened))
        return np.asarray(held.write(value), order="C")

    shape = held.read(np.broadcast_to(np.int8(0), target.shape)).shape
    if array.shape != shape or array.dtype != target.dtype:
        raise _refusal(
            got=f"{layer.name!r}, {role}: {array.dtype} {array.shape}",
            why=f"the graph holds {target.dtype} {shape} there",
            do="export `like` from a network of the same sizes and dtypes",
        )
    return StoredArray(target.shape, target.dtype, read)


def _require_equal_eps(layer: Layer, part: Part) -> None:
    if layer.spec is None or part.spec is None or "eps" in layer.assumed:
        return
    if np.float32(layer.spec.eps) != np.float32(part.spec.eps):
        raise UnsayableError(
            explain(
                asked=f"write the batch-norm layer {layer.name!r} into an ONNX graph",
                got=f"eps={layer.spec.eps!r}",
                why=f"the graph of `like` says {part.spec.eps!r}, and inference would differ",
                do="export `like` from a network with the same eps",
            )
        )


def _are_equal(a: StoredArray, b: StoredArray) -> bool:
    return a.shape == b.shape and a.read().tobytes() == b.read().tobytes()


def _refusal(*, got: str, why: str, do: str) -> InputError:
    return InputError(explain(asked="write layers as an ONNX file", got=got, why=why, do=do))
