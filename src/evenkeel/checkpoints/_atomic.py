"""Makes a file or folder appear at its place whole or not at all."""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import shutil
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_ENDING: Final = ".partial"
_DATA: Final = ".data"
_DIGITS: Final = 12
_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2


class NoSwapError(Exception):
    """This system cannot exchange two folders in one step."""


class FolderInTheWayError(Exception):
    """There is a folder where a file was to be, or the other way round."""


@contextlib.contextmanager
def workspace(target: Path) -> Generator[Path]:
    """A path of the target's name in a hidden folder beside it, removed in the end.

    The folder is locked while it is in use, and the system drops the lock of a process that
    dies, so that folders of killed processes are known and removed here.
    """
    _remove_abandoned(target)
    folder, lock = _make_held(target)
    try:
        yield folder / target.name
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if lock is not None:
            os.close(lock)


def commit(place: Path, target: Path, *, overwrite: bool) -> None:
    """Flush what was written at ``place`` and beside it, and move it to the target.

    Files beside it (the external data of an ONNX model) go first, under names that nothing
    there uses, so that the target never speaks of data that are not there.

    Raises:
        FileExistsError: the target appeared meanwhile, and ``overwrite`` is false.
        NoSwapError: the target is a folder, and this system cannot exchange folders.
    """
    _flush(place.parent)
    beside = [path for path in place.parent.iterdir() if path != place]
    moved: list[Path] = []
    try:
        for path in beside:
            new = not (target.parent / path.name).exists()
            path.replace(target.parent / path.name)
            moved += [target.parent / path.name] if new else []
        _move(place, target, overwrite=overwrite)
    except BaseException:
        for path in moved:
            path.unlink(missing_ok=True)
        raise
    _sync(target.parent)
    _remove_replaced(target, {path.name for path in beside})


def data_name(target: Path, digest: str) -> str:
    """Name of a file beside the target that holds its data, by a digest of its content."""
    return f"{target.name}.{digest[:_DIGITS]}{_DATA}"


def _remove_replaced(target: Path, kept: set[str]) -> None:
    """Remove data files of a target that was replaced; only those that were named here."""
    pattern = re.compile(rf"{re.escape(target.name)}\.[0-9a-f]{{{_DIGITS}}}{re.escape(_DATA)}")
    for path in target.parent.iterdir():
        if pattern.fullmatch(path.name) and path.name not in kept:
            path.unlink(missing_ok=True)


def _move(place: Path, target: Path, *, overwrite: bool) -> None:
    if not overwrite:
        _move_new(place, target)
    elif target.is_dir():
        _exchange(place, target)  # the old folder goes with the workspace
    else:
        with contextlib.suppress(FileNotFoundError):
            shutil.copymode(target, place)
        place.replace(target)


def _move_new(place: Path, target: Path) -> None:
    """Move without replacing: of two writers at the same time, one gets an error."""
    if place.is_file():
        try:
            os.link(place, target)
        except FileExistsError:
            raise
        except OSError:
            pass  # this file system has no hard links; looking before has to do
        else:
            return
    if target.exists():
        raise FileExistsError(target)
    place.rename(target)


def _exchange(place: Path, target: Path) -> None:
    """Exchange two folders in one step; the standard library has no call for it."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if _LINUX else None
    if rename is None:
        raise NoSwapError("this system has no call that exchanges two folders")
    ends = (_AT_FDCWD, os.fsencode(place), _AT_FDCWD, os.fsencode(target))
    if rename(*ends, _RENAME_EXCHANGE):
        text = os.strerror(ctypes.get_errno())
        raise NoSwapError(f"the file system cannot exchange two folders ({text})")


_LINUX: Final = sys.platform == "linux"


def _flush(folder: Path) -> None:
    """Bring every file and folder of the tree to the disk, the folder itself last."""
    for root, _, names in os.walk(folder, topdown=False):
        for name in names:
            _sync(Path(root, name))
        _sync(Path(root))


def _sync(path: Path) -> None:
    if path.is_dir() and sys.platform == "win32":
        return  # Windows opens no folders
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def _make_held(target: Path) -> tuple[Path, int | None]:
    """Make the folder and hold it; another writer can remove it before it is held."""
    for last in (False, False, True):
        folder = Path(tempfile.mkdtemp(_ENDING, f".{target.name}.", target.parent))
        lock = _lock(folder)
        if last or (lock is not None and folder.exists()):
            return folder, lock
        if lock is not None:
            os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)
    raise AssertionError("the last round returns")


def _lock(folder: Path) -> int | None:
    """Hold the folder; None where it is held by another process, or nothing can be held."""
    if sys.platform == "win32":
        return None
    import fcntl

    file = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(file)
        return None
    return file


def _remove_abandoned(target: Path) -> None:
    pattern = re.compile(rf"\.{re.escape(target.name)}\.\w+{re.escape(_ENDING)}")
    for folder in target.parent.iterdir():
        if not pattern.fullmatch(folder.name) or not folder.is_dir():
            continue
        lock = _lock(folder)
        if lock is not None:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lock)
