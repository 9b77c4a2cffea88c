"""What one layer of a pair has and the other has not: carried exactly, or refused."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.errors import InputError, explain
from evenkeel.tools._matching._pairs import NEUTRAL

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evenkeel.dialects._layers import Values
    from evenkeel.tools._matching._order import Side
    from evenkeel.tools._matching._pairs import Matching, Pair

_STATISTICS: Final = ("running_mean", "running_var")


@dataclass(slots=True)
class Roles:
    """What became of the roles that one side lacks."""

    dropped: list[str] = field(default_factory=list[str])
    made: list[tuple[str, str]] = field(default_factory=list[tuple[str, str]])


def find_absorbed(
    source: Side, target: Side, guess: Mapping[str, str], values: Values
) -> tuple[tuple[str, str], ...]:
    """Pairs (layer, batch norm) of the source where the bias goes into the running mean."""
    found: list[tuple[str, str]] = []
    for norm, before in target.feeds.items():
        one, other = guess.get(norm), guess.get(before)
        if one is None or other is None or source.feeds.get(one) != other:
            continue
        lost = "bias" in values.get(other, {}) and "bias" not in target.layers[before].arrays
        if lost and "running_mean" in values.get(one, {}):
            found.append((other, one))
    return tuple(found)


def settle_roles(matching: Matching, values: Values) -> Roles:
    """Sort the roles that one side lacks.

    Raises:
        InputError: one of them changes the function and has no place on the other side.
    """
    roles = Roles()
    absorbed = {layer for layer, _ in matching.absorbed}
    for pair in matching.pairs:
        given = values.get(pair.source.name, {})
        for role in pair.source.arrays.keys() - pair.target.arrays.keys():
            if role == "bias" and pair.source.name in absorbed:
                continue
            _require(pair, role, _changes_nothing(pair, role, given[role]), side="source")
            roles.dropped.append(f"{pair.source.name}.{role}")
        for role in pair.target.arrays.keys() - pair.source.arrays.keys():
            _require(pair, role, role in NEUTRAL, side="target")
            if role != "batches":
                roles.made.append((pair.target.name, role))
    return roles


def _changes_nothing(pair: Pair, role: str, array: Any) -> bool:  # noqa: ANN401 - NumPy
    """Whether the function stays the same without the role."""
    if pair.source.kind == "batch_norm" and role not in (*_STATISTICS, "weight", "bias"):
        return True  # the counter and what batch renormalization keeps: training alone reads them
    return role in NEUTRAL and bool(np.all(array == NEUTRAL[role]))


def _require(pair: Pair, role: str, fine: bool, *, side: str) -> None:  # noqa: FBT001 - a test
    if fine:
        return
    has, lacks = pair.source, pair.target
    if side == "target":
        has, lacks = lacks, has
    other = "target" if side == "source" else "source"
    raise InputError(
        explain(
            asked=f"carry layer {pair.source.name!r} over to {pair.target.name!r}",
            got=f"{role!r} in the {side}'s layer {has.name!r} ({has.kind}), and none in the "
            f"{other}'s {lacks.name!r}",
            why="the function would change, and no batch norm follows directly to absorb it"
            if role == "bias"
            else "the function would change",
            do=f"build the {other}'s layer with {role!r}, or the {side}'s without",
        )
    )
