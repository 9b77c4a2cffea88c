"""Which arrays of a file belong to which layer of its configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.dialects.keras._kinds import places

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.dialects.keras._entries import Entry

_LEGACY = "model_weights/"


def arrays_of(
    checkpoint: Checkpoint, entries: Iterable[Entry]
) -> tuple[dict[str, dict[str, str]], list[str]]:
    """Names of arrays by layer and place, and the names that are left over.

    The place of an array of a layer that is not known is its name below the layer.
    """
    names = list(checkpoint.arrays)
    legacy = any(name.startswith(_LEGACY) for name in names)
    found = {
        entry.name: _legacy(entry, names) if legacy else _grouped(entry, names) for entry in entries
    }
    taken = {name for held in found.values() for name in held.values()}
    return found, [name for name in names if name not in taken]


def _grouped(entry: Entry, names: Sequence[str]) -> dict[str, str]:
    """Keras 3: ``<group>/vars/0``, or ``<group>/cell/vars/0`` where an inner layer holds it."""
    below = {name for name in names if name.startswith(f"{entry.group}/")}
    expected = numbered(entry.group, places(entry.class_name, entry.config) or ())
    if {*expected.values()} == below:
        return expected
    return {name.removeprefix(f"{entry.group}/"): name for name in sorted(below)}


def numbered(group: str, wanted: Iterable[str]) -> dict[str, str]:
    """Names of arrays by place; every holder counts its own from 0."""
    counts: dict[str, int] = {}
    found: dict[str, str] = {}
    for place in wanted:
        holder = f"{group}/{place}".rpartition("/")[0]
        number = counts.get(holder, 0)
        counts[holder] = number + 1
        found[place] = f"{holder}/vars/{number}"
    return found


def _legacy(entry: Entry, names: Sequence[str]) -> dict[str, str]:
    """The older format: ``model_weights/<layer>/<path>/gamma:0``, by name and never by order.

    Keras 3 writes the whole path of a layer in a nested model, Keras 2 its own name only.
    """
    top = f"{_LEGACY}{entry.path[0]}/"
    paths = {name: name.removeprefix(top) for name in names if name.startswith(top)}
    for start in range(len(entry.path)):
        tail = "/".join(entry.path[start:])
        held = {name: _after(path, tail) for name, path in paths.items()}
        found = {place(rest): name for name, rest in held.items() if rest}
        if found:
            return found
    return {}


def _after(path: str, tail: str) -> str:
    """What follows the layer's own name in the path of an array."""
    start = f"/{path}".rfind(f"/{tail}/")
    return "" if start < 0 else path[start + len(tail) + 1 :]


def place(rest: str) -> str:
    """``forward_lstm/lstm_cell/kernel:0`` as ``forward_layer/cell/kernel``."""
    *holders, own = rest.removesuffix(":0").split("/")
    sides = {"forward": "forward_layer/", "backward": "backward_layer/"}
    side = sides.get(holders[0].partition("_")[0], "") if len(holders) == 2 else ""
    if side or (len(holders) == 1 and "cell" in holders[0]):
        return f"{side}cell/{own}"
    return "/".join((*holders, own))
