"""Arrays out of an .npz file; nothing is unpickled, and each failure has its own advice."""

from __future__ import annotations

import zipfile
import zlib
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from pathlib import Path

#: Names of the arrays, with a split of its own first.
_SPLIT: Final = ("x_train", "y_train", "x_test", "y_test")
_WHOLE: Final = ("x", "y")
_SAVE: Final = "save both arrays: numpy.savez(path, x=images, y=labels)"
_AGAIN: Final = "copy, download or save it again, and compare the sizes"


def read_arrays(path: Path) -> tuple[np.ndarray[Any, Any], ...]:
    """Read ``x`` and ``y``, or ``x_train``, ``y_train``, ``x_test`` and ``y_test``.

    Raises:
        FileError: missing, a directory, not readable, of another kind, damaged, without these
            names, or with arrays of Python objects.
    """
    try:
        _require_npz(path)
        # An open file, because np.load leaves one that it opened itself open when it fails.
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            names = _choose(path, archive.files)
            return tuple(_member(path, archive, name) for name in names)
    except FileError:
        raise  # it is a ValueError as well
    except OSError as error:
        why = "the system does not let this process read it"
        do = "check its permissions and the disk"
        _refuse(path, error.strerror or str(error), why, do, error)
    except (zipfile.BadZipFile, zlib.error, ValueError, EOFError, NotImplementedError) as error:
        got = f"an archive that cannot be read ({_first_line(error)})"
        _refuse(path, got, "it is damaged or cut off", _AGAIN, error)


def _require_npz(path: Path) -> None:
    """Refuse what is no zip archive; ``np.load`` would take it for something else."""
    if path.is_dir():
        found = sorted(p.name for p in path.glob("*.npz"))
        do = f"name a file in it: {', '.join(found[:5])}" if found else _SAVE
        if any("-idx" in p.name for p in path.iterdir()):
            do = f"for MNIST's files: --data idx:{path}"
        elif not found and any(p.is_dir() for p in path.iterdir()):
            do = f"for a folder of images per class: --data folder:{path}"
        _refuse(path, "a directory", "npz: takes one file", do)
    if not path.exists():
        do = "check the spelling, and the directory that the command runs in"
        _refuse(path, "no such file", "there is nothing to read", do)
    with path.open("rb") as file:
        head = file.read(6)
    if head.startswith(b"PK"):
        return
    looks = f"a file that begins with {head!r}" if head else "an empty file"
    if head == b"\x93NUMPY":
        looks = "a single array (.npy)"
    _refuse(path, looks, "it is no .npz file, which is a zip archive of arrays", _SAVE)


def _choose(path: Path, present: list[str]) -> tuple[str, ...]:
    for names in (_SPLIT, _WHOLE):
        if set(names) <= set(present):
            return names
    got = f"arrays {', '.join(sorted(present)) or '(none)'}"
    started = _SPLIT if any(name in present for name in _SPLIT) else _WHOLE
    missing = [name for name in started if name not in present]
    if len(missing) < len(started):
        got += f", but no {' and no '.join(missing)}"
    why = f"the arrays have to be called {' and '.join(_WHOLE)}, or {', '.join(_SPLIT)}"
    return _refuse(path, got, why, _SAVE)


def _member(path: Path, archive: Any, name: str) -> np.ndarray[Any, Any]:  # noqa: ANN401 - NpzFile
    try:
        array = archive[name]
    except ValueError as error:
        if "allow_pickle" not in str(error):
            raise
        got = f"the array {name} holds Python objects"
        why = "they are stored as a pickle, which can run any code when it is loaded"
        do = "convert before saving: numpy.stack(list(x)) for images, y.astype(str) for names"
        _refuse(path, got, why, do, error)
    except (KeyError, SyntaxError, MemoryError) as error:
        got = f"the array {name} damaged ({_first_line(error)})"
        _refuse(path, got, "its header does not describe its values", _AGAIN, error)
    if not isinstance(array, np.ndarray):
        _refuse(path, f"{name}, which is no array", "only .npy entries are arrays", _SAVE)
    return array


def _first_line(error: Exception) -> str:
    return (str(error) or type(error).__name__).splitlines()[0]


def _refuse(path: Path, got: str, why: str, do: str, cause: Exception | None = None) -> NoReturn:
    raise FileError(explain(asked=f"--data npz:{path}", got=got, why=why, do=do)) from cause
