"""The three kinds of data a study reads, as raw arrays: digits, npz files, idx folders."""

from __future__ import annotations

import gzip
import math
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.errors import FileError, InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

#: Third byte of an idx file -> element type; all are big-endian.
_IDX_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
_NPZ_NAMES: Final = "x and y, or x_train, y_train, x_test and y_test"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """Arrays as they were read; ``test_x`` is None where the source has no split of its own."""

    name: str
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    test_x: np.ndarray[Any, Any] | None = None
    test_y: np.ndarray[Any, Any] | None = None


def read(source: str) -> RawData:
    """Read ``digits``, ``npz:FILE`` or ``idx:DIR``.

    Raises:
        InputError: the kind is unknown or the path is missing from it.
        FileError: the file or folder is missing, damaged, or holds something else.
    """
    kind, colon, path = source.partition(":")
    if kind not in _READERS or (kind == "digits") == bool(colon and path):
        raise InputError(
            explain(
                asked=f"--data {source}",
                got=f"kind {kind!r}" + (f" with path {path!r}" if path else " without a path"),
                why="known are digits, npz:FILE and idx:DIR",
                do="write e.g. --data digits, --data npz:mine.npz or --data idx:mnist/",
            )
        )
    return _READERS[kind](Path(path))


def _read_digits(_: Path) -> RawData:
    """Return the 1797 handwritten digits of 8x8 pixels that scikit-learn carries."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return RawData(name="handwritten digits (scikit-learn)", x=digits.images, y=digits.target)


def _read_npz(path: Path) -> RawData:
    """Read arrays ``x`` and ``y``, with or without a split; nothing is unpickled."""
    arrays = _npz_arrays(path)
    if {"x_train", "y_train", "x_test", "y_test"} <= arrays.keys():
        return RawData(
            name=path.name,
            x=arrays["x_train"],
            y=arrays["y_train"],
            test_x=arrays["x_test"],
            test_y=arrays["y_test"],
        )
    if {"x", "y"} <= arrays.keys():
        return RawData(name=path.name, x=arrays["x"], y=arrays["y"])
    raise FileError(
        explain(
            asked=f"--data npz:{path}",
            got=f"arrays {', '.join(sorted(arrays)) or '(none)'}",
            why=f"the arrays have to be called {_NPZ_NAMES}",
            do="save them with numpy.savez(path, x=images, y=labels)",
        )
    )


def _npz_arrays(path: Path) -> dict[str, np.ndarray[Any, Any]]:
    """Return all arrays of an npz file; refuse pickles, damage and other files."""
    try:
        with path.open("rb") as file:
            zipfile.ZipFile(file).close()  # np.load would take other files for something else
            file.seek(0)
            with np.load(file, allow_pickle=False) as archive:
                return {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, MemoryError, NotImplementedError) as error:
        raise _unreadable(f"--data npz:{path}", error, "an .npz file of plain arrays") from error
    except (zipfile.BadZipFile, zlib.error, SyntaxError) as error:
        raise _unreadable(f"--data npz:{path}", error, "an .npz file of plain arrays") from error


def _read_idx(folder: Path) -> RawData:
    """Read MNIST and its relatives: images and labels for training and test, .gz or not."""
    if not folder.is_dir():
        raise FileError(
            explain(
                asked=f"--data idx:{folder}",
                got="no such folder" if not folder.exists() else "a file",
                why="idx data is a folder of four files (images and labels, training and test)",
                do="name the folder that holds train-images-idx3-ubyte and the others",
            )
        )
    parts = {
        (split, what): _read_idx_file(_find_idx(folder, split, what))
        for split in ("train", "test")
        for what in ("images", "labels")
    }
    return RawData(
        name=folder.resolve().name,
        x=parts["train", "images"],
        y=parts["train", "labels"],
        test_x=parts["test", "images"],
        test_y=parts["test", "labels"],
    )


def _find_idx(folder: Path, split: str, what: str) -> Path:
    """Return the one file for a split; MNIST calls the test split t10k, EMNIST calls it test."""
    names = ("train",) if split == "train" else ("t10k", "test")
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file()
        and "idx" in path.name
        and any(f"{name}-{what}" in path.name for name in names)
    )
    if len(found) != 1:
        raise FileError(
            explain(
                asked=f"the {split} {what} in {folder}",
                got=", ".join(path.name for path in found) or "no such file",
                why="exactly one file has to match",
                do=f"keep one file called like {names[0]}-{what}-idx3-ubyte (or .gz) there",
            )
        )
    return found[0]


def _read_idx_file(path: Path) -> np.ndarray[Any, Any]:
    """Read one idx file: a magic number, the dimensions, then exactly that many values.

    Source: http://yann.lecun.com/exdb/mnist/ (the IDX file format).
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise _unreadable(str(path), error, "an idx file") from error
    magic, rank = content[:3], content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if len(content) < start or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not rank:
        raise _unreadable(str(path), ValueError(f"starts with {content[:4]!r}"), "an idx file")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    dtype = np.dtype(_IDX_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        size = f"{len(content) - start} bytes of values instead of {expected}"
        raise _unreadable(str(path), ValueError(size), "a complete idx file")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _unreadable(asked: str, error: Exception, wanted: str) -> FileError:
    got = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return FileError(
        explain(
            asked=asked,
            got=got.splitlines()[0] if got else type(error).__name__,
            why=f"the study needs {wanted}; this one is missing, damaged or of another kind",
            do="check the path, or download or save the file again",
        )
    )


_READERS: Final[dict[str, Callable[[Path], RawData]]] = {
    "digits": _read_digits,
    "npz": _read_npz,
    "idx": _read_idx,
}
