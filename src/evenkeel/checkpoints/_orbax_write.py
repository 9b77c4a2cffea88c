"""Writes an Orbax folder with TensorStore: arrays, and the JSON files that describe the tree."""

from __future__ import annotations

import json
import math
import time
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints._orbax_tree import METADATA, STRINGS
from evenkeel.checkpoints._paths import tree
from evenkeel.checkpoints._values import (
    BFLOAT16,
    PLAIN,
    fetch,
    itemsize,
    require_dtypes,
    write_refusal,
)
from evenkeel.errors import FileError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from evenkeel.checkpoints._checkpoint import StoredArray

#: Bytes of arrays that are committed together; a commit writes the table of contents anew.
_BATCH: Final = 64 << 20
#: Orbax restores a "jax.Array" only on the devices that it was saved from.
_ARRAY: Final = "np.ndarray"
_HANDLER: Final = (
    "orbax.checkpoint._src.handlers.standard_checkpoint_handler.StandardCheckpointHandler"
)


def write_folder(
    path: Path,
    arrays: Mapping[str, StoredArray],
    config: Mapping[str, Any],
    metadata: dict[str, Any],
) -> None:
    """Write the folder; ``config`` is the one of the checkpoint that it shall be like.

    Raises:
        FileError: names that do not nest, or an element type that is not written.
    """
    nnx = metadata.pop("nnx", config.get("nnx", False))
    require_dtypes(path, arrays, (*PLAIN, BFLOAT16), "Orbax")
    if "items" in config:
        raise write_refusal(
            path,
            got="`like` with several trees",
            why="one tree is written at a time",
            do="pass one of its folders: checkpoints.read(<step>/<name>)",
        )
    tree(path, arrays)
    known: Mapping[str, Any] = config.get("tree", {})
    leaves = {name: _leaf(name, known.get(name), nnx=nnx) for name in arrays}
    values: Mapping[str, Any] = config.get("values", {})
    path.mkdir()
    _write_arrays(path, arrays, {name: ".".join(leaf[0]) for name, leaf in leaves.items()})
    described = {str(keys): _described(keys, lists, kind) for keys, lists, kind in leaves.values()}
    described |= {
        str(tuple(name.split("/"))): _described(
            (*name.split("/"),), (False,) * (name.count("/") + 1), _kind(value)
        )
        for name, value in values.items()
    }
    texts = {name.replace("/", "."): text for name, text in values.items() if isinstance(text, str)}
    if texts:
        (path / STRINGS).write_text(json.dumps(texts))
    _write_descriptions(path, described, metadata or config.get("metadata"))


def _leaf(
    name: str, known: Mapping[str, Any] | None, *, nnx: bool
) -> tuple[tuple[str, ...], tuple[bool, ...], str]:
    """Keys, which of them count in a list, and what the leaf is restored as."""
    if known is not None:
        kind = "scalar" if known["type"] == "scalar" else _ARRAY
        return tuple(known["keys"]), tuple(known["lists"]), kind
    keys = (*name.split("/"), "value") if nnx else tuple(name.split("/"))
    return keys, (False,) * len(keys), _ARRAY


def _kind(value: Any) -> str:  # noqa: ANN401 - any JSON value
    return {str: "string", dict: "Dict", list: "List"}.get(type(value), "None")


def _described(keys: tuple[str, ...], lists: tuple[bool, ...], kind: str) -> dict[str, Any]:
    ways = [
        {"key": key, "key_type": 1 if counted else 2}
        for key, counted in zip(keys, lists, strict=True)
    ]
    empty = kind in {"None", "Dict", "List"}
    return {
        "key_metadata": ways,
        "value_metadata": {"value_type": kind, "skip_deserialize": empty},
    }


def _write_arrays(path: Path, arrays: Mapping[str, StoredArray], keys: Mapping[str, str]) -> None:
    import tensorstore

    # What shares a context shares the database, and is committed together.
    context = tensorstore.Context()
    try:
        for batch in _batches(arrays):
            with tensorstore.Transaction(atomic=True) as transaction:
                for name in batch:
                    spec = _spec(path, keys[name], arrays[name])
                    store = tensorstore.open(spec, context=context, transaction=transaction)
                    store.result()[...] = _values(path, name, arrays[name])
    except FileError:
        raise
    except ValueError as error:  # TensorStore has no other for what the system refuses
        raise write_refusal(
            path,
            got=f"a failure of TensorStore ({str(error)[:200]})",
            why="not all of it could be brought to the disk; nothing was changed",
            do="check the folder, its permissions, and the room on the disk",
        ) from error


def _spec(path: Path, key: str, array: StoredArray) -> dict[str, Any]:
    base = f"{path.resolve().as_uri()}/"
    return {
        "driver": "zarr",
        "kvstore": {"driver": "ocdbt", "base": base, "path": f"{key}/"},
        "metadata": {
            "compressor": {"id": "zstd", "level": 1},
            "shape": [*array.shape],
            "chunks": [max(n, 1) for n in array.shape],
        },
        "dtype": array.dtype,
        "create": True,
        "store_data_equal_to_fill_value": True,
    }


def _values(path: Path, name: str, array: StoredArray) -> NDArray[Any]:
    import tensorstore

    values = fetch(path, name, array)
    bfloat16 = array.dtype == BFLOAT16
    return values.view(tensorstore.bfloat16.numpy_dtype) if bfloat16 else values


def _batches(arrays: Mapping[str, StoredArray]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for name, array in arrays.items():
        batch.append(name)
        size += math.prod(array.shape) * itemsize(array.dtype)
        if size >= _BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _write_descriptions(path: Path, described: dict[str, Any], metadata: Any) -> None:  # noqa: ANN401 - any JSON value
    top = {
        "tree_metadata": described,
        "use_ocdbt": True,
        "use_zarr3": False,
        "store_array_data_equal_to_fill_value": True,
        "custom_metadata": metadata,
    }
    (path / METADATA).write_text(json.dumps(top))
    now = time.time_ns()
    step = {
        "item_handlers": _HANDLER,
        "metrics": {},
        "performance_metrics": {},
        "init_timestamp_nsecs": now,
        "commit_timestamp_nsecs": now,
        "custom_metadata": {},
    }
    (path / "_CHECKPOINT_METADATA").write_text(json.dumps(step))
