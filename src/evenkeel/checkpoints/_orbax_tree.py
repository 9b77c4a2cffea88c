"""What an Orbax folder says about its tree: plain JSON, read without a library."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from pathlib import Path

METADATA: Final = "_METADATA"
STRINGS: Final = "_strings.json"
#: Bytes of a description that is believed.
_LARGEST: Final = 256 << 20
_SEQUENCE: Final = 1
_KEY_TYPES: Final = (_SEQUENCE, 2)
#: What Orbax notes for what it stores as an array.
ARRAY_TYPES: Final = ("jax.Array", "np.ndarray", "scalar")
_EMPTY: Final[dict[str, Any]] = {"None": None, "Dict": {}, "List": [], "Tuple": []}
_VALUE: Final = "value"


class Damaged(Exception):  # noqa: N818 - it becomes a FileError
    """What is wrong with a folder, completing "a folder with"."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf of the tree: its keys, which of them count in a list, and what was saved."""

    keys: tuple[str, ...]
    lists: tuple[bool, ...]
    type: str

    @property
    def stored_as(self) -> str:
        """The key under which TensorStore finds the array."""
        return ".".join(self.keys)


@dataclass(frozen=True, slots=True)
class Item:
    """One tree: its arrays by name, everything else, and how the arrays are stored."""

    folder: Path
    entries: dict[str, Entry]
    values: dict[str, Any]
    left: tuple[str, ...]
    nnx: bool
    ocdbt: bool
    zarr3: bool
    complete: bool
    metadata: Any

    def config(self) -> dict[str, Any]:
        """The item as JSON values."""
        tree = {
            name: {"keys": [*entry.keys], "lists": [*entry.lists], "type": entry.type}
            for name, entry in self.entries.items()
        }
        stored = {"nnx": self.nnx, "ocdbt": self.ocdbt, "zarr3": self.zarr3}
        return {"tree": tree, "values": self.values, "metadata": self.metadata, **stored}


def read_item(folder: Path) -> Item:
    """Read the description of one tree.

    Raises:
        Damaged: it is no such description, or two leaves have one name.
    """
    top = _object(_json(folder / METADATA), "description")
    leaves = [_leaf(key, told) for key, told in _object(top.get("tree_metadata"), "tree").items()]
    _check_lists(leaves)
    arrays = [entry for entry in leaves if entry.type in ARRAY_TYPES]
    nnx = bool(arrays) and all(len(e.keys) > 1 and e.keys[-1] == _VALUE for e in arrays)
    entries = {"/".join(entry.keys[:-1] if nnx else entry.keys): entry for entry in arrays}
    if len(entries) != len(arrays) or len({e.stored_as for e in arrays}) != len(arrays):
        raise Damaged("two arrays of one name")
    _check_names(entries)
    texts = _object(_json(folder / STRINGS), "texts") if (folder / STRINGS).is_file() else {}
    values: dict[str, Any] = {}
    left: list[str] = []
    for entry in leaves:
        name = "/".join(entry.keys)
        if entry.type == "string" and entry.stored_as in texts:
            values[name] = texts[entry.stored_as]
        elif entry.type in _EMPTY:
            values[name] = _EMPTY[entry.type]
        elif entry.type not in ARRAY_TYPES:
            left.append(name)
    return Item(
        folder,
        entries,
        values,
        tuple(left),
        nnx=nnx,
        ocdbt=_flag(top, "use_ocdbt", default=(folder / "manifest.ocdbt").exists()),
        zarr3=_flag(top, "use_zarr3", default=False),
        complete=_flag(top, "store_array_data_equal_to_fill_value", default=False),
        metadata=top.get("custom_metadata"),
    )


def _leaf(text: str, told: object) -> Entry:
    described = _object(told, "leaf")
    ways = described.get("key_metadata")
    if not isinstance(ways, list) or not ways:
        raise Damaged(f"the leaf {text} without keys")
    keys: list[str] = []
    lists: list[bool] = []
    for way in cast("list[Any]", ways):
        step = _object(way, "key")
        if not isinstance(step.get("key"), str) or step.get("key_type") not in _KEY_TYPES:
            raise Damaged(f"the leaf {text} with a key of no known type")
        keys.append(step["key"])
        lists.append(step["key_type"] == _SEQUENCE)
    kind = _object(described.get("value_metadata"), "type").get("value_type")
    if text != str(tuple(keys)) or not isinstance(kind, str):
        raise Damaged(f"the leaf {text} that is described as another one")
    return Entry(tuple(keys), tuple(lists), kind)


def _check_lists(leaves: list[Entry]) -> None:
    """What lies below one name is a list or is none, and a list counts its items."""
    kinds: dict[tuple[str, ...], bool] = {}
    for leaf in leaves:
        for depth, (key, counts) in enumerate(zip(leaf.keys, leaf.lists, strict=True)):
            above = leaf.keys[:depth]
            if counts != kinds.setdefault(above, counts) or (counts and not key.isdecimal()):
                raise Damaged(f"{'.'.join(above) or 'a top'} that is a list and is none")


def _check_names(entries: dict[str, Entry]) -> None:
    for name, entry in entries.items():
        odd = not all(entry.keys) or ".." in name.split("/") or name.startswith("/")
        if odd or not name.isprintable() or "\\" in name:
            raise Damaged(f"the name {name!r}")


def _json(path: Path) -> Any:  # noqa: ANN401 - any JSON value
    if path.stat().st_size > _LARGEST:
        raise Damaged(f"{path.name} of {path.stat().st_size} bytes")
    try:
        return json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise Damaged(f"{path.name} that is no JSON ({error})") from error


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Damaged(f"a {what} that is no JSON object")
    return cast("dict[str, Any]", value)


def _flag(top: dict[str, Any], key: str, *, default: bool) -> bool:
    value = top.get(key, default)
    if not isinstance(value, bool):
        raise Damaged(f"{key} that is neither true nor false")
    return value
