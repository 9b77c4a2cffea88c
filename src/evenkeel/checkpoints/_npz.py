"""Reader and writer of NumPy's archives; no pickle in them is ever loaded."""

from __future__ import annotations

import math
import warnings
import zipfile
from functools import partial
from tokenize import TokenError
from types import MappingProxyType
from typing import IO, TYPE_CHECKING, Any, Final

from numpy.lib import format as npy

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal
from evenkeel.checkpoints._values import PLAIN, fetch, require_dtypes, require_no_metadata
from evenkeel.checkpoints._zips import DAMAGED, Entry, entries, reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    import numpy as np
    from numpy.typing import NDArray

#: What NumPy raises of a header that is none; it tries to read it as Python 2's, too.
_NO_HEADER: Final = (KeyError, SyntaxError, TypeError, RecursionError, TokenError, *DAMAGED)
#: bool, signed and unsigned integers, floats, complex numbers.
_NUMBERS: Final = "biufc"
#: Written for every entry, so that equal arrays make equal files.
_DATE: Final = (1980, 1, 1, 0, 0, 0)


def read(path: Path) -> Checkpoint:
    """Read the headers of an ``.npz``; an array's name is its entry's without ``.npy``."""
    found = entries(path)
    with reading(path) as archive:
        arrays = {
            name.removesuffix(".npy"): _stored(path, archive, entry)
            for name, entry in found.items()
        }
    if len(arrays) != len(found):
        raise _odd(path, "two entries of one name")
    return Checkpoint(path, "npz", MappingProxyType(arrays))


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,  # noqa: ARG001 - the file is nothing but its arrays
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write arrays one by one, unpacked.

    Raises:
        FileError: NumPy has no name for an element type (bfloat16), or there is metadata.
    """
    require_no_metadata(path, metadata or {}, "NumPy")
    require_dtypes(path, arrays, PLAIN, "NumPy")
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            info = zipfile.ZipInfo(f"{name}.npy", _DATE)
            with archive.open(info, "w", force_zip64=True) as file:
                npy.write_array(file, fetch(path, name, array), allow_pickle=False)


def _stored(path: Path, archive: zipfile.ZipFile, entry: Entry) -> StoredArray:
    with archive.open(entry.name) as file:
        shape, dtype = _header(path, entry.name, file)
        size = math.prod(shape) * dtype.itemsize
        if dtype.hasobject:
            raise _odd(path, f"{entry.name!r} with Python objects, which only a pickle can hold")
        if min(shape, default=0) < 0 or file.tell() + size != entry.size:
            raise _odd(path, f"{entry.name!r}, whose shape {shape} does not fit its bytes")
    usual = dtype.newbyteorder("=")
    return StoredArray(shape, usual.name, partial(_values, path, entry.name, shape, usual))


def _header(path: Path, name: str, file: IO[bytes]) -> tuple[tuple[int, ...], np.dtype[Any]]:
    readers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of what Python 2 wrote
            shape, _, dtype = readers[npy.read_magic(file)](file)
    except _NO_HEADER as error:
        raise _odd(path, f"{name!r} with no header of an array ({error})") from error
    return shape, dtype


def _values(path: Path, name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    if dtype.kind not in _NUMBERS:
        raise _odd(path, f"{name!r} with elements of type {dtype}", do="store it as float32")
    try:
        with zipfile.ZipFile(path) as archive, archive.open(name) as file:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # as for the header
                values: NDArray[Any] = npy.read_array(file, allow_pickle=False)
            file.read(1)  # at the end of the entry zipfile compares the checksum
    except (KeyError, OSError, *DAMAGED) as error:
        raise _changed(path, name) from error
    if values.shape != shape or values.dtype.newbyteorder("=") != dtype:
        raise _changed(path, name)
    return values.astype(dtype, copy=False)


def _odd(path: Path, got: str, do: str = "write it again with numpy.savez") -> Exception:
    return refusal(path, got=got, why="it is no array of numbers that is whole", do=do)


def _changed(path: Path, name: str) -> Exception:
    return refusal(
        path,
        got=f"another {name!r} than when the file was opened",
        why="another process changed, cut or removed the file",
        do="read it again once it is complete",
    )
