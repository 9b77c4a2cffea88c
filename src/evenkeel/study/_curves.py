"""Series and figures that more than one section draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel, Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study._records import RunRecord, Trajectory, Values
    from evenkeel.study._statistics import Spread

#: What the bands of :func:`banded` mean, for captions.
BAND: Final = "Lines are means over the seeds, bands reach from the lowest to the highest seed."


def banded(name: str, color: int, x: Sequence[float], spreads: Sequence[Spread | None]) -> Series:
    """Return means with a band from the lowest to the highest seed; None leaves a gap."""
    has_width = any(s and s.low < s.high for s in spreads)
    return Series(
        name=name,
        x=tuple(x),
        y=tuple(s and s.mean for s in spreads),
        low=tuple(s and s.low for s in spreads) if has_width else (),
        high=tuple(s and s.high for s in spreads) if has_width else (),
        color=color,
        dash="dash" if color else "solid",
    )


def affine_figure(record: RunRecord, parameter: str, *, name: str, title: str) -> Figure:
    """Draw gamma or beta of every batch-norm layer over the steps of one run."""
    seen = [t for t in record.trajectories if t.parameter == parameter]
    start = 1 if parameter == "gamma" else 0
    ends = "; ".join(
        f"layer {number} from {start} to a mean of {t.mean[-1]:.3g}, between {t.min[-1]:.3g} and "
        f"{t.max[-1]:.3g}"
        for number, t in enumerate(seen, start=1)
        if None not in {t.mean[-1], t.min[-1], t.max[-1]}
    )
    return Figure(
        name=name,
        title=title,
        caption=(
            f"One run at the best rate ({record.config.rate:g}, first seed). The thick line is "
            "the mean over the channels of a layer, the band holds the middle 80% of them, the "
            "dotted lines are the smallest and the largest; thin lines are single channels."
        ),
        alt=f"Line plots of {parameter} over steps for each batch-norm layer: {ends}.",
        x=Axis(title="step", format="count"),
        y=Axis(title=parameter),
        panels=tuple(
            Panel(title=f"layer {number}", series=_affine_series(record, trajectory))
            for number, trajectory in enumerate(seen, start=1)
        ),
    )


def _affine_series(record: RunRecord, seen: Trajectory) -> tuple[Series, ...]:
    steps = tuple(float(step) for step in record.steps)
    color = 2 if seen.parameter == "gamma" else 3

    def line(name: str, values: Values, *, faint: bool) -> Series:
        dash = "solid" if faint else "dot"
        return Series(
            name=name, x=steps, y=values, color=color, dash=dash, markers=False, faint=faint
        )

    return (
        *(line(f"channel {name}", values, faint=True) for name, values in seen.channels.items()),
        line("max", seen.max, faint=False),
        line("min", seen.min, faint=False),
        Series(
            name="mean",
            x=steps,
            y=seen.mean,
            low=seen.low,
            high=seen.high,
            color=color,
            markers=False,
        ),
    )
