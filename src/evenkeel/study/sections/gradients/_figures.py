"""The plots of the section."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel, Series
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread, grouped, powers
from evenkeel.study.sections.gradients._verdict import LIMIT, STAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.study.sections.gradients._networks import Network

#: Most decades shown on either side of 1; one vanished line would flatten all others.
_SHOWN: Final = 8
#: Most layers that get a marker each.
_MARKED: Final = 10
_RATIO: Final = "gradient, first / last hidden layer"


def figures(networks: Sequence[Network], seeds: int) -> tuple[Figure, ...]:
    """By layer, by depth at the start and in training, over steps, and the training loss."""
    deepest = max(network.depth for network in networks)
    deep = [network for network in networks if network.depth == deepest]
    return (
        _by_layer(deep, seeds),
        *(_by_depth(networks, stage, seeds) for stage in STAGES),
        _over_steps(deep, seeds),
        _losses(deep, seeds),
    )


def _panels(
    networks: Sequence[Network], series: Callable[[Sequence[Network]], tuple[Series, ...]]
) -> tuple[Panel, ...]:
    """Return one panel per activation."""
    groups = grouped(networks, lambda network: network.activation)
    return tuple(
        Panel(title=members[0].name, series=series(members)) for members in groups.values()
    )


def _side(network: Network) -> tuple[str, int]:
    return ("with batch norm", 0) if network.batch_norm else ("without", 1)


def _limits(spreads: Sequence[Spread]) -> tuple[float, float]:
    """Return a range that shows all factors, but no more than the decades that are shown."""
    reach = [abs(end) for spread in spreads for end in (spread.low, spread.high)]
    widest = min(_SHOWN, max(LIMIT, *reach)) + 0.3
    return 10**-widest, 10**widest


def _cut(spreads: Sequence[Spread]) -> str:
    """Say that something lies beyond the axis, if anything does."""
    if all(abs(spread.mean) <= _SHOWN for spread in spreads):
        return ""
    return f"The axis ends at a factor of 1e{_SHOWN}; for lines beyond it see the tables."


def _by_layer(deep: Sequence[Network], seeds: int) -> Figure:
    spreads = [s for n in deep for s in n.by_layer("start")]

    def lines(members: Sequence[Network]) -> tuple[Series, ...]:
        layers = range(1, members[0].depth + 1)
        drawn = (
            banded(*_side(n), layers, [powers(s) for s in n.by_layer("start")]) for n in members
        )
        return tuple(replace(series, markers=len(layers) <= _MARKED) for series in drawn)

    return Figure(
        name="gradient-by-layer",
        title=f"Gradient of every hidden layer at the start, {deep[0].depth} layers",
        caption=caption(
            "Relative to the last hidden layer, on the right; layer 1 is next to the input. A "
            f"falling line means that gradients grow on their way to the input. {_cut(spreads)}",
            seeds,
        ),
        alt=f"Line plots over the layers, one per activation. {_ends(deep, 'start')}",
        x=Axis(title="hidden layer", format="count"),
        y=Axis(
            title="gradient, this / last hidden layer",
            scale="log",
            limits=_limits(spreads),
        ),
        panels=_panels(deep, lines),
    )


def _ends(networks: Sequence[Network], stage: str) -> str:
    return " ".join(
        f"{network.label} batch norm: {Spread.of(network.per_seed(stage)).mean:+z.1f} decades."
        for network in networks
    )


def _by_depth(networks: Sequence[Network], stage: str, seeds: int) -> Figure:
    spreads = [Spread.of(n.per_seed(stage)) for n in networks]

    def lines(members: Sequence[Network]) -> tuple[Series, ...]:
        depths = sorted({network.depth for network in members})
        sides = grouped(members, _side)
        return (
            *(
                banded(*side, depths, [powers(Spread.of(n.per_seed(stage))) for n in group])
                for side, group in sides.items()
            ),
            *_bounds(depths),
        )

    return Figure(
        name=f"gradient-by-depth-{stage}",
        title=f"Gradient of the first layer relative to the last, {STAGES[stage]}, by depth",
        caption=caption(
            "Between the dotted lines, a factor of ten to either side, gradients count as "
            f"staying. {_cut(spreads)}",
            seeds,
        ),
        alt=f"Line plots over the depth, one per activation. {_ends(networks, stage)}",
        x=Axis(title="hidden layers", scale="log", format="count"),
        y=Axis(
            title=_RATIO,
            scale="log",
            limits=_limits(spreads),
        ),
        panels=_panels(networks, lines),
    )


def _bounds(x: Sequence[float]) -> tuple[Series, ...]:
    """Return the two lines between which gradients count as staying."""
    return tuple(
        Series(
            name="a factor of ten",
            x=tuple(x),
            y=(10**end,) * len(x),
            color=7,
            dash="dot",
            markers=False,
        )
        for end in (LIMIT, -LIMIT)
    )


def _over_steps(deep: Sequence[Network], seeds: int) -> Figure:
    every = [s for n in deep for s in n.over_steps()[1]]

    def line(network: Network) -> Series:
        steps, spreads = network.over_steps()
        return banded(*_side(network), steps, [powers(s) for s in spreads])

    def lines(members: Sequence[Network]) -> tuple[Series, ...]:
        longest = max((n.over_steps()[0] for n in members), key=len)
        return (*map(line, members), *_bounds((longest[0], longest[-1])))

    return Figure(
        name="gradient-over-steps",
        title=f"Gradient of the first layer relative to the last while training, {deep[0].depth} "
        "layers",
        caption=caption(
            "Step 0 is the mean over several batches, every other point one batch. A line ends "
            f"where the loss of a run was no longer finite. {_cut(every)}",
            seeds,
        ),
        alt="Line plots over training steps, one per activation; means over the recorded steps: "
        + _ends(deep, "training"),
        x=Axis(title="step", format="count"),
        y=Axis(
            title=_RATIO,
            scale="log",
            limits=_limits(every),
        ),
        panels=_panels(deep, lines),
    )


def _losses(deep: Sequence[Network], seeds: int) -> Figure:
    def lines(members: Sequence[Network]) -> tuple[Series, ...]:
        chance = Spread.of(r.chance_loss for n in members for r in n.records).mean
        steps = max((n.losses()[0] for n in members), key=len)
        flat = Series(
            name="best constant prediction",
            x=steps,
            y=(chance,) * len(steps),
            color=7,
            dash="dot",
            markers=False,
        )
        return (*(banded(*_side(n), *n.losses()) for n in members), flat)

    return Figure(
        name="loss-over-steps",
        title=f"Training loss, {deep[0].depth} layers",
        caption=caption(
            "The mean since the point before. A network that stays at the dotted line has not "
            "learned anything from the inputs.",
            seeds,
        ),
        alt="Line plots of the training loss over steps, one per activation. "
        + " ".join(f"{n.label} batch norm: {n.learned} of {seeds} runs learned." for n in deep),
        x=Axis(title="step", format="count"),
        y=Axis(title="training loss", limits=(0, _highest(deep))),
        panels=_panels(deep, lines),
    )


def _highest(deep: Sequence[Network]) -> float:
    """Return a height that shows every network that trains, and not how far others diverge."""
    chance = max(record.chance_loss for network in deep for record in network.records)
    means = [spread.mean for network in deep for spread in network.losses()[1] if spread]
    return 1.1 * min(max(means, default=chance), 2 * chance)
