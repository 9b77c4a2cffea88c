"""The four kinds of data a study reads, as raw arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import InputError, explain
from evenkeel.study._data._folder import read_folder
from evenkeel.study._data._idx import read_idx
from evenkeel.study._data._npz import read_arrays

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

#: Kind -> how it is written after ``--data``.
FORMS: Final = {"digits": "digits", "npz": "npz:FILE", "idx": "idx:DIR", "folder": "folder:DIR"}
_EXAMPLES: Final = {"npz": "npz:mine.npz", "idx": "idx:mnist/", "folder": "folder:images/"}


@dataclass(frozen=True, slots=True, kw_only=True)
class RawData:
    """Arrays as they were read.

    ``test_x`` is None where the source has no split of its own. ``ink`` says that a large value
    of a grey picture is dark, as MNIST has it; False where it is light.
    """

    name: str
    x: np.ndarray[Any, Any]
    y: np.ndarray[Any, Any]
    test_x: np.ndarray[Any, Any] | None = None
    test_y: np.ndarray[Any, Any] | None = None
    ink: bool = True


def read(source: str) -> RawData:
    """Read ``digits``, ``npz:FILE``, ``idx:DIR`` or ``folder:DIR``.

    Raises:
        InputError: the kind is unknown or the path is missing from it.
        FileError: the file or folder is missing, damaged, or holds something else.
    """
    kind, _, path = source.partition(":")
    if kind not in _READERS or (kind == "digits") == bool(path):
        got, do = _mistake(source, kind)
        *most, last = FORMS.values()
        why = f"known are {', '.join(most)} and {last}"
        raise InputError(explain(asked=f"--data {source}", got=got, why=why, do=do))
    return _READERS[kind](Path(path))


def _mistake(source: str, kind: str) -> tuple[str, str]:
    """What is wrong with the name of a source, and what was probably meant."""
    if kind == "digits":
        return "digits with a path, and digits takes no path", "write --data digits"
    if kind in _READERS:
        return f"{kind} without a path", f"write e.g. --data {_EXAMPLES[kind]}"
    place = Path(source)
    if source and place.is_dir():
        return "a folder, but not its kind", _meant_folder(place, source)
    if place.is_file() and place.suffix == ".npz":
        return "a file, but not its kind", f"write --data npz:{source}"
    if place.is_file():
        do = "save its arrays with numpy.savez(path, x=images, y=labels), then --data npz:path"
        return f"a {place.suffix or 'nameless'} file, which is of an unknown kind", do
    do = f"write e.g. --data digits, --data {' or --data '.join(_EXAMPLES.values())}"
    if "mnist" in kind.lower():
        do = "name the folder that holds its four files: --data idx:DIR"
    return f"unknown kind {kind!r}", do


def _meant_folder(place: Path, source: str) -> str:
    """What a folder without a kind was probably meant to be."""
    try:
        present = list(place.iterdir())
    except OSError:
        present = []
    if any("-idx" in path.name for path in present):
        return f"for MNIST's files write --data idx:{source}"
    if any(path.is_dir() for path in present):
        return f"for a folder of images per class write --data folder:{source}"
    arrays = sorted(path.name for path in present if path.suffix == ".npz")
    if arrays:
        return f"name the file in it: --data npz:{place / arrays[0]}"
    return f"write --data folder:{source} for a folder of images per class, idx: for MNIST's files"


def _read_digits(_: Path) -> RawData:
    """Return the 1797 handwritten digits of 8x8 pixels that scikit-learn carries."""
    from sklearn.datasets import load_digits

    digits: Any = load_digits()
    return RawData(name="handwritten digits (scikit-learn)", x=digits.images, y=digits.target)


def _read_npz(path: Path) -> RawData:
    """Read arrays ``x`` and ``y``, with or without a split; nothing is unpickled."""
    return _raw(path.name, read_arrays(path))


def _read_idx(folder: Path) -> RawData:
    return _raw(folder.resolve().name, read_idx(folder))


def _read_folder(folder: Path) -> RawData:
    return _raw(folder.resolve().name, read_folder(folder), ink=False)


def _raw(name: str, arrays: tuple[np.ndarray[Any, Any], ...], *, ink: bool = True) -> RawData:
    x, y, *test = arrays
    test_x, test_y = test or (None, None)
    return RawData(name=name, x=x, y=y, test_x=test_x, test_y=test_y, ink=ink)


_READERS: Final[dict[str, Callable[[Path], RawData]]] = {
    "digits": _read_digits,
    "npz": _read_npz,
    "idx": _read_idx,
    "folder": _read_folder,
}
