"""The process in which TensorStore runs; a script of its own that imports nothing of ours.

A request names the folder, whether it is a database (OCDBT) or plain files, the version of Zarr,
and the keys of the arrays. What stands outside of the folder is never opened.
"""

from __future__ import annotations

import json
import math
import runpy
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote

import numpy as np
import tensorstore as ts  # noqa: TID253 - this process is for nothing else

if TYPE_CHECKING:
    from collections.abc import Iterator

# The file beside this one; its folder is kept off the path, because its names are short.
_loop = runpy.run_path(str(Path(__file__).with_name("_worker_loop.py")))
RefusedError, serve = _loop["RefusedError"], _loop["serve"]

_PIECE: Final = 1 << 20
#: Bytes that the arrays of a folder may declare: this many, or this many times its size.
_FREE_BYTES: Final = 64 << 20
_LARGEST_RATIO: Final = 1024
_MOST_NODES: Final = 100_000
#: One thread, because its stack counts against the memory limit.
_CONTEXT: Final = {
    "data_copy_concurrency": {"limit": 1},
    "file_io_concurrency": {"limit": 1},
    "cache_pool": {"total_bytes_limit": 0},
}


def describe(request: dict[str, Any]) -> Iterator[bytes]:
    """Shape and element type of every array that was asked for, once all of them are whole."""
    folder = Path(request["folder"])
    if request["ocdbt"]:
        _check_database(folder)
    marker = "zarr.json" if request["zarr3"] else ".zarray"
    present = _keys(request, folder)
    there = {key.removesuffix(f"/{marker}") for key in present if key.endswith(f"/{marker}")}
    if there != {*request["keys"]}:
        odd = sorted(there.symmetric_difference(request["keys"]))
        raise RefusedError(f"arrays that its list and its content do not share, as {odd[0]!r}")
    chunks: dict[str, int] = dict.fromkeys(there, -1)  # the description is one key of each
    for key in present:
        owner = next((key[:i] for i in _slashes(key) if key[:i] in chunks), None)
        if owner is not None:
            chunks[owner] += 1
    described = {key: _described(request, key, chunks[key]) for key in request["keys"]}
    declared = sum(entry["bytes"] for entry in described.values())
    size = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    if declared > max(_FREE_BYTES, _LARGEST_RATIO * size):
        raise RefusedError(f"{size} bytes that declare {declared} bytes of arrays")
    yield json.dumps(described).encode()


def values(request: dict[str, Any]) -> Iterator[bytes]:
    """The bytes of one array, in C order, little-endian."""
    store = _open(request, request["key"])
    if [[*store.shape], store.dtype.name] != request["expected"]:
        raise RefusedError("another description than when the folder was opened")
    array = np.ascontiguousarray(store.read().result())
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    content = little.reshape(-1).view(np.uint8).data
    for start in range(0, len(content), _PIECE):
        yield bytes(content[start : start + _PIECE])


def _slashes(key: str) -> Iterator[int]:
    return (i for i, letter in enumerate(key) if letter == "/")


def _check_database(folder: Path) -> None:
    """Follow every pointer of the database: a hostile one could lead out of the folder."""
    base = ts.KvStore.open(f"{folder.resolve().as_uri()}/").result()
    manifest = ts.ocdbt.dump(base).result()
    if manifest["version_tree_nodes"] and not manifest["versions"]:
        raise RefusedError("a database without a current version")
    waiting = [manifest["versions"][-1]["root"].get("location")] if manifest["versions"] else []
    seen: set[str] = set()
    while waiting:
        place = waiting.pop()
        # An empty database has a root that stands nowhere.
        if place is None or place in seen:
            continue
        seen.add(place)
        if len(seen) > _MOST_NODES:
            raise RefusedError("a database without end")
        _check_place(folder, place)
        for entry in ts.ocdbt.dump(base, place).result()["entries"]:
            if "location" in entry:
                waiting.append(entry["location"])
            elif "indirect_value" in entry:
                _check_place(folder, entry["indirect_value"])


def _check_place(folder: Path, place: str) -> None:
    kind, base, name, offset, length = place.split(":")
    inner = Path(unquote(base)) / unquote(name)
    if inner.is_absolute() or ".." in inner.parts or (folder / inner).is_symlink():
        raise RefusedError(f"a {kind} outside of the folder, at {str(inner)!r}")
    if int(offset) + int(length) > (folder / inner).stat().st_size:
        raise RefusedError(f"a {kind} beyond the end of {str(inner)!r}")


def _keys(request: dict[str, Any], folder: Path) -> list[str]:
    if not request["ocdbt"]:
        found = [path for path in folder.rglob("*") if path.is_file()]
        if any(path.is_symlink() for path in folder.rglob("*")):
            raise RefusedError("a link to another place")
        return [path.relative_to(folder).as_posix() for path in found]
    store = ts.KvStore.open(_store(request, "")).result()
    return [key.decode() for key in store.list().result()]


def _store(request: dict[str, Any], key: str) -> dict[str, Any]:
    base = f"{Path(request['folder']).resolve().as_uri()}/"
    if request["ocdbt"]:
        return {"driver": "ocdbt", "base": base, "path": key}
    return {"driver": "file", "path": f"{Path(request['folder']).resolve()}/{key}"}


def _open(request: dict[str, Any], key: str) -> Any:  # noqa: ANN401 - tensorstore has no types
    spec = {
        "driver": "zarr3" if request["zarr3"] else "zarr",
        "kvstore": _store(request, f"{key}/"),
        "context": _CONTEXT,
    }
    return ts.open(spec, open=True, read=True).result()


def _described(request: dict[str, Any], key: str, chunks: int) -> dict[str, Any]:
    store = _open(request, key)
    grid = store.chunk_layout.write_chunk.shape or ()  # None for a scalar
    wanted = math.prod(-(-n // step) for n, step in zip(store.shape, grid, strict=True))
    # A missing piece would be read as zeros; some releases leave out what is zero.
    if chunks != wanted and (request["complete"] or chunks > wanted):
        raise RefusedError(f"{chunks} of {wanted} pieces of {key!r}")
    size = math.prod(store.shape) * store.dtype.numpy_dtype.itemsize
    return {"shape": [*store.shape], "dtype": store.dtype.name, "bytes": size}


if __name__ == "__main__":
    serve({"describe": describe, "values": values})
