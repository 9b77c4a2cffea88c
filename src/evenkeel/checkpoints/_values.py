"""What every writer asks of the arrays that it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.checkpoints._checkpoint import widen_bfloat16
from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from evenkeel.checkpoints._checkpoint import StoredArray

#: Element types with the same name and meaning in every format that is written.
PLAIN: Final = (
    *("float64", "float32", "float16", "int64", "int32", "int16", "int8"),
    *("uint64", "uint32", "uint16", "uint8", "bool", "complex64", "complex128"),
)
BFLOAT16: Final = "bfloat16"


def write_refusal(path: Path, *, got: str, why: str, do: str) -> FileError:
    """The error of every writer: names the target and answers the four questions."""
    return FileError(explain(asked=f"write the checkpoint {path}", got=got, why=why, do=do))


def require_dtypes(
    path: Path, arrays: Mapping[str, StoredArray], known: Collection[str], kind: str
) -> None:
    """Refuse the first array whose element type the format cannot hold.

    Raises:
        FileError: an element type is not in ``known``.
    """
    for name, array in arrays.items():
        if array.dtype not in known:
            raise write_refusal(
                path,
                got=f"{name} with elements of type {array.dtype}",
                why=f"a {kind} file has no such element type, or none that is written here",
                do="convert this array to float32, or choose another kind of file",
            )


def require_no_metadata(path: Path, metadata: Mapping[str, Any], kind: str) -> None:
    """Refuse metadata that the format has no place for.

    Raises:
        FileError: there is any.
    """
    if metadata:
        raise write_refusal(
            path,
            got=f"metadata ({', '.join(map(str, metadata))})",
            why=f"a {kind} file has no place for it",
            do="leave the metadata out, or write a safetensors file",
        )


def require_same_names(path: Path, arrays: Collection[str], like: Collection[str]) -> None:
    """Refuse when the arrays are not the ones of the file whose structure is copied.

    Raises:
        FileError: a name is missing, or there is one too many.
    """
    missing = [name for name in like if name not in arrays]
    extra = [name for name in arrays if name not in like]
    if missing or extra:
        named = missing[:3] or extra[:3]
        raise write_refusal(
            path,
            got=f"{len(missing)} arrays missing and {len(extra)} too many, as {', '.join(named)}",
            why="the structure is copied from `like`, whose arrays must all be given, and no other",
            do="give an array for every name in like.arrays",
        )


def fetch(path: Path, name: str, array: StoredArray) -> NDArray[Any]:
    """The values, in C order and the machine's byte order; bfloat16 as its bits in uint16.

    Raises:
        FileError: they are not what ``shape`` and ``dtype`` declared, or a value of an array
            that is declared as bfloat16 is not one.
    """
    values = array.read()
    wanted = "float32" if array.dtype == BFLOAT16 else array.dtype
    if (values.dtype.name, values.shape) != (wanted, array.shape):
        raise write_refusal(
            path,
            got=f"{name}: {values.dtype.name} values of shape {values.shape}",
            why=f"the array was declared as {array.dtype} of shape {array.shape}",
            do="declare what read() returns (bfloat16 comes as float32)",
        )
    # asarray, because ascontiguousarray gives a scalar one axis.
    ordered = np.asarray(values, dtype=values.dtype.newbyteorder("="), order="C")
    return _narrow(path, name, ordered) if array.dtype == BFLOAT16 else ordered


def fetch_bytes(path: Path, name: str, array: StoredArray) -> memoryview:
    """As :func:`fetch`, as little-endian bytes that copy nothing."""
    values = fetch(path, name, array)
    # On a little-endian machine this is the array itself.
    little = values.astype(values.dtype.newbyteorder("<"), copy=False)
    return little.reshape(-1).view(np.uint8).data


def itemsize(dtype: str) -> int:
    """Bytes of one element of a type in ``PLAIN``, or of bfloat16."""
    return 2 if dtype == BFLOAT16 else np.dtype(dtype).itemsize


def _narrow(path: Path, name: str, values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """The bfloat16 bits of float32 values, compared as bits because NaN equals nothing."""
    # asarray, because arithmetic turns an array of shape () into a number.
    bits = np.asarray(values.view(np.uint32) >> 16, np.uint16)
    if not np.array_equal(widen_bfloat16(bits).view(np.uint32), values.view(np.uint32)):
        raise write_refusal(
            path,
            got=f"{name} with values that are no bfloat16",
            why="the array is declared as bfloat16, and rounding would change it",
            do="declare it as float32, or round it yourself",
        )
    return bits
