"""HDF5 content of Keras: what stands where in it, and the values.

libhdf5 can hang or crash on a damaged file, so only a child process runs it (``_child.py``). It
says where the values stand; plain values are then read here, without libhdf5.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal, widen_bfloat16
from evenkeel.checkpoints._child import HDF5, ChildError
from evenkeel.checkpoints._hdf5_names import check_names, join_split
from evenkeel.checkpoints._source import Source
from evenkeel.checkpoints._zips import entries

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_NOWHERE: Final = b"\xff" * 8
#: Bytes of the head of a file, in the version that has the fewest.
_SMALLEST_HEAD: Final = 48
#: Bytes of a description that is believed.
_LARGEST_DESCRIPTION: Final = 64 << 20
#: The entry of a ``.keras`` archive with the values.
WEIGHTS: Final = "model.weights.h5"
#: Top groups with the state of an optimizer, in Keras 3 and in the older format.
OPTIMIZERS: Final = ("optimizer", "optimizer_weights")
_DO_COPY: Final = "copy or download it again, and compare the sizes"


@dataclass(frozen=True, slots=True)
class Place:
    """Where the HDF5 content stands in a file."""

    source: Source
    start: int
    size: int

    @property
    def path(self) -> Path:
        """The file."""
        return self.source.path

    @classmethod
    def whole(cls, path: Path) -> Place:
        """A file that is HDF5 from its first byte to its last."""
        source = Source.of(path)
        return cls(source, 0, source.size)


@dataclass(frozen=True, slots=True)
class Extent:
    """One array of the content; ``offset`` counts from its start, None where it is packed."""

    name: str
    shape: tuple[int, ...]
    code: str
    size: int
    offset: int | None


def inside(path: Path) -> Place:
    """The HDF5 content of a ``.keras`` archive, whose checksums are compared."""
    source = Source.of(path)
    entry = entries(path)[WEIGHTS]
    if entry.packed:
        raise refusal(
            path,
            got=f"a packed {WEIGHTS}",
            why="Keras stores it unpacked, and its values are read where they stand",
            do="load it with Keras and save it again",
        )
    return Place(source, entry.start, entry.size)


def checkpoint(
    kind: str, place: Place, extents: list[Extent], config: dict[str, Any]
) -> Checkpoint:
    """The arrays of the content without those of an optimizer."""
    tops = {extent.name.partition("/")[0] for extent in extents}
    left = tuple(name for name in OPTIMIZERS if name in tops)
    attributes = config["attributes"]
    arrays = {
        extent.name: stored(place, extent, attributes.get(extent.name, {}))
        for extent in extents
        if extent.name.partition("/")[0] not in left
    }
    return Checkpoint(place.path, kind, MappingProxyType(arrays), left=left, config=config)


def describe(place: Place) -> tuple[list[Extent], dict[str, dict[str, Any]]]:
    """Every array of the content, in the order of names, and the attributes by path.

    Raises:
        FileError: the content is damaged, or names do not fit one another.
    """
    _check_superblock(place)
    request = {"task": "describe", **_request(place)}
    try:
        found = json.loads(HDF5.ask(request, _LARGEST_DESCRIPTION))
    except ChildError as error:
        raise _damaged(place.path, str(error)) from error
    extents = [
        Extent(name, tuple(entry["shape"]), entry["code"], entry["bytes"], entry.get("offset"))
        for name, entry in found["arrays"].items()
    ]
    attributes = join_split(found["attributes"])
    wrong = check_names([*found["arrays"]], found["groups"], attributes)
    if not wrong and {"<", ">"} <= {extent.code[:1] for extent in extents}:
        wrong = "mixes byte orders"
    if wrong:
        raise _damaged(place.path, wrong)
    _check_places(place, extents, found["headers"])
    return extents, attributes


def stored(place: Place, extent: Extent, attributes: Mapping[str, Any]) -> StoredArray:
    """One array, whose values are fetched when they are asked for."""
    dtype = dtype_name(extent.code, attributes)
    values = partial(_values, place, extent, dtype)
    return StoredArray(extent.shape, dtype, values)


def dtype_name(code: str, attributes: Mapping[str, Any]) -> str:
    """The usual name of an element type; Keras says beside opaque bytes what they are."""
    if code.startswith("|V"):
        # Keras's older format does not say it; of two bytes, bfloat16 is all it can be.
        usual = "bfloat16" if code == "|V2" else f"opaque{8 * int(code[2:])}"
        return str(attributes.get("dtype", usual))
    return np.dtype(code).name if code else "no number"


def _values(place: Place, extent: Extent, dtype: str) -> NDArray[Any]:
    if not extent.code or (extent.code.startswith("|V") and dtype != "bfloat16"):
        raise refusal(
            place.path,
            got=f"{extent.name} with elements of type {dtype}",
            why="this element type is not read here",
            do="store this array as float32 or bfloat16",
        )
    code = "<u2" if dtype == "bfloat16" else extent.code
    if extent.offset is None:
        values = np.frombuffer(_unpacked(place, extent), code).reshape(extent.shape)
    else:
        start = place.start + extent.offset
        values = place.source.values(extent.name, code, extent.shape, start)
    if dtype == "bfloat16":
        return widen_bfloat16(values)
    return values.astype(values.dtype.newbyteorder("="), copy=False)


def _unpacked(place: Place, extent: Extent) -> bytearray:
    expected = {"shape": [*extent.shape], "code": extent.code, "bytes": extent.size}
    request = {"task": "values", "name": extent.name, "expected": expected, **_request(place)}
    try:
        content = HDF5.ask(request, extent.size)
    except ChildError as error:
        raise _damaged(place.path, f"{error}, in {extent.name}") from error
    if len(content) != extent.size:
        raise _damaged(place.path, f"has another size than it says, in {extent.name}")
    return content


def _request(place: Place) -> dict[str, Any]:
    return {"path": str(place.path.resolve()), "start": place.start, "size": place.size}


def _check_superblock(place: Place) -> None:
    """Compare the size that the file says it has, and refuse content spread over files."""
    with place.path.open("rb") as file:
        file.seek(place.start)
        head = file.read(64)
    version = head[8] if len(head) == 64 else 255
    wrong = ""
    if not head.startswith(_SIGNATURE) or version not in {0, 1, 2, 3}:
        wrong = "does not begin as HDF5 does"
    else:
        base, end = {0: (24, 40), 1: (28, 44)}.get(version, (12, 28))
        said = int.from_bytes(head[end : end + 8], "little")
        other = head[end + 8 : end + 16] if version in {0, 1} else _NOWHERE
        if said != place.size:
            wrong = f"says that it has {said} bytes and has {place.size}"
        elif any(head[base : base + 8]) or other != _NOWHERE:
            wrong = "continues in another file"
    if wrong:
        raise _damaged(place.path, wrong)


def _check_places(place: Place, extents: list[Extent], headers: list[tuple[int, int]]) -> None:
    """Refuse values that overlap one another, headers, or the end of the content."""
    spans = [(_offset(e), e.size, e.name) for e in extents if e.size and e.offset is not None]
    spans += [(0, _SMALLEST_HEAD, "the head of the file")]
    spans += [(start, size, "the header of an array or group") for start, size in headers]
    end, before = 0, ""
    for start, size, name in sorted(spans):
        if start < end:
            raise _damaged(place.path, f"puts {name} over {before}")
        end, before = start + size, name
    if end > place.size:
        raise _damaged(place.path, f"puts {before} beyond its end")


def _offset(extent: Extent) -> int:
    return cast("int", extent.offset)


def _damaged(path: Path, that: str) -> Exception:
    return refusal(
        path,
        got=f"HDF5 content that {that}",
        why="the file is cut off or damaged, or holds more than Keras writes",
        do=_DO_COPY,
    )
