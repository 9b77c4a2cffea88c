"""One tensor of an ONNX model: its values inside the model or in a file beside it."""

from __future__ import annotations

import hashlib
import math
from functools import partial
from itertools import groupby, pairwise
from pathlib import PurePosixPath, PureWindowsPath
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from evenkeel.checkpoints._atomic import data_name
from evenkeel.checkpoints._checkpoint import StoredArray, refusal, widen_bfloat16
from evenkeel.checkpoints._onnx_graph import Problem, check_text
from evenkeel.checkpoints._source import Source
from evenkeel.checkpoints._values import BFLOAT16, PLAIN, fetch_bytes, itemsize

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from onnx import TensorProto

#: Usual names where they are not ONNX's in small letters.
_NAMES: Final = {"FLOAT": "float32", "DOUBLE": "float64"}
_FIELDS: Final = (
    *("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data"),
)
_VALUE_FIELDS: Final = (*_FIELDS, "raw_data", "external_data", "data_location")
#: Larger external arrays begin at a multiple of this, so that they can be mapped.
_ALIGNMENT: Final = 4096
_DO_EXPORT: Final = "export the model again"


class Extent(NamedTuple):
    """Where the values of a tensor stand in a file beside the model."""

    location: str
    offset: int
    length: int


def stored(path: Path, name: str, tensor: TensorProto) -> StoredArray:
    """The tensor as an array that is read on demand, once its size fits its bytes.

    Raises:
        Problem: sizes do not fit, or external data are outside of the model's folder.
    """
    dtype, shape = dtype_of(tensor), tuple(int(n) for n in tensor.dims)
    if any(n < 0 for n in shape):
        raise Problem(f"{name} of shape {shape}")
    if dtype not in PLAIN and dtype != BFLOAT16:
        return StoredArray(shape, dtype, partial(_unreadable, path, name, dtype))
    size = math.prod(shape) * itemsize(dtype)
    if is_external(tensor):
        extent = _extent(name, tensor)
        source = _source(path, name, extent)
        return StoredArray(shape, dtype, partial(_external, source, name, dtype, shape, extent))
    _check_inside(name, tensor, size, math.prod(shape))
    return StoredArray(shape, dtype, partial(_inside, tensor, dtype))


def dtype_name(code: int) -> str:
    """The usual name of ONNX's element type.

    Raises:
        Problem: there is no such type.
    """
    from onnx import TensorProto

    if code not in TensorProto.DataType.values() or code == TensorProto.UNDEFINED:
        raise Problem(f"elements of the unknown type {code}")
    name = TensorProto.DataType.Name(code)
    return _NAMES.get(name, name.lower())


def dtype_of(tensor: TensorProto) -> str:
    """The usual name of the tensor's element type."""
    return dtype_name(tensor.data_type)


def is_external(tensor: TensorProto) -> bool:
    """Whether the values stand in a file beside the model."""
    from onnx import TensorProto

    return tensor.data_location == TensorProto.EXTERNAL


def check_overlaps(tensors: Mapping[str, TensorProto]) -> None:
    """Refuse external arrays that share some bytes; sharing all of them is a tied weight.

    Raises:
        Problem: two arrays overlap.
    """
    extents = sorted((_extent(name, tensor), name) for name, tensor in tensors.items())
    for (first, name), (second, other) in pairwise(extents):
        inside = second.offset < first.offset + first.length and second.length > 0
        if first.location == second.location and inside and first != second:
            raise Problem(f"{name} and {other} on the same bytes of {first.location!r}")


def _check_inside(name: str, tensor: TensorProto, size: int, count: int) -> None:
    from onnx import helper

    filled = {field: len(getattr(tensor, field)) for field in _FIELDS if getattr(tensor, field)}
    if tensor.HasField("segment") or len(filled) + bool(tensor.raw_data) > 1:
        raise Problem(f"{name} in pieces, or with its values twice")
    typed = helper.tensor_dtype_to_field(tensor.data_type)
    each = 2 if dtype_of(tensor).startswith("complex") else 1
    if tensor.raw_data or not filled:
        fits = len(tensor.raw_data) == size
    else:
        fits = filled == {typed: count * each}
    if not fits:
        raise Problem(
            f"{name} whose shape {tuple(tensor.dims)} of {dtype_of(tensor)} does not fit its values"
        )


def _inside(tensor: TensorProto, dtype: str) -> NDArray[Any]:
    from onnx import numpy_helper

    values = numpy_helper.to_array(tensor)
    return values.astype(np.float32) if dtype == BFLOAT16 else values


def _unreadable(path: Path, name: str, dtype: str) -> NDArray[Any]:
    raise refusal(
        path,
        got=f"{name} with elements of type {dtype}",
        why="this element type is not read here",
        do="export this array as float32",
    )


def _extent(name: str, tensor: TensorProto) -> Extent:
    size = math.prod(tensor.dims) * itemsize(dtype_of(tensor))
    told = {entry.key: entry.value for entry in tensor.external_data}
    check_text(told)
    numbers = [told.get("offset", "0"), told.get("length", str(size))]
    if not all(text.isascii() and text.isdigit() and len(text) < 20 for text in numbers):
        raise Problem(f"{name} at no valid place of an external file", _DO_EXPORT)
    extent = Extent(told.get("location", ""), *map(int, numbers))
    if extent.length != size or tensor.raw_data:
        raise Problem(f"{name} that needs {size} bytes, with {extent.length} in an external file")
    return extent


def _source(path: Path, name: str, extent: Extent) -> Source:
    """The external file, which a hostile model could place anywhere."""
    place, outside = path.parent / extent.location, False
    for way in (PurePosixPath(extent.location), PureWindowsPath(extent.location)):
        outside |= bool(way.anchor) or ".." in way.parts or not way.parts
    folder = path.parent.resolve()
    if outside or "\0" in extent.location or not place.resolve().is_relative_to(folder):
        raise Problem(
            f"{name} in the file {extent.location!r}, outside of the model's folder",
            "put the data into the model's folder (links copied, not followed), and export again",
        )
    if not place.is_file():
        raise Problem(
            f"{name} in the file {extent.location!r}, which is missing",
            "put this file beside the model, where the exporter wrote it",
        )
    source = Source.of(place)
    if extent.offset + extent.length > source.size:
        raise Problem(f"{name} beyond the end of the file {extent.location!r}")
    return source


def _external(
    source: Source, name: str, dtype: str, shape: tuple[int, ...], extent: Extent
) -> NDArray[Any]:
    code = "<u2" if dtype == BFLOAT16 else np.dtype(dtype).newbyteorder("<").str
    values = source.values(name, code, shape, extent.offset)
    return widen_bfloat16(values) if dtype == BFLOAT16 else values


def replace(tensor: TensorProto, data: memoryview) -> None:
    """Put other values into the tensor."""
    for field in _VALUE_FIELDS:
        tensor.ClearField(field)
    tensor.raw_data = data.tobytes()


def write_data(
    path: Path, tensors: Mapping[str, TensorProto], arrays: Mapping[str, StoredArray]
) -> None:
    """Write the external data beside the model, one file for every file of the old model."""
    extents = {name: _extent(name, tensor) for name, tensor in tensors.items()}
    for _, group in groupby(
        sorted(extents, key=extents.__getitem__), lambda n: extents[n].location
    ):
        names, digest = [*group], hashlib.sha256()
        draft, offsets, end = path.with_name("data"), dict[str, int](), 0
        with draft.open("xb") as file:
            for name in names:
                # Arrays that shared bytes get places of their own, as their values can differ.
                aligned = -(-end // _ALIGNMENT) * _ALIGNMENT
                offset = extents[name].offset if extents[name].offset >= end else aligned
                data = fetch_bytes(path, name, arrays[name])
                file.seek(offset)
                file.write(data)
                digest.update(offset.to_bytes(8, "little"))
                digest.update(data)
                offsets[name], end = offset, offset + len(data)
        location = data_name(path, digest.hexdigest())
        draft.rename(path.with_name(location))
        for name in names:
            _point(tensors[name], Extent(location, offsets[name], extents[name].length))


def _point(tensor: TensorProto, extent: Extent) -> None:
    for field in _VALUE_FIELDS:
        tensor.ClearField(field)
    for key, value in extent._asdict().items():
        tensor.external_data.add(key=key, value=str(value))
    tensor.data_location = tensor.EXTERNAL
