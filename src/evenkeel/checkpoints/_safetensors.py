"""Reader and writer of safetensors files; values are fetched from the file when asked for.

Format: https://huggingface.co/docs/safetensors (8 bytes of length, a JSON header, the data).
"""

from __future__ import annotations

import json
import math
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal, widen_bfloat16
from evenkeel.checkpoints._source import Source
from evenkeel.checkpoints._values import fetch_bytes, itemsize, require_dtypes, write_refusal

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

#: Element type in the file -> (its usual name, how NumPy reads the bytes).
_DTYPES: Final = {
    "F64": ("float64", "<f8"),
    "F32": ("float32", "<f4"),
    "F16": ("float16", "<f2"),
    "BF16": ("bfloat16", "<u2"),
    "I64": ("int64", "<i8"),
    "I32": ("int32", "<i4"),
    "I16": ("int16", "<i2"),
    "I8": ("int8", "i1"),
    "U64": ("uint64", "<u8"),
    "U32": ("uint32", "<u4"),
    "U16": ("uint16", "<u2"),
    "U8": ("uint8", "u1"),
    "BOOL": ("bool", "?"),
    "C64": ("complex64", "<c8"),
}


_CODES: Final = {name: code for code, (name, _) in _DTYPES.items()}
_METADATA: Final = "__metadata__"
#: Readers refuse a longer header.
_LONGEST_HEADER: Final = 100_000_000


def read(path: Path) -> Checkpoint:
    """Read the header of a safetensors file; ``config`` holds its strings under ``metadata``."""
    _validate(path)
    source = Source.of(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    config = {"metadata": header.pop(_METADATA, None) or {}}
    arrays = {name: _stored(source, 8 + length, name, entry) for name, entry in header.items()}
    return Checkpoint(path, "safetensors", MappingProxyType(arrays), config=config)


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,  # noqa: ARG001 - every writer is called alike
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the header from the declared shapes, then one array after the other.

    Raises:
        FileError: an element type or a name that the format has not, metadata that are no
            strings, or values that are not what was declared.
    """
    require_dtypes(path, arrays, _CODES, "safetensors")
    # The order of the format's own library, which keeps every array aligned.
    order = sorted(arrays, key=lambda name: (-itemsize(arrays[name].dtype), name))
    header = _header(path, {name: arrays[name] for name in order}, metadata or {})
    with path.open("xb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        for name in order:
            file.write(fetch_bytes(path, name, arrays[name]))


def _header(path: Path, arrays: Mapping[str, StoredArray], metadata: Mapping[str, Any]) -> bytes:
    header: dict[str, Any] = {_METADATA: _strings(path, metadata)} if metadata else {}
    end = 0
    for name, array in arrays.items():
        begin, end = end, end + math.prod(array.shape) * itemsize(array.dtype)
        code, shape = _CODES[array.dtype], list(array.shape)
        header[name] = {"dtype": code, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    if _METADATA in arrays or len(text) > _LONGEST_HEADER:
        raise write_refusal(
            path,
            got=f"an array called {_METADATA}, or names and metadata of {len(text)} bytes",
            why=f"that name is the format's own, and a header has {_LONGEST_HEADER} bytes at most",
            do="rename the array, or leave metadata out",
        )
    return text + b" " * (-len(text) % 8)


def _strings(path: Path, metadata: Mapping[str, Any]) -> dict[str, str]:
    for key, value in metadata.items():
        if not isinstance(value, str):
            raise write_refusal(
                path,
                got=f"metadata {key!r} of type {type(value).__name__}",
                why="a safetensors file holds strings only",
                do="turn it into a string, for example with json.dumps",
            )
    return dict(metadata)


def _validate(path: Path) -> None:
    """Let the format's own library check lengths, overlaps and holes (it maps, reads no data)."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="numpy"):
            pass
    except SafetensorError as error:
        raise refusal(
            path,
            got=f"a safetensors file that its library refuses ({error})",
            why="the header and the data do not fit together; the file may be cut off or damaged",
            do="copy or download it again, and compare the sizes",
        ) from error


def _stored(source: Source, start: int, name: str, entry: dict[str, Any]) -> StoredArray:
    shape = tuple(int(n) for n in entry["shape"])
    code = str(entry["dtype"])
    dtype, _ = _DTYPES.get(code, (code.lower(), ""))
    offset = start + int(entry["data_offsets"][0])
    return StoredArray(shape, dtype, partial(_values, source, name, code, shape, offset))


def _values(
    source: Source, name: str, code: str, shape: tuple[int, ...], offset: int
) -> NDArray[Any]:
    if code not in _DTYPES:
        raise refusal(
            source.path,
            got=f"{name} with elements of type {code}",
            why="this element type is not read here",
            do="store this array as float32 or bfloat16",
        )
    values = source.values(name, _DTYPES[code][1], shape, offset)
    return widen_bfloat16(values) if code == "BF16" else values
