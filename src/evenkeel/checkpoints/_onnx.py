"""Reader and writer of ONNX models: initializers, tensors of Constant nodes, external data.

Arrays are initializers and the tensors in attributes of nodes: under the name of the node's
output for ``Constant``, under ``<output>.<attribute>`` elsewhere. Arrays of subgraphs (the
branches of an If) are named in ``left``. ``config`` holds:

- ``ir_version``, ``opset`` (version by domain, ``""`` is ONNX's own), ``functions`` (how many);
- ``nodes``: dicts with ``name``, ``op``, ``domain``, ``inputs``, ``outputs`` and ``attributes``
  (values; ``{"array": name}`` for a tensor; ``{"nodes": [...]}`` for a graph);
- ``inputs`` and ``outputs``: dicts with ``name``, ``shape`` (numbers, names or None; None where
  the rank is not known) and ``dtype``;
- ``metadata``: the model's own strings; ``producer``: who wrote it.

The model file is held in memory (protobuf has no other way, and no model above 2 GiB); external
data are read when they are asked for.
"""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from evenkeel.checkpoints._checkpoint import Checkpoint, refusal
from evenkeel.checkpoints._onnx_graph import Problem, describe, holders
from evenkeel.checkpoints._onnx_tensors import (
    check_overlaps,
    dtype_of,
    is_external,
    replace,
    stored,
    write_data,
)
from evenkeel.checkpoints._values import fetch_bytes, require_same_names, write_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from onnx import ModelProto

    from evenkeel.checkpoints._checkpoint import StoredArray


def read(path: Path) -> Checkpoint:
    """Read the graph, and the names, shapes and element types of its arrays."""
    model = _load(path)
    try:
        found = dict(holders(model))
        arrays = {name: stored(path, name, tensor) for name, tensor in found.items()}
        check_overlaps({name: tensor for name, tensor in found.items() if is_external(tensor)})
        config, left = describe(model)
    except Problem as error:
        raise _refused(path, str(error), error.do) from error
    return Checkpoint(path, "onnx", MappingProxyType(arrays), left=left, config=config)


def _load(path: Path) -> ModelProto:
    import onnx
    from google.protobuf.message import DecodeError

    model = onnx.ModelProto()
    try:
        model.ParseFromString(path.read_bytes())
    except DecodeError as error:
        raise _refused(path, f"bytes that are no ONNX model ({error})") from error
    if not model.HasField("graph") or not model.opset_import:
        raise _refused(path, "a model without a graph, or without a version of its operators")
    return model


def _refused(path: Path, what: str, do: str = "") -> Exception:
    return refusal(
        path,
        got=f"an ONNX file with {what}",
        why="the model is damaged, or uses what is not read here",
        do=do or "export it again, and compare the sizes after copying",
    )


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the model of ``like`` with other values; what was in external files stays external.

    External data go into files beside the model that are named after it and their content.

    Raises:
        FileError: ``like`` is missing or has other names, shapes or element types.
    """
    if like is None:
        raise write_refusal(
            path,
            got="arrays without a model",
            why="an ONNX file holds the graph, too, which is copied from another one",
            do="pass like=checkpoints.read(<an ONNX model of this network>)",
        )
    require_same_names(path, arrays, like.arrays)
    model = _load(like.path)
    found = dict(holders(model))
    for name, array in arrays.items():
        if name not in found or _form(array) != (tuple(found[name].dims), dtype_of(found[name])):
            raise write_refusal(
                path,
                got=f"{name} of shape {array.shape} and type {array.dtype}",
                why="the graph that is copied has this array in another form, or not any more",
                do="give an array of the shape and type of like.arrays",
            )
    external = {name: tensor for name, tensor in found.items() if is_external(tensor)}
    write_data(path, external, arrays)
    for name, tensor in found.items():
        if name not in external:
            replace(tensor, fetch_bytes(path, name, arrays[name]))
    _add_metadata(path, model, metadata or {})
    _save(path, model)


def _form(array: StoredArray) -> tuple[tuple[int, ...], str]:
    return array.shape, array.dtype


def _add_metadata(path: Path, model: ModelProto, metadata: Mapping[str, Any]) -> None:
    entries = {entry.key: entry for entry in model.metadata_props}
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise write_refusal(
                path,
                got=f"metadata {key!r} of type {type(value).__name__}",
                why="an ONNX model holds strings only",
                do="turn it into a string, for example with json.dumps",
            )
        entry = entries.get(key) or model.metadata_props.add(key=key)
        entry.value = value


def _save(path: Path, model: ModelProto) -> None:
    from google.protobuf.message import EncodeError

    try:
        path.write_bytes(model.SerializeToString())
    except (EncodeError, ValueError) as error:
        raise write_refusal(
            path,
            got=f"a model that protobuf refuses ({error})",
            why="a model file has 2 GiB at most",
            do="use a model with external data as `like`",
        ) from error
