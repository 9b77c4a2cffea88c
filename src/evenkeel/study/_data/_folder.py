"""Images in one folder per class: which files there are, and what is wrong with their places."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from evenkeel.errors import FileError, explain
from evenkeel.study._data._images import has_image_name, read_images

if TYPE_CHECKING:
    from pathlib import Path

#: Sub-folders that hold the two parts of data with a split of its own.
_TRAIN, _TEST = "train", "test"
#: A third part that many data sets have; the study makes no choices that would need it.
_UNUSED: Final = frozenset({"val", "valid", "validation"})
#: What operating systems leave behind, beside names that begin with a dot.
_HIDDEN: Final = frozenset({"thumbs.db", "desktop.ini", "__macosx"})
#: Names listed in a message.
_LISTED: Final = 5


def read_folder(folder: Path) -> tuple[np.ndarray[Any, Any], ...]:
    """Read images and labels, or both for training and both for testing.

    Each sub-folder is a class, called as the folder is, and holds its images directly; or
    ``train`` and ``test`` hold those sub-folders, and a third part such as ``val`` beside them
    is not read. Hidden files, and files beside the folders that are no images, do not matter.
    Classes and files are taken in the order of their names.

    Returns:
        Images as :func:`read_images` has them, and labels as text.

    Raises:
        FileError: no folder of class folders, a file that is no image, damaged or too large,
            images that differ in size.
    """
    try:
        parts = [_list_classes(folder, part) for part in _parts(folder)]
    except OSError as error:
        if isinstance(error, FileError):
            raise
        got = f"{error.filename}: {error.strerror}"
        _refuse(folder, got, "the system does not let this process list it", "check permissions")
    files = [path for part in parts for paths in part.values() for path in paths]
    images = read_images(folder, files)
    arrays: list[np.ndarray[Any, Any]] = []
    start = 0
    for part in parts:
        labels = np.repeat(list(part), [len(paths) for paths in part.values()])
        arrays += [images[start : start + len(labels)], labels]
        start += len(labels)
    return tuple(arrays)


def _parts(folder: Path) -> list[Path]:
    """The folder itself, or the one for training and the one for testing."""
    if not folder.is_dir():
        got = "a file" if folder.exists() else "no such folder"
        do = "unpack it" if folder.exists() else "check the spelling"
        _refuse(folder, got, "the data is a folder with one sub-folder of images per class", do)
    inside = {path.name: path for path in _visible(folder) if path.is_dir()}
    if _TRAIN not in inside or not any(path.is_dir() for path in _visible(inside[_TRAIN])):
        return [folder]
    if _TEST not in inside:
        got = f"{_TRAIN}/ with class folders in it, and no {_TEST}/"
        why = f"data with a split of its own has both, next to each other: {_listed([*inside])}"
        do = f"call the other part {_TEST}, or let the study split: --data folder:{inside[_TRAIN]}"
        _refuse(folder, got, why, do)
    strange = sorted(inside.keys() - {_TRAIN, _TEST} - _UNUSED)
    if strange:
        got = f"{_TRAIN}/ and {_TEST}/ beside other folders: {_listed(strange)}"
        why = "either the two parts lie here or the classes, not both"
        _refuse(folder, got, why, "move the other folders elsewhere")
    return [inside[_TRAIN], inside[_TEST]]


def _list_classes(root: Path, part: Path) -> dict[str, list[Path]]:
    """Name of each class -> its files, both in order."""
    present = _visible(part)
    folders = [path for path in present if path.is_dir()]
    loose = [path.name for path in present if not path.is_dir() and has_image_name(path)]
    if not folders:
        got = f"no sub-folder in {part}" + (f", but images: {_listed(loose)}" if loose else "")
        do = "sort the images into one sub-folder per class, e.g. cat/ and dog/"
        if any("-idx" in path.name for path in present):
            do = f"for MNIST's files write --data idx:{part}"
        _refuse(root, got, "each class is a sub-folder, and its name is the label", do)
    if loose:
        got = f"images outside the class folders: {_listed(loose)}"
        _refuse(root, got, "they have no label", "move them into the folder of their class")
    return {path.name: _list_images(root, path) for path in folders}


def _list_images(root: Path, folder: Path) -> list[Path]:
    files = _visible(folder)
    name = folder.relative_to(root)
    deeper = [path.name for path in files if path.is_dir()]
    if deeper:
        do = "move the images up into the class folder"
        if len(deeper) == len(files) > 1:
            do = f"if these are the classes, write --data folder:{folder}"
        got = f"{name}/ with sub-folders in it: {_listed(deeper)}"
        _refuse(root, got, "the images have to lie in the class folder itself", do)
    if not files:
        why = "a class without an image can be neither learned nor tested"
        _refuse(root, f"{name}/ without any image", why, "put images there, or remove the folder")
    return files


def _visible(folder: Path) -> list[Path]:
    """What lies in a folder, in the order of the names."""
    inside = (p for p in folder.iterdir() if p.name[0] != "." and p.name.lower() not in _HIDDEN)
    return sorted(inside, key=lambda path: path.name)


def _listed(names: list[str]) -> str:
    return ", ".join(names[:_LISTED]) + (", ..." if len(names) > _LISTED else "")


def _refuse(folder: Path, got: str, why: str, do: str) -> NoReturn:
    raise FileError(explain(asked=f"--data folder:{folder}", got=got, why=why, do=do))
