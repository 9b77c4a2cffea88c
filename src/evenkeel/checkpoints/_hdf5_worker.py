"""The process in which libhdf5 runs; a script of its own that imports nothing of the package.

A request names the file and where in it the HDF5 content begins, and how many bytes it has.
"""

from __future__ import annotations

import json
import math
import runpy
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

# This file is a program, never imported by the package.
import h5py  # noqa: TID253
import numpy as np
from h5py import (  # noqa: TID253
    h5d,  # pyright: ignore[reportAttributeAccessIssue] - compiled modules have no stubs
    h5l,  # pyright: ignore[reportAttributeAccessIssue]
    h5o,  # pyright: ignore[reportAttributeAccessIssue]
    h5t,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from io import FileIO

_loop = runpy.run_path(str(Path(__file__).with_name("_worker_loop.py")))
RefusedError, serve = _loop["RefusedError"], _loop["serve"]

_PIECE: Final = 1 << 20
_DEEPEST: Final = 64
_MOST_OBJECTS: Final = 1_000_000
#: Bytes of one attribute; the configuration of the largest models has a few MB.
_LARGEST_ATTRIBUTE: Final = 64 << 20
#: Bytes that the arrays of a file may declare: this many, or this many times its size.
_FREE_BYTES: Final = 64 << 20
_LARGEST_RATIO: Final = 100
#: deflate, shuffle, fletcher32, lzf: what h5py can write by itself.
_FILTERS: Final = {1, 2, 3, 32000}
_CODES: Final = (
    *("<f2", "<f4", "<f8", ">f2", ">f4", ">f8", "|i1", "<i2", "<i4", "<i8", ">i2", ">i4", ">i8"),
    *("|u1", "<u2", "<u4", "<u8", ">u2", ">u4", ">u8", "|b1", "<c8", "<c16"),
)
_ELEMENTS: Final = {code: h5t.py_create(np.dtype(code), logical=True) for code in _CODES}


class Window:
    """The bytes from ``start`` on as a file of their own."""

    def __init__(self, file: FileIO, start: int, size: int) -> None:
        self.file, self.start, self.size, self.at = file, start, size, 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self.at = offset + (0, self.at, self.size)[whence]
        return self.at

    def tell(self) -> int:
        return self.at

    def readinto(self, buffer: memoryview) -> int:
        self.file.seek(self.start + self.at)
        wanted = min(len(buffer), max(self.size - self.at, 0))
        count = self.file.readinto(memoryview(buffer)[:wanted])
        self.at += count
        return count

    def read(self, count: int = -1) -> bytes:
        buffer = bytearray(self.size - self.at if count < 0 else count)
        return bytes(buffer[: self.readinto(memoryview(buffer))])


def describe(file: h5py.File, request: dict[str, Any], window: Window) -> Iterator[bytes]:
    """Names, shapes, element types and places of every dataset, and all attributes.

    ``headers`` are the places of the headers of groups and datasets.
    """
    arrays: dict[str, dict[str, Any]] = {}
    attributes: dict[str, dict[str, Any]] = {}
    groups: list[str] = []
    headers: list[tuple[int, int]] = []
    for path, item in _walk(file, "", {h5o.get_info(file.id).addr}):
        info = h5o.get_info(item.id)
        # A header of several pieces tells no place but the first.
        headers.append((info.addr, info.hdr.space.total if info.hdr.nchunks == 1 else 1))
        if isinstance(item, h5py.Dataset):
            arrays[path] = _array(path, item)
            window.seek(info.addr)
            header = window.read(info.hdr.space.total)
            if arrays[path]["code"]:
                _check_encoding(path, item, header)
        else:
            groups.append(path)
        beside = {name: _attribute(path, item, name) for name in item.attrs}
        if beside:
            attributes[path] = beside
    declared = sum(entry["bytes"] for entry in arrays.values())
    if declared > max(_FREE_BYTES, _LARGEST_RATIO * request["size"]):
        raise RefusedError(f"{request['size']} bytes that declare {declared} bytes of arrays")
    found = {"arrays": arrays, "attributes": attributes, "groups": groups, "headers": headers}
    yield json.dumps(found).encode()


def values(file: h5py.File, request: dict[str, Any], _window: Window) -> Iterator[bytes]:
    """The bytes of one dataset, in C order and in the byte order of the file."""
    item = file[request["name"]]
    if not isinstance(item, h5py.Dataset) or _array(request["name"], item) != request["expected"]:
        raise RefusedError("another description than when the file was opened")
    content = np.asarray(item[()], order="C").tobytes()
    for start in range(0, len(content), _PIECE):
        yield content[start : start + _PIECE]


def _opened(
    task: Callable[[h5py.File, dict[str, Any], Window], Iterator[bytes]], request: dict[str, Any]
) -> Iterator[bytes]:
    with Path(request["path"]).open("rb", buffering=0) as raw:
        window = Window(raw, request["start"], request["size"])
        with h5py.File(window, "r") as file:
            yield from task(file, request, window)


def _walk(group: h5py.Group, prefix: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    yield prefix, group
    if prefix.count("/") >= _DEEPEST or len(seen) > _MOST_OBJECTS:
        raise RefusedError(f"groups without end at {prefix!r}")
    names = [bytes(name) for name in group.id]
    if names != sorted(names):
        raise RefusedError(f"the names in {prefix!r} out of order")
    for raw in names:
        name = raw.decode()
        path = f"{prefix}/{name}" if prefix else name
        if not name.isprintable() or "/" in name:
            raise RefusedError(f"the name {path!r}")
        if group.id.links.get_info(raw).type != h5l.TYPE_HARD:
            raise RefusedError(f"{path!r} is a link to another place or file")
        item = group[name]
        address = h5o.get_info(item.id).addr
        if address in seen:
            raise RefusedError(f"{path!r} stands at two places")
        seen.add(address)
        if isinstance(item, h5py.Group):
            yield from _walk(item, path, seen)
        elif isinstance(item, h5py.Dataset):
            yield path, item
        else:
            raise RefusedError(f"{path!r} is neither an array nor a group")


def _check_encoding(path: str, item: h5py.Dataset, header: bytes) -> None:
    """Compare the element type as libhdf5 encodes it with the bytes that it was read from.

    One flipped bit makes an integer of a float, and what describes the float is then passed over.
    """
    message = 2  # bytes before it that only the encoding of a type by itself has
    if item.id.get_type().encode()[message:] not in header:
        raise RefusedError(f"the element type of {path!r} has parts that are not used")


def _array(path: str, item: h5py.Dataset) -> dict[str, Any]:
    code = _element(item)
    if item.shape is None:
        raise RefusedError(f"{path!r} declares no shape")
    size = math.prod(item.shape) * item.id.get_type().get_size()
    entry = {"shape": [int(n) for n in item.shape], "code": code, "bytes": size}
    plist = item.id.get_create_plist()
    layout = plist.get_layout()
    if plist.get_external_count():
        raise RefusedError(f"the values of {path!r} stand in another file")
    if layout == h5d.CONTIGUOUS:
        if item.maxshape != item.shape or plist.get_nfilters():
            raise RefusedError(f"{path!r} declares two shapes")
        if code and item.id.get_storage_size() != size:
            raise RefusedError(f"the shape of {path!r} does not fit its bytes")
        return {**entry, "offset": item.id.get_offset() or 0}
    if layout not in {h5d.CHUNKED, h5d.COMPACT}:
        raise RefusedError(f"{path!r} is put together from other arrays")
    filters = {plist.get_filter(i)[0] for i in range(plist.get_nfilters())}
    if filters - _FILTERS:
        raise RefusedError(f"{path!r} is packed with filters {sorted(filters - _FILTERS)}")
    return entry


def _element(item: h5py.Dataset) -> str:
    """NumPy's code of the element type; empty for types that are listed but not read."""
    kind = item.id.get_type()
    if kind.get_class() == h5t.OPAQUE:
        return f"|V{kind.get_size()}"
    return next((code for code, known in _ELEMENTS.items() if kind.equal(known)), "")


def _attribute(path: str, item: Any, name: str) -> Any:  # noqa: ANN401 - any JSON value
    stored = item.attrs.get_id(name)
    size = math.prod(stored.shape or ()) * stored.get_type().get_size()
    if not name.isprintable() or size > _LARGEST_ATTRIBUTE:
        raise RefusedError(f"the attribute {name!r} of {path!r}")
    return _plain(item.attrs[name], f"the attribute {name!r} of {path!r}")


def _plain(value: Any, what: str) -> Any:  # noqa: ANN401 - any JSON value
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, list):
        return [_plain(entry, what) for entry in value]
    if isinstance(value, bytes):
        return value.decode()
    if isinstance(value, h5py.Empty):
        return None
    if not isinstance(value, str | int | float | bool):
        raise RefusedError(what)
    if isinstance(value, str):
        value.encode()  # h5py escapes bytes that are no text; such a string cannot be encoded
    return value


if __name__ == "__main__":
    serve({"describe": partial(_opened, describe), "values": partial(_opened, values)})
