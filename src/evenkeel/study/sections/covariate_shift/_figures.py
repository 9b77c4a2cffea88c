"""The plots of the section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel
from evenkeel.study._curves import banded, caption
from evenkeel.study.sections.covariate_shift._plan import COMMON, LAG, SIZES

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.report import Series
    from evenkeel.study._records import Values
    from evenkeel.study.sections.covariate_shift._arms import Arm, Comparison
    from evenkeel.study.sections.covariate_shift._run import Point

#: Colour of each network; every second one is dashed.
_COLORS: Final = {"with batch norm": 0, "without": 1, "noisy batch norm": 2}
_EARLY: Final = "The axis of steps is logarithmic: most of it happens early. Means are geometric."


def figures(comparisons: Sequence[Comparison], noise: Arm, seeds: int) -> tuple[Figure, ...]:
    """Drift and change of gradients by layer, the two smoothness plots, and the loss."""
    common, best = comparisons
    three = (*_pair(common), noise)
    panels = {f"all at rate {COMMON:g}": three, "each at its own best rate": _pair(best)}
    loss = _over_steps(
        panels,
        lambda point: point.train_loss,
        None,
        name="loss",
        title="Training loss of the same runs",
        caption=caption("Of the batches since the point before. Means are geometric.", seeds),
        y=Axis(title="training loss", scale="log"),
    )
    return (*_shifts(three, seeds), *_smoothness(panels, seeds), loss)


def _shifts(arms: tuple[Arm, ...], seeds: int) -> tuple[Figure, Figure]:
    drift = _by_layer(
        arms,
        lambda point: point.drift,
        "drift",
        name="drift-by-layer",
        title=f"(a) Drift of each layer's inputs over {LAG} steps, all at rate {COMMON:g}",
        caption=caption(
            "How far mean and deviation of the units moved on the probe batch, in units of "
            f"their deviation. {_EARLY}",
            seeds,
        ),
        y=Axis(title=f"drift over {LAG} steps", scale="log"),
    )
    change = _by_layer(
        arms,
        lambda point: point.change,
        "change",
        name="gradient-change-by-layer",
        title=f"(b) Change of each layer's gradient by updates below, all at rate {COMMON:g}",
        caption=caption(
            "The L2 norm of the change over that of the gradient, by the one update that was "
            "due. Above 1 the change is larger than the gradient itself. Means are geometric.",
            seeds,
        ),
        y=Axis(title="relative change of gradient", scale="log"),
    )
    return drift, change


def _smoothness(panels: dict[str, tuple[Arm, ...]], seeds: int) -> tuple[Figure, Figure]:
    reach = _over_steps(
        panels,
        lambda point: point.loss_range,
        "range",
        name="loss-range",
        title="(c) Range of the loss along the gradient",
        caption=caption(
            f"Largest minus smallest loss of the batch for step sizes 0 and {SIZES[0]:g} to "
            f"{SIZES[-1]:g}. Means are geometric.",
            seeds,
        ),
        y=Axis(title="range of the loss", scale="log"),
    )
    beta = _over_steps(
        panels,
        lambda point: point.beta,
        "beta",
        name="beta-smoothness",
        title="(c) Effective beta-smoothness along the gradient",
        caption=caption(
            "Largest change of the gradient over the distance moved, for the same step sizes; "
            "lower is smoother. Means are geometric.",
            seeds,
        ),
        y=Axis(title="effective beta", scale="log"),
    )
    return reach, beta


def _pair(comparison: Comparison) -> tuple[Arm, Arm]:
    return comparison.with_norm, comparison.without


def _by_layer(
    arms: Sequence[Arm],
    values: Callable[[Point], Values],
    quantity: str,
    *,
    name: str,
    title: str,
    caption: str,
    y: Axis,
) -> Figure:
    layers = len(arms[0].records[0].config.hidden)

    def panel(layer: int) -> Panel:
        return Panel(
            title="output layer" if layer == layers - 1 else f"layer {layer + 2}",
            series=tuple(_line(arm, lambda point: values(point)[layer]) for arm in arms),
        )

    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=f"Line plots over training steps, one per layer. {title}. {_means(arms, quantity)}",
        x=Axis(title="step", scale="log", format="count"),
        y=y,
        panels=tuple(map(panel, range(layers))),
    )


def _over_steps(
    panels: dict[str, tuple[Arm, ...]],
    value: Callable[[Point], float | None],
    quantity: str | None,
    *,
    name: str,
    title: str,
    caption: str,
    y: Axis,
) -> Figure:
    def says(arms: Sequence[Arm]) -> str:
        if quantity is not None:
            return _means(arms, quantity)
        return " ".join(f"{_label(arm)}: {_mean_loss(arm)}." for arm in arms)

    return Figure(
        name=name,
        title=title,
        caption=caption,
        alt=f"Line plots over training steps. {title}. "
        + " ".join(f"{name}: {says(arms)}" for name, arms in panels.items()),
        x=Axis(title="step", scale="log", format="count"),
        y=y,
        panels=tuple(
            Panel(title=name, series=tuple(_line(arm, value) for arm in arms))
            for name, arms in panels.items()
        ),
    )


def _line(arm: Arm, value: Callable[[Point], float | None]) -> Series:
    return banded(arm.network, _COLORS[arm.network], arm.steps, arm.over_steps(value))


def _label(arm: Arm) -> str:
    return f"{arm.network}, rate {arm.rate:g}"


def _mean_loss(arm: Arm) -> str:
    return f"mean over the run {sum(arm.losses) / len(arm.losses):.3g}"


def _means(arms: Sequence[Arm], quantity: str) -> str:
    return " ".join(f"{_label(arm)}: mean {arm.mean(quantity):.3g}." for arm in arms)
