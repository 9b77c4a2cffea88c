"""Reader and writer of Orbax folders, as Flax's users save them; needs neither Flax nor JAX.

A folder holds one tree of arrays (StandardCheckpointer, PyTreeCheckpointer) or several under
names (a step of a CheckpointManager). Names are keys joined by slashes; the key ``value`` that
``nnx.state`` puts at the end of every name is dropped. TensorStore, which reads the arrays, runs
in a child process, once for the descriptions and once for every array.

``config`` holds, for a folder with one tree (with several, ``config["items"]`` has one such dict
by name):

- ``tree``: by name of the array, ``keys`` (as stored), ``lists`` (which keys are positions in
  a list) and ``type`` (``"jax.Array"``, ``"np.ndarray"``, ``"scalar"``);
- ``nnx``: whether the key ``value`` was dropped;
- ``values``: texts and empty containers of the tree, by name;
- ``metadata``: what was saved as custom metadata; ``ocdbt`` and ``zarr3``: how arrays are stored.

Optimizer state and items that are no trees are named in ``left``.
"""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal, widen_bfloat16
from evenkeel.checkpoints._child import Child, ChildError
from evenkeel.checkpoints._orbax_tree import METADATA, Damaged, Item, read_item
from evenkeel.checkpoints._orbax_write import write_folder
from evenkeel.checkpoints._paths import is_optimizer, optimizers
from evenkeel.checkpoints._values import BFLOAT16, PLAIN, itemsize

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

_LARGEST_DESCRIPTION: Final = 64 << 20
#: Bytes of virtual memory, of which TensorStore's threads take a lot and use little.
_MEMORY: Final = 2 << 30
_TENSORSTORE: Final = Child(
    Path(__file__).with_name("_orbax_worker.py"), memory=_MEMORY, library="TensorStore"
)
_DO_COPY: Final = "copy or download the whole folder again"


def read(path: Path) -> Checkpoint:
    """Read the tree, and shapes and element types of its arrays."""
    try:
        found, others = _items(path)
        described = {name: _describe(item) for name, item in found.items()}
    except Damaged as error:
        raise _refused(path, str(error)) from error
    except ChildError as error:
        raise _refused(path, f"content that {error}") from error
    arrays: dict[str, StoredArray] = {}
    left = [*others]
    for part, item in found.items():
        prefix = f"{part}/" if len(found) > 1 else ""
        left += [prefix + name for name in (*item.left, *optimizers(item.entries))]
        for name, (shape, dtype) in described[part].items():
            if not is_optimizer(name):
                arrays[prefix + name] = _stored(path, item, name, shape, dtype)
    configs = {part: item.config() for part, item in found.items()}
    config = {"items": configs} if len(configs) > 1 else next(iter(configs.values()))
    parts = tuple(part for part in found if part)
    return Checkpoint(path, "orbax", MappingProxyType(arrays), parts, tuple(left), config)


def _items(path: Path) -> tuple[dict[str, Item], list[str]]:
    """The trees of the folder by name (``""`` where the folder is one), and what is no tree."""
    if (path / METADATA).is_file():
        return {"": read_item(path)}, []
    folders = sorted(inner for inner in path.iterdir() if inner.is_dir())
    found = {inner.name: read_item(inner) for inner in folders if (inner / METADATA).is_file()}
    if not found:
        raise Damaged(f"no {METADATA} in it, and in none of its folders")
    return found, [inner.name for inner in folders if inner.name not in found]


def _describe(item: Item) -> dict[str, tuple[tuple[int, ...], str]]:
    stored_as = {entry.stored_as: name for name, entry in item.entries.items()}
    request = {**_request(item), "task": "describe", "keys": [*stored_as]}
    answer = json.loads(_TENSORSTORE.ask(request, _LARGEST_DESCRIPTION))
    return {
        stored_as[key]: (tuple(told["shape"]), str(told["dtype"])) for key, told in answer.items()
    }


def _request(item: Item) -> dict[str, Any]:
    stored = {"ocdbt": item.ocdbt, "zarr3": item.zarr3, "complete": item.complete}
    return {"folder": str(item.folder.resolve()), **stored}


def _stored(path: Path, item: Item, name: str, shape: tuple[int, ...], dtype: str) -> StoredArray:
    return StoredArray(shape, dtype, partial(_values, path, item, name, shape, dtype))


def _values(path: Path, item: Item, name: str, shape: tuple[int, ...], dtype: str) -> NDArray[Any]:
    if dtype not in PLAIN and dtype != BFLOAT16:
        raise refusal(
            path,
            got=f"{name} with elements of type {dtype}",
            why="this element type is not read here",
            do="store this array as float32 or bfloat16",
        )
    size = int(np.prod(shape, dtype=object)) * itemsize(dtype)
    key = item.entries[name].stored_as
    request = {"task": "values", "key": key, "expected": [[*shape], dtype], **_request(item)}
    try:
        content = _TENSORSTORE.ask(request, size)
    except ChildError as error:
        raise _refused(path, f"an array {name} that {error}") from error
    if len(content) != size:
        raise _refused(path, f"{len(content)} bytes for {name} instead of {size}")
    code = "<u2" if dtype == BFLOAT16 else np.dtype(dtype).newbyteorder("<").str
    values = np.frombuffer(content, code).reshape(shape)
    return widen_bfloat16(values) if dtype == BFLOAT16 else values


def _refused(path: Path, what: str) -> Exception:
    return refusal(
        path,
        got=f"an Orbax folder with {what}",
        why="the folder is incomplete or damaged, or was not written by Orbax",
        do=_DO_COPY,
    )


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write one tree as Orbax's StandardCheckpointer does.

    Lists, and the key ``value`` of NNX, come from ``like``, or from ``metadata={"nnx": True}``.

    Raises:
        FileError: names that do not nest, or an element type that is not written.
    """
    write_folder(path, arrays, {} if like is None else like.config, dict(metadata or {}))
