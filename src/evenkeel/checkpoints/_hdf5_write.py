"""Replaces the values in HDF5 content of Keras; every other byte of the pattern stays.

Nothing is written with libhdf5: names, shapes and element types do not change, so the places of
the values do not either.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from evenkeel.checkpoints._checkpoint import widen_bfloat16
from evenkeel.checkpoints._hdf5_layout import (
    OPTIMIZERS,
    Extent,
    Place,
    describe,
    dtype_name,
    inside,
    stored,
)
from evenkeel.checkpoints._values import (
    BFLOAT16,
    fetch,
    require_same_names,
    write_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray

_PIECE: Final = 1 << 20
_DO_ORIGINAL: Final = "pass a file that Keras saved from the target model as `like`"


def template(
    path: Path, like: Checkpoint | None, arrays: Mapping[str, StoredArray]
) -> tuple[Place, dict[str, tuple[Extent, str]]]:
    """Where ``like`` has its content and each of its arrays, with the element type by name.

    Raises:
        FileError: ``like`` cannot be a pattern, or ``arrays`` have not its names and shapes.
    """
    if like is None or like.kind not in {"keras", "hdf5"}:
        got = "no `like`" if like is None else f"a `like` of kind {like.kind}"
        why = "the names in Keras's files depend on the model"
        raise write_refusal(path, got=got, why=why, do=_DO_ORIGINAL)
    place = inside(like.path) if like.kind == "keras" else Place.whole(like.path)
    extents, attributes = describe(place)
    moments = [extent for extent in extents if extent.name.partition("/")[0] in OPTIMIZERS]
    _check_fresh(path, place, moments)
    targets = {
        extent.name: (extent, dtype_name(extent.code, attributes.get(extent.name, {})))
        for extent in extents
        if extent not in moments
    }
    _check_fit(path, targets, arrays)
    return place, targets


def pieces(
    path: Path,
    place: Place,
    targets: Mapping[str, tuple[Extent, str]],
    arrays: Mapping[str, StoredArray],
) -> Iterator[bytes]:
    """The content with new values, from first to last byte, one array in memory at a time."""
    at = 0
    with place.path.open("rb") as file:
        for name in sorted(targets, key=lambda name: cast("int", targets[name][0].offset)):
            extent, dtype = targets[name]
            if not extent.size:
                continue
            offset = cast("int", extent.offset)
            yield from _copied(file, place.start + at, offset - at)
            yield _encoded(path, name, arrays[name], extent, dtype)
            at = offset + extent.size
        yield from _copied(file, place.start + at, place.size - at)


def _copied(file: Any, start: int, count: int) -> Iterator[bytes]:  # noqa: ANN401 - an open file
    file.seek(start)
    while count:
        data: bytes = file.read(min(count, _PIECE))
        if not data:
            raise EOFError
        count -= len(data)
        yield data


def _encoded(path: Path, name: str, array: StoredArray, extent: Extent, dtype: str) -> bytes:
    values = fetch(path, name, array)
    if dtype == BFLOAT16:  # fetch gives its bits, and nothing else fits it
        return values.astype("<u2", copy=False).tobytes()
    if array.dtype == BFLOAT16:
        values = widen_bfloat16(values)
    return values.astype(extent.code, copy=False).tobytes()


def _check_fresh(path: Path, place: Place, moments: list[Extent]) -> None:
    """Refuse averages that an optimizer took of other weights; they would stay in the file."""
    for extent in moments:
        counts = not extent.shape and np.dtype(extent.code or "f4").kind in "iu"
        if counts and stored(place, extent, {}).read():
            raise write_refusal(
                path,
                got=f"a `like` whose optimizer has taken steps ({extent.name})",
                why="the optimizer's averages belong to the old weights and would stay",
                do="save `like` before training, or keras.models.clone_model(model)",
            )


def _check_fit(
    path: Path, targets: Mapping[str, tuple[Extent, str]], arrays: Mapping[str, StoredArray]
) -> None:
    require_same_names(path, arrays, targets)
    for name, (extent, dtype) in targets.items():
        array, got = arrays[name], ""
        if array.shape != extent.shape:
            got = f"{name} with shape {array.shape} where `like` has {extent.shape}"
        elif not _holds(dtype, array.dtype):
            got = f"{name} as {array.dtype} where `like` has {dtype}"
        elif extent.size and extent.offset is None:
            got = f"{name} in packed form in `like`"
        if got:
            why = "the values would not fit, or would change"
            raise write_refusal(path, got=got, why=why, do=_DO_ORIGINAL)


def _holds(target: str, source: str) -> bool:
    """Whether every value of an element type has its place in another."""
    if target == source:
        return True
    if source == BFLOAT16:
        return target in {"float32", "float64"}
    try:
        return np.can_cast(np.dtype(source), np.dtype(target), "safe")
    except TypeError:  # a type that NumPy has no name for
        return False
