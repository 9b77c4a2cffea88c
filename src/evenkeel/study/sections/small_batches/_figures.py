"""The plots of the section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel, Series
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread, grouped
from evenkeel.study.sections.small_batches._arms import WAYS
from evenkeel.study.sections.small_batches._laws import mean_law, variance_law
from evenkeel.study.sections.small_batches._plan import LARGE, REFERENCE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from evenkeel.study.sections.small_batches._arms import Outcome, Outcomes, Way
    from evenkeel.study.sections.small_batches._run import Noise

_ERROR: Final = Axis(title="share of wrong answers", scale="log")
_ACCURACY: Final = Axis(title="test accuracy", format="percent", limits=(0, 1.02))
_SIZE: Final = Axis(title="batch size", scale="log", format="count")


def figures(found: Outcomes) -> tuple[Figure, ...]:
    """Accuracy by batch size, noise of the statistics, training curves, groups in a batch."""
    noise = (_noise(found),) if all(found.noise) else ()
    return (_by_size(found), *noise, _over_steps(found), _groups(found))


def _errors(outcomes: Iterable[Outcome]) -> list[Spread | None]:
    """Return the test error over the seeds; no error at all has no place on a logarithmic axis."""
    spreads = [Spread.of(1 - accuracy for accuracy in outcome.test) for outcome in outcomes]
    return [spread if spread.mean > 0 else None for spread in spreads]


def _by_size(found: Outcomes) -> Figure:
    def series(color: int, way: Way) -> Series:
        tried = {size: ways[way] for size, ways in found.ways.items() if way in ways}
        return banded(WAYS[way], color, list(tried), _errors(tried.values()))

    least = found.smallest
    ends = "; ".join(
        f"{WAYS[way]} {1 - outcome.spread.mean:.1%}" for way, outcome in found.ways[least].items()
    )
    return Figure(
        name="error-by-batch-size",
        title="Test error by batch size",
        caption=caption(
            "At each batch size all networks make the same number of steps, each at its best "
            "rate. Running averages, own statistics and recalibration are three ways to predict "
            "with the same trained networks.",
            found.seeds,
        ),
        alt=f"Line plot of final test error over the batch size. At batch size {least}: {ends}.",
        x=_SIZE,
        y=_ERROR,
        panels=(
            Panel(title="", series=tuple(series(color, way) for color, way in enumerate(WAYS))),
        ),
    )


def _noise(found: Outcomes) -> Figure:
    panels = (
        _noise_panel("batch mean", found.noise, lambda n: n.mean, mean_law),
        _noise_panel("batch variance", found.noise, lambda n: n.variance, variance_law),
    )
    return Figure(
        name="noise-by-batch-size",
        title="Noise of the batch statistics by batch size",
        caption=caption(
            "Root mean square error of the mean (in standard deviations of the channel) and of "
            "the unbiased variance (relative) of random batches, at the input of each batch-norm "
            f"layer of networks trained with batches of {REFERENCE}. Dotted: 1 / √n, which holds "
            "for any values, and √(2 / (n - 1)), which holds for normally distributed ones.",
            found.seeds,
        ),
        alt="Two line plots of noise over the batch size, one for the batch mean, one for the "
        "batch variance. " + " ".join(map(_ends, panels)),
        x=_SIZE,
        y=Axis(title="relative error", scale="log"),
        panels=panels,
    )


def _noise_panel(
    title: str,
    noise: Sequence[Sequence[Noise]],
    value: Callable[[Noise], float | None],
    law: Callable[[int], float],
) -> Panel:
    every = [n for seed in noise for n in seed]
    sizes = sorted({n.batch_size for n in every})
    series = [
        banded(f"input of {layer}", color, sizes, [_spread(members, s, value) for s in sizes])
        for color, (layer, members) in enumerate(grouped(every, lambda n: n.layer).items())
    ]
    laws = tuple(law(size) for size in sizes)
    line = Series(name="the law", x=tuple(sizes), y=laws, color=7, dash="dot", markers=False)
    return Panel(title=title, series=(*series, line))


def _spread(
    members: Sequence[Noise], size: int, value: Callable[[Noise], float | None]
) -> Spread | None:
    known = [v for n in members if n.batch_size == size and (v := value(n)) is not None]
    return Spread.of(known) if known else None


def _ends(panel: Panel) -> str:
    first, *_, law = panel.series
    return (
        f"{panel.title}: "
        + ", ".join(
            f"{'unknown' if y is None else f'{y:.3g}'} at {x:.0f} (law {expected:.3g})"
            for x, y, expected in list(zip(first.x, first.y, law.y, strict=True))[
                :: len(first.x) - 1
            ]
        )
        + "."
    )


def _over_steps(found: Outcomes) -> Figure:
    shown = [size for size in found.ways if size in {2, 4, 16, REFERENCE}]
    panels: list[Panel] = []
    ends: list[str] = []
    for size in shown:
        series: list[Series] = []
        for color, way in enumerate(("without", "running", "frozen")):
            if way not in found.ways[size]:
                continue
            outcome = found.ways[size][way]
            steps, spreads = outcome.curve()  # step 0 has no place on a logarithmic axis
            name = f"{WAYS[way]}, rate {outcome.rate:g}"
            if len(steps) > 1:
                series.append(banded(name, 4 if way == "frozen" else color, steps[1:], spreads[1:]))
        ends.append(f"Batch size {size}: {', '.join(map(_last, series)) or 'not recorded'}.")
        panels.append(Panel(title=f"batch size {size}", series=tuple(series)))
    return Figure(
        name="small-batches-over-steps",
        title="Test accuracy over training steps",
        caption=caption(
            "In ordinary inference mode: with running averages, or with the fixed statistics once "
            "they are frozen.",
            found.seeds,
        ),
        alt="Line plots of test accuracy over steps. " + " ".join(ends),
        x=Axis(title="step", scale="log", format="count"),
        y=_ACCURACY,
        panels=tuple(panels),
    )


def _last(series: Series) -> str:
    y = series.y[-1]
    return f"{series.name}: {'unknown' if y is None else f'{y:.1%}'} at the end"


def _groups(found: Outcomes) -> Figure:
    groups = {**found.groups, LARGE: found.whole}
    sizes = {size: ways["running"] for size, ways in found.ways.items() if size <= LARGE}
    series = (
        banded(f"groups of n inside batches of {LARGE}", 0, list(groups), _errors(groups.values())),
        banded("batches of n", 1, list(sizes), _errors(sizes.values())),
    )
    ends = "; ".join(f"{1 - o.spread.mean:.1%} with groups of {g}" for g, o in found.groups.items())
    return Figure(
        name="groups-in-a-batch",
        title="Ghost batches: statistics over groups of a large batch",
        caption=caption(
            f"Each gradient is from {LARGE} samples, but batch norm sees n at a time; the second "
            "line is batch norm with batches of n. Running averages in inference.",
            found.seeds,
        ),
        alt=f"Line plot of final test error over the number of samples that share their "
        f"statistics, in batches of {LARGE}: {ends}; {1 - found.whole.spread.mean:.1%} with "
        "the whole batch.",
        x=Axis(title="samples that share their statistics, n", scale="log", format="count"),
        y=_ERROR,
        panels=(Panel(title="", series=series),),
    )
