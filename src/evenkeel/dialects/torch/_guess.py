"""What the layers of a state dict are, by the names and shapes of their arrays alone."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from evenkeel.dialects.torch._layouts import RECURRENT, Role, as_it_is, roles_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evenkeel.checkpoints import StoredArray
    from evenkeel.dialects._layers import Kind

    Own = Mapping[str, StoredArray]

#: Rank of the weight of a kind that has one weight and maybe a bias.
RANKS: Final[dict[Kind, tuple[int, ...]]] = {
    "dense": (2,),
    "embedding": (2,),
    "conv": (3, 4, 5),
    "conv_transpose": (3, 4, 5),
    "layer_norm": (1,),
    "group_norm": (1,),
    "prelu": (1,),
}
#: Rows of a recurrent layer's weights, in units.
_GATES: Final[dict[int, Kind]] = {4: "lstm", 3: "gru", 1: "simple_rnn"}
_RECURRENT_WEIGHT: Final = re.compile(r"weight_hh(_l(\d+)(_reverse)?)")
#: Names that people give to transposed convolutions.
_UP: Final = re.compile(r"(?i)transpos|deconv|tconv|convt|(^|[._])up")


@dataclass(frozen=True, slots=True)
class Guess:
    """One layer of a state dict.

    Args:
        name: of the layer.
        kind: that its arrays tell.
        roles: of the kind, by the names of the arrays under their prefix.
        could_be: all kinds that have such arrays, where they do not tell.
        assumed: whether ``kind`` is the likelier of several with the same layout.
        settings: of the kind.
    """

    name: str
    kind: Kind
    roles: Mapping[str, Role]
    could_be: tuple[Kind, ...] = ()
    assumed: bool = False
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


def guess(prefix: str, own: Own) -> list[Guess]:
    """The layers whose arrays stand under one prefix; none where there is no weight.

    A batch norm is told by its statistics elsewhere.
    """
    if recurrent := _recurrent(prefix, own):
        return recurrent
    weights = {key: array for key, array in own.items() if "float" in array.dtype}
    if not weights:
        return []
    if not {*weights} <= {"weight", "bias"} or "weight" not in weights:
        return [_other(prefix, weights)]
    found = _weighted(prefix, weights)
    return [found if found is not None else _other(prefix, weights)]


def fits(kind: Kind, own: Own) -> bool:
    """Whether a layer of this kind can have these arrays."""
    if kind in RECURRENT or kind not in RANKS or "weight" not in own:
        return False
    if len(own["weight"].shape) not in RANKS[kind]:
        return False
    named = {name for role in roles_of(kind, own).values() for name in role.tensors}
    return named == {*own} and ("bias" not in own or _bias_fits(kind, own))


def _bias_fits(kind: Kind, own: Own) -> bool:
    shape, size = own["weight"].shape, own["bias"].shape
    if kind == "conv_transpose":  # its number of groups is not known
        return len(size) == 1 and shape[1] > 0 and size[0] % shape[1] == 0
    return size == (shape if len(shape) == 1 else shape[:1])


def _weighted(prefix: str, own: Own) -> Guess | None:
    could_be: tuple[Kind, ...] = tuple(kind for kind in _ORDER if fits(kind, own))
    if not could_be:
        return None
    kind, shape = could_be[0], own["weight"].shape
    if len(could_be) == 1:
        return Guess(prefix, kind, roles_of(kind, own))
    if kind == "conv":
        told = "bias" in own and own["bias"].shape != shape[1:2]
        if told and not _UP.search(prefix):
            return Guess(prefix, kind, roles_of(kind, own))
        if not _UP.search(prefix):
            return Guess(prefix, kind, roles_of(kind, own), could_be, assumed=True)
    if could_be[:2] == ("layer_norm", "group_norm") and "bias" in own:
        return Guess(prefix, kind, roles_of(kind, own), could_be, assumed=True)
    return _other(prefix, own, could_be)


_ORDER: Final[tuple[Kind, ...]] = (
    "dense",
    "embedding",
    "conv",
    "conv_transpose",
    "layer_norm",
    "group_norm",
    "prelu",
)


def _other(prefix: str, own: Own, could_be: tuple[Kind, ...] = ()) -> Guess:
    settings: dict[str, Any] = {"could_be": could_be} if could_be else {}
    roles = {key: as_it_is(key) for key in own}
    return Guess(prefix, "other", roles, could_be, settings=settings)


def _recurrent(prefix: str, own: Own) -> list[Guess]:
    """One layer per depth and direction, named as those of a live module."""
    found = {key: match for key in own if (match := _RECURRENT_WEIGHT.fullmatch(key))}
    depth = 1 + max((int(match[2]) for match in found.values()), default=0)
    both = any(match[3] for match in found.values())
    guesses: list[Guess] = []
    taken: set[str] = set()
    for key, match in sorted(found.items(), key=lambda item: (int(item[1][2]), item[1][3] or "")):
        rows, *units = own[key].shape
        gates, rest = divmod(rows, units[0]) if len(units) == 1 and units[0] else (0, 1)
        if rest or gates not in _GATES:
            return []
        kind = _GATES[gates]
        roles = roles_of(kind, own, match[1])
        taken |= {name for role in roles.values() for name in role.tensors}
        parts = [prefix, f"l{match[2]}" if depth > 1 else ""]
        parts.append(("backward" if match[3] else "forward") if both else "")
        settings = {"reset_after": True} if kind == "gru" else {}
        title = "/".join(filter(None, parts))
        guesses.append(Guess(title, kind, roles, settings=settings))
    # A projection (weight_hr) makes it a layer that no other framework has.
    return guesses if taken == {*own} else []
