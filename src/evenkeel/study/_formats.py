"""The three kinds of data a study reads, as raw arrays: digits, npz files, idx folders."""

from __future__ import annotations

import gzip
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from evenkeel.errors import FileError, InputError, explain
from evenkeel.study._npz import read_arrays

if TYPE_CHECKING:
    from collections.abc import Callable

#: Third byte of an idx file -> element type; all are big-endian.
_IDX_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
#: Part of the data -> how its files are called.
_IDX_SPLITS: Final = {"train": ("train",), "test": ("t10k", "test")}


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
    kind, _, path = source.partition(":")
    if kind not in _READERS or (kind == "digits") == bool(path):
        got, do = _mistake(source, kind)
        why = "known are digits, npz:FILE and idx:DIR"
        raise InputError(explain(asked=f"--data {source}", got=got, why=why, do=do))
    return _READERS[kind](Path(path))


def _mistake(source: str, kind: str) -> tuple[str, str]:
    """What is wrong with the name of a source, and what was probably meant."""
    if kind == "digits":
        return "digits with a path, and digits takes no path", "write --data digits"
    if kind in _READERS:
        form = "npz:mine.npz" if kind == "npz" else "idx:mnist/"
        return f"{kind} without a path", f"write e.g. --data {form}"
    place = Path(source)
    if source and place.is_dir():
        return "a folder, but not its kind", f"for MNIST's format write --data idx:{source}"
    if place.is_file() and place.suffix == ".npz":
        return "a file, but not its kind", f"write --data npz:{source}"
    if place.is_file():
        do = "save its arrays with numpy.savez(path, x=images, y=labels), then --data npz:path"
        return f"a {place.suffix or 'nameless'} file, which is of an unknown kind", do
    do = "write e.g. --data digits, --data npz:mine.npz or --data idx:mnist/"
    if "mnist" in kind.lower():
        do = "name the folder that holds its four files: --data idx:DIR"
    return f"unknown kind {kind!r}", do


def _read_digits(_: Path) -> RawData:
    """Return the 1797 handwritten digits of 8x8 pixels that scikit-learn carries."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return RawData(name="handwritten digits (scikit-learn)", x=digits.images, y=digits.target)


def _read_npz(path: Path) -> RawData:
    """Read arrays ``x`` and ``y``, with or without a split; nothing is unpickled."""
    x, y, *test = read_arrays(path)
    test_x, test_y = test or (None, None)
    return RawData(name=path.name, x=x, y=y, test_x=test_x, test_y=test_y)


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
    parts = {key: _read_idx_file(path) for key, path in _find_idx(folder).items()}
    return RawData(
        name=folder.resolve().name,
        x=parts["train", "images"],
        y=parts["train", "labels"],
        test_x=parts["test", "images"],
        test_y=parts["test", "labels"],
    )


def _find_idx(folder: Path) -> dict[tuple[str, str], Path]:
    """Return the four files; MNIST calls the test split t10k, EMNIST calls it test."""
    found: dict[tuple[str, str], list[Path]] = {}
    present = sorted(p for p in folder.iterdir() if p.is_file() and "idx" in p.name)
    for split, names in _IDX_SPLITS.items():
        for what in ("images", "labels"):
            forms = [f"{name}-{what}" for name in names]
            found[split, what] = [p for p in present if any(form in p.name for form in forms)]
    wrong = {key: paths for key, paths in found.items() if len(paths) != 1}
    if wrong:
        _refuse_idx(folder, wrong)
    return {key: paths[0] for key, paths in found.items()}


def _refuse_idx(folder: Path, wrong: dict[tuple[str, str], list[Path]]) -> NoReturn:
    """Say all at once which files are missing and which are there twice."""
    patterns = {key: f"{_IDX_SPLITS[key[0]][0]}-{key[1]}-idx*" for key in wrong}
    missing = [patterns[key] for key, paths in wrong.items() if not paths]
    twice = [path.name for paths in wrong.values() for path in paths]
    got = [f"no such file as {', '.join(missing)}"] if missing else []
    got += [f"more than one of a kind: {', '.join(twice)}"] if twice else []
    do = "keep one file of each there, as MNIST names them (.gz or not)"
    raise FileError(
        explain(
            asked=f"--data idx:{folder}",
            got="; ".join(got),
            why="exactly one file has to match for the images and the labels of each part",
            do=do,
        )
    )


def _read_idx_file(path: Path) -> np.ndarray[Any, Any]:
    """Read one idx file: a magic number, the dimensions, then exactly that many values.

    Source: http://yann.lecun.com/exdb/mnist/ (the IDX file format).
    """
    try:
        with gzip.open(path) if path.suffix == ".gz" else path.open("rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error, MemoryError) as error:
        raise _unreadable(path, error, "an idx file") from error
    magic, rank = content[:3], content[3] if len(content) > 3 else 0
    start = 4 + 4 * rank
    if len(content) < start or magic[:2] != b"\0\0" or magic[2] not in _IDX_TYPES or not rank:
        raise _unreadable(path, ValueError(f"starts with {content[:4]!r}"), "an idx file")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    dtype = np.dtype(_IDX_TYPES[magic[2]])
    expected = math.prod(shape) * dtype.itemsize
    if len(content) - start != expected:
        size = f"{len(content) - start} bytes of values instead of {expected}"
        raise _unreadable(path, ValueError(size), "a complete idx file")
    return np.frombuffer(content, dtype, offset=start).reshape(shape)


def _unreadable(path: Path, error: Exception, wanted: str) -> FileError:
    got = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return FileError(
        explain(
            asked=f"--data idx:{path.parent}",
            got=f"{path.name}: {got.splitlines()[0] if got else type(error).__name__}",
            why=f"this file is not {wanted}; it is damaged, cut off or of another kind",
            do="download it again, and compare the sizes",
        )
    )


_READERS: Final[dict[str, Callable[[Path], RawData]]] = {
    "digits": _read_digits,
    "npz": _read_npz,
    "idx": _read_idx,
}
