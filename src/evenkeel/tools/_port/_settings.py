"""Batch-norm settings that two matched layers say differently, and making them the same."""

from __future__ import annotations

from dataclasses import asdict, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

from evenkeel.dialects._unsayable import refuse
from evenkeel.tools._port._records import SettingDifference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.dialects._layers import Layer
    from evenkeel.dialects._network import Network
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Momentum, Spec
    from evenkeel.tools._matching._pairs import Matching

#: What the target is for; see :func:`evenkeel.tools._port.port`.
Purpose: TypeAlias = Literal["training", "inference"]
#: Fields that change what a layer computes, and where.
_EFFECTS: Final = {
    "eps": "inference",
    "momentum": "training",
    "variance": "training",
    "average": "training",
    "affine_frozen": "training",
    "statistics_frozen": "training",
    "synchronized": "training",
    "masked": "training",
    "renorm": "training",
}
#: Fields that Network.configure sets.
_SET: Final = ("eps", "momentum", "variance", "average")


def find_differences(matching: Matching) -> tuple[SettingDifference, ...]:
    """The settings that differ, layer by layer.

    An activation inside the layer is none of them: the other model may have a layer for it.
    """
    return tuple(
        SettingDifference(pair.source.name, pair.target.name, *found)
        for pair in matching.pairs
        if pair.source.spec is not None and pair.target.spec is not None
        for found in _compared(pair.source.spec, pair.target.spec)
    )


def apply_settings(network: Network, matching: Matching, purpose: Purpose) -> None:
    """Make every batch norm of the target mean what the source's says.

    For inference alone, what only training reads stays where the framework cannot say it.

    Raises:
        UnsayableError: the target's framework cannot say it.
    """
    for pair in matching.pairs:
        source, target = pair.source.spec, pair.target.spec
        if source is None or target is None:
            continue
        if not any(field in _SET for field, *_ in _compared(source, target)):
            continue
        found = _unsaid(network, pair.target.name, source)
        if purpose == "inference" and all(item.effect == "training" for item in found):
            kept = {item.field: getattr(target, item.field) for item in found}
            found = _unsaid(network, pair.target.name, replace(source, **kept)) if kept else ()
        refuse(source, network.framework, found)


def _unsaid(network: Network, name: str, spec: Spec) -> tuple[Unsayable, ...]:
    found = network.configure(name, spec)
    return tuple(item for item in found if item.effect != "none")


def remaining(
    before: tuple[SettingDifference, ...], matching: Matching, layers: tuple[Layer, ...]
) -> tuple[SettingDifference, ...]:
    """The differences, those marked that are gone now."""
    now = {layer.name: layer.spec for layer in layers}
    wanted = {pair.target.name: pair.source.spec for pair in matching.pairs}
    left = {
        (name, field)
        for name, spec in wanted.items()
        if spec is not None and (current := now.get(name)) is not None
        for field, *_ in _compared(spec, current)
    }
    return tuple(replace(d, repaired=(d.target, d.field) not in left) for d in before)


def _compared(source: Spec, target: Spec) -> Iterator[tuple[str, Any, Any, str]]:
    for field, effect in _EFFECTS.items():
        wanted, found = getattr(source, field), getattr(target, field)
        if field == "momentum":
            wanted = source.momentum.as_weighing(target.momentum.weighs)
            if not _is_same_momentum(wanted, found):
                yield field, _number(wanted), _number(found), effect
        elif wanted != found:
            yield field, _plain(wanted), _plain(found), effect


def _is_same_momentum(one: Momentum, other: Momentum) -> bool:
    """Equal as written in decimals for the same side; 0.1 and 1 - 0.9 are."""
    if one.value is None or other.value is None:
        return one.value == other.value
    return one.value == other.value or other.as_weighing("old") == one.as_weighing("old")


def _number(momentum: Momentum) -> float | str:
    return "cumulative" if momentum.value is None else momentum.value


def _plain(value: Any) -> Any:  # noqa: ANN401 - a field of Spec
    return asdict(value) if is_dataclass(value) and not isinstance(value, type) else value
