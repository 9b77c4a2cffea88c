"""Arrays out of a folder of idx files, the format of MNIST and its relatives."""

from __future__ import annotations

import gzip
import math
import zlib
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from pathlib import Path

#: Third byte of an idx file -> element type; all are big-endian.
_TYPES: Final = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}
#: Part of the data -> how its files are called; MNIST calls the test part t10k, EMNIST test.
_SPLITS: Final = {"train": ("train",), "test": ("t10k", "test")}


def read_idx(folder: Path) -> tuple[np.ndarray[Any, Any], ...]:
    """Read images and labels for training, then images and labels for testing, .gz or not.

    Raises:
        FileError: no folder, a file missing or there twice, damaged or of another kind.
    """
    if not folder.is_dir():
        raise FileError(
            explain(
                asked=f"--data idx:{folder}",
                got="no such folder" if not folder.exists() else "a file",
                why="idx data is a folder of four files (images and labels, training and test)",
                do="name the folder that holds train-images-idx3-ubyte and the others",
            )
        )
    return tuple(_read_file(path) for path in _find(folder))


def _find(folder: Path) -> list[Path]:
    """The four files, in the order in which they are read."""
    found: dict[tuple[str, str], list[Path]] = {}
    present = sorted(p for p in folder.iterdir() if p.is_file() and "idx" in p.name)
    for split, names in _SPLITS.items():
        for what in ("images", "labels"):
            forms = [f"{name}-{what}" for name in names]
            found[split, what] = [p for p in present if any(form in p.name for form in forms)]
    wrong = {key: paths for key, paths in found.items() if len(paths) != 1}
    if wrong:
        _refuse_files(folder, wrong)
    return [paths[0] for paths in found.values()]


def _refuse_files(folder: Path, wrong: dict[tuple[str, str], list[Path]]) -> NoReturn:
    """Say all at once which files are missing and which are there twice."""
    patterns = {key: f"{_SPLITS[key[0]][0]}-{key[1]}-idx*" for key in wrong}
    missing = [patterns[key] for key, paths in wrong.items() if not paths]
    twice = [path.name for paths in wrong.values() for path in paths]
    got = [f"no such file as {', '.join(missing)}"] if missing else []
    got += [f"more than one of a kind: {', '.join(twice)}"] if twice else []
    do = "keep one file of each there, as MNIST names them (.gz or not)"
    if len(missing) == len(_SPLITS) * 2 and any(p.is_dir() for p in folder.iterdir()):
        do += f"; for a folder of images per class write --data folder:{folder}"
    raise FileError(
        explain(
            asked=f"--data idx:{folder}",
            got="; ".join(got),
            why="exactly one file has to match for the images and the labels of each part",
            do=do,
        )
    )


def _read_file(path: Path) -> np.ndarray[Any, Any]:
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
    if len(content) < start or magic[:2] != b"\0\0" or magic[2] not in _TYPES or not rank:
        raise _unreadable(path, ValueError(f"starts with {content[:4]!r}"), "an idx file")
    shape = [int.from_bytes(content[i : i + 4], "big") for i in range(4, start, 4)]
    dtype = np.dtype(_TYPES[magic[2]])
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
