"""Reader and writer of HDF5 files of Keras: ``.weights.h5`` and the older ``.h5``.

``config`` has three keys: ``attributes`` (by path of the group or array, ``""`` is the top),
``model`` (what the older format stores as ``model_config``, else None) and ``metadata``
(``keras_version`` and ``backend``, in the older format only). Optimizer state is named in
``left``.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from evenkeel.checkpoints._checkpoint import refusal
from evenkeel.checkpoints._hdf5_layout import Place, checkpoint, describe
from evenkeel.checkpoints._hdf5_write import pieces, template
from evenkeel.checkpoints._values import require_no_metadata

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray


def read(path: Path) -> Checkpoint:
    """Read the names, shapes and element types of an HDF5 file that Keras wrote."""
    place = Place.whole(path)
    extents, attributes = describe(place)
    top = attributes.get("", {})
    text = top.pop("model_config", None)
    config = {
        "attributes": attributes,
        "model": None if text is None else parsed(path, str(text), "model_config"),
        "metadata": {key: top[key] for key in ("keras_version", "backend") if key in top},
    }
    return checkpoint("hdf5", place, extents, config)


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write the HDF5 content of ``like`` (of either Keras kind) with other values.

    Its names, attributes and element types stay.

    Raises:
        FileError: ``like`` is missing or no pattern, the arrays do not fit it, or there is
            metadata.
    """
    require_no_metadata(path, metadata or {}, "Keras")
    place, targets = template(path, like, arrays)
    with path.open("wb") as file:
        file.writelines(pieces(path, place, targets, arrays))


def parsed(path: Path, text: str | bytes, what: str) -> Any:  # noqa: ANN401 - any JSON value
    """The JSON value of a part of a file."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise refusal(
            path,
            got=f"a {what} that is no JSON ({error})",
            why="without it the layers of the model are not known",
            do="copy or download it again, and compare the sizes",
        ) from error
