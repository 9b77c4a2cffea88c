"""Reader and writer of what ``flax.serialization.to_bytes`` writes; needs no Flax.

The file is one nested dict in msgpack. An array is an extension of type 1 (a scalar of NumPy:
3) whose content is msgpack again: (shape, name of the element type, bytes). An array above 1 GiB
is a dict with the key ``__msgpack_chunked_array__``, its shape, and flat pieces. Array names are
the keys joined by slashes. ``config`` has one key, ``values``: what else stands in the dict, by
name. Optimizer state is named in ``left``.
"""

from __future__ import annotations

from functools import partial
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal, widen_bfloat16
from evenkeel.checkpoints._msgpack_walk import CHUNKED, Chunk, DamagedError, walk
from evenkeel.checkpoints._paths import is_optimizer, optimizers, tree
from evenkeel.checkpoints._source import Source
from evenkeel.checkpoints._values import (
    BFLOAT16,
    PLAIN,
    fetch_bytes,
    itemsize,
    require_dtypes,
    require_no_metadata,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from evenkeel.checkpoints._paths import Tree

_ARRAY: Final = 1
#: Flax cuts larger arrays into pieces of this many bytes.
_LARGEST_PIECE: Final = 1 << 30


def read(path: Path) -> Checkpoint:
    """Read names, shapes and places of the arrays; the values are fetched from the file."""
    source = Source.of(path)
    try:
        found, values, rest = walk(path)
    except DamagedError as error:
        raise refusal(
            path,
            got=f"a msgpack file with {error}",
            why="it is cut off, damaged, or was not written by flax.serialization.to_bytes",
            do="copy or download it again, and compare the sizes",
        ) from error
    arrays = {
        name: _stored(source, name, *described)
        for name, described in found.items()
        if not is_optimizer(name)
    }
    config = {"values": {name: value for name, value in values.items() if not is_optimizer(name)}}
    left = (*optimizers([*found, *values]), *(name for name in rest if not is_optimizer(name)))
    return Checkpoint(path, "msgpack", MappingProxyType(arrays), left=left, config=config)


def _stored(
    source: Source, name: str, shape: tuple[int, ...], dtype: str, chunks: list[Chunk]
) -> StoredArray:
    return StoredArray(shape, dtype, partial(_values, source, name, shape, dtype, chunks))


def _values(
    source: Source, name: str, shape: tuple[int, ...], dtype: str, chunks: list[Chunk]
) -> NDArray[Any]:
    if dtype not in PLAIN and dtype != BFLOAT16:
        raise refusal(
            source.path,
            got=f"{name} with elements of type {dtype}",
            why="this element type is not read here",
            do="store this array as float32 or bfloat16",
        )
    code = "<u2" if dtype == BFLOAT16 else np.dtype(dtype).newbyteorder("<").str
    pieces = [
        source.values(name, code, (size // itemsize(dtype),), offset) for offset, size in chunks
    ]
    # One piece is the usual case, and needs no copy.
    flat = pieces[0] if len(pieces) == 1 else np.concatenate(pieces)
    return (widen_bfloat16(flat) if dtype == BFLOAT16 else flat).reshape(shape)


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the arrays into nested dicts; numbers and texts of ``like`` are copied.

    Raises:
        FileError: names that do not nest, an element type that is not written, or metadata.
    """
    require_dtypes(path, arrays, (*PLAIN, BFLOAT16), "msgpack")
    require_no_metadata(path, metadata or {}, "msgpack")
    values: Mapping[str, Any] = {} if like is None else like.config.get("values", {})
    nested = tree(path, (*arrays, *values))
    with path.open("xb") as file:
        _pack(path, file, nested, arrays, values)


def _pack(
    path: Path,
    file: IO[bytes],
    nested: Tree,
    arrays: Mapping[str, StoredArray],
    values: Mapping[str, Any],
) -> None:
    import msgpack

    packer = msgpack.Packer(strict_types=True)
    file.write(packer.pack_map_header(len(nested)))
    for key, entry in nested.items():
        file.write(packer.pack(key))
        if not isinstance(entry, str):
            _pack(path, file, entry, arrays, values)
        elif entry in arrays:
            data = fetch_bytes(path, entry, arrays[entry])
            file.writelines(_packed(arrays[entry], data))
        else:
            file.write(packer.pack(values[entry]))


def _packed(array: StoredArray, data: memoryview) -> Iterator[bytes]:
    if len(data) <= _LARGEST_PIECE:
        yield _extension(array.shape, array.dtype, data)
        return
    import msgpack

    size = itemsize(array.dtype)
    step = _LARGEST_PIECE // size * size
    shape = {str(axis): count for axis, count in enumerate(array.shape)}
    starts = range(0, len(data), step)
    packer = msgpack.Packer()
    yield packer.pack_map_header(3)
    for part in (CHUNKED, True, "shape", shape, "chunks"):
        yield packer.pack(part)
    yield packer.pack_map_header(len(starts))
    for index, start in enumerate(starts):
        piece = data[start : start + step]
        yield packer.pack(str(index))
        yield _extension((len(piece) // size,), array.dtype, piece)


def _extension(shape: tuple[int, ...], dtype: str, data: memoryview) -> bytes:
    import msgpack

    return msgpack.Packer().pack_ext_type(_ARRAY, msgpack.packb((shape, dtype, data)))
