"""Reader of safetensors files; values are fetched from the file when they are asked for.

Format: https://huggingface.co/docs/safetensors (8 bytes of length, a JSON header, the data).
"""

from __future__ import annotations

import json
import math
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal, widen_bfloat16

if TYPE_CHECKING:
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


def read(path: Path) -> Checkpoint:
    """Read the header of a safetensors file."""
    _validate(path)
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header: dict[str, Any] = json.loads(file.read(length))
    header.pop("__metadata__", None)
    arrays = {name: _stored(path, 8 + length, name, entry) for name, entry in header.items()}
    return Checkpoint(path, "safetensors", MappingProxyType(arrays))


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


def _stored(path: Path, start: int, name: str, entry: dict[str, Any]) -> StoredArray:
    shape = tuple(int(n) for n in entry["shape"])
    dtype, _ = _DTYPES.get(entry["dtype"], (str(entry["dtype"]).lower(), ""))
    offset = start + int(entry["data_offsets"][0])
    return StoredArray(shape, dtype, partial(_values, path, name, entry["dtype"], shape, offset))


def _values(path: Path, name: str, code: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
    if code not in _DTYPES:
        raise refusal(
            path,
            got=f"{name} with elements of type {code}",
            why="this element type is not read here",
            do="store this array as float32 or bfloat16",
        )
    count = math.prod(shape)
    try:
        values = np.fromfile(path, dtype=_DTYPES[code][1], count=count, offset=offset)
    except OSError as error:
        raise _changed(path, name) from error
    if values.size != count:
        raise _changed(path, name)
    return (widen_bfloat16(values) if code == "BF16" else values).reshape(shape)


def _changed(path: Path, name: str) -> Exception:
    return refusal(
        path,
        got=f"fewer bytes for {name} than when the file was opened",
        why="another process changed or removed the file",
        do="read it again once it is complete",
    )
