"""Reader and writer of Keras 3's archives (``.keras``): two JSON files and HDF5 content.

``config`` has three keys: ``model`` (config.json), ``metadata`` (metadata.json) and
``attributes`` (of the HDF5 content, by path of the group or array). Optimizer state and further
entries, such as vocabularies under ``assets/``, are named in ``left``.
"""

from __future__ import annotations

import shutil
import zipfile
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints._hdf5 import parsed
from evenkeel.checkpoints._hdf5_layout import WEIGHTS, checkpoint, describe, inside
from evenkeel.checkpoints._hdf5_write import pieces, template
from evenkeel.checkpoints._values import require_no_metadata
from evenkeel.checkpoints._zips import reading

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray

_MODEL: Final = "config.json"
_METADATA: Final = "metadata.json"


def read(path: Path) -> Checkpoint:
    """Read the names, shapes, element types and configuration of a ``.keras`` archive."""
    place = inside(path)
    texts, others = _texts(path)
    extents, attributes = describe(place)
    config = {
        "attributes": attributes,
        "model": parsed(path, texts[_MODEL], _MODEL),
        "metadata": parsed(path, texts[_METADATA], _METADATA) if _METADATA in texts else {},
    }
    found = checkpoint("keras", place, extents, config)
    return replace(found, left=(*found.left, *others))


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the archive ``like`` with other values; its configuration and assets stay.

    Raises:
        FileError: ``like`` is missing or no ``.keras`` archive, the arrays do not fit it, or there
            is metadata.
    """
    require_no_metadata(path, metadata or {}, "Keras")
    pattern = like if like is not None and like.kind == "keras" else None
    place, targets = template(path, pattern, arrays)
    with zipfile.ZipFile(place.path) as source, zipfile.ZipFile(path, "w") as target:
        for info in source.infolist():
            copy = zipfile.ZipInfo(info.filename, info.date_time)
            copy.file_size = info.file_size  # tells zipfile whether its large form is needed
            with target.open(copy, "w") as file:
                if info.filename == WEIGHTS:
                    file.writelines(pieces(path, place, targets, arrays))
                else:
                    with source.open(info) as content:
                        shutil.copyfileobj(content, file)


def _texts(path: Path) -> tuple[dict[str, bytes], list[str]]:
    """The JSON files, and the names of entries that are neither those nor the values."""
    with reading(path) as archive:
        names = archive.namelist()
        texts = {name: archive.read(name) for name in (_MODEL, _METADATA) if name in names}
    return texts, [name for name in names if name not in {_MODEL, _METADATA, WEIGHTS}]
