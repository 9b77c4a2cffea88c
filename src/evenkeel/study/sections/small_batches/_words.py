"""The findings in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import listing, over_seeds, plus_minus, points
from evenkeel.study.sections.small_batches._arms import WAYS, outcomes_of
from evenkeel.study.sections.small_batches._figures import figures
from evenkeel.study.sections.small_batches._laws import mean_law, slope, variance_law
from evenkeel.study.sections.small_batches._plan import FULL, LARGE
from evenkeel.study.sections.small_batches._verdict import compared, measures_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Cell
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.small_batches._arms import Outcome, Outcomes, Way
    from evenkeel.study.sections.small_batches._run import Inference, Record

#: Remedies in the words of a sentence.
_REMEDIES: Final[dict[Way, str]] = {
    "recalibrated": "recalibration",
    "own": "the test batch's own statistics",
    "frozen": "frozen statistics",
}


def reduce(records: Sequence[Record]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    found = outcomes_of(records)
    measures = measures_of(found)
    by_name = {measure.name: measure for measure in measures}
    return Findings(
        headline=_headline(found, by_name),
        answer="\n\n".join(
            (
                _claim(found, by_name),
                _remedies(found, by_name),
                _groups(found, by_name),
                _noise(by_name),
                over_seeds(found.seeds),
            )
        ),
        highlights=_highlights(found, by_name),
        summary=_summary(found),
        figures=figures(found),
        tables=(_runs(records),),
        measures=measures,
    )


def _text(found: Outcomes, outcome: Outcome) -> str:
    return plus_minus(outcome.spread, found.seeds)


def _headline(found: Outcomes, measures: Measures) -> str:
    size = found.smallest
    ways = found.ways[size]
    return (
        f"At batch size {size} the network with batch norm reached "
        f"{_text(found, ways['running'])} test accuracy, the one without "
        f"{_text(found, ways['without'])}. Batch norm was "
        f"{_compared(found, measures)}"
    )


def _compared(found: Outcomes, measures: Measures) -> str:
    """Say at which batch sizes batch norm is worse, better, or neither."""
    kinds = compared(measures, list(found.ways))
    several = found.seeds > 1
    words = {
        "worse": "clearly worse than none at" if several else "worse than none at",
        "better": "clearly better than none at" if several else "better than none at",
        "unclear": "not clearly different from none at" if several else "as good as none at",
    }
    parts = [f"{words[kind]} {_sizes(sizes)}" for kind, sizes in kinds.items() if sizes]
    return f"{', '.join(parts)}."


def _sizes(sizes: Sequence[int]) -> str:
    return f"batch size{'s' if len(sizes) > 1 else ''} {listing(sizes)}"


def _claim(found: Outcomes, measures: Measures) -> str:
    size = found.smallest
    ways = found.ways[size]
    return (
        "At the same batch size and number of steps, with running averages in inference, "
        f"batch norm was {_compared(found, measures)} At batch size {size} it changed test "
        f"accuracy by {points(measures[f'running-{size}'])}, from "
        f"{_text(found, ways['without'])} to {_text(found, ways['running'])}."
    )


def _remedies(found: Outcomes, measures: Measures) -> str:
    """Say what the remedies change at the two smallest batch sizes."""
    sizes = [size for size, ways in found.ways.items() if "frozen" in ways]
    text = "; ".join(
        f"at batch size {size} "
        + listing(
            f"{points(measures[f'{way}-gain-{size}'])} by {name}" for way, name in _REMEDIES.items()
        )
        for size in sizes[:2]
    )
    why = (
        "In a batch of two all that is left of a channel is which sample has the larger value: "
        "the two normalized values are nearly +1 and -1, however far apart they were. "
        if found.smallest == 2
        else ""
    )
    return (
        f"{why}Change in test accuracy against running averages: {text}; the table has the other "
        "batch sizes."
    )


def _groups(found: Outcomes, measures: Measures) -> str:
    least, *others = sorted(found.groups)
    text = (
        f"Ghost batches, that is, statistics over groups inside batches of {LARGE}, changed test "
        f"accuracy from {_text(found, found.whole)} by {points(measures[f'groups-{least}'])} with "
        f"groups of {least}"
    )
    if others:
        means = [100 * measures[f"groups-{group}"].mean for group in others]
        low, high = (f"{mean:+z.1f}" for mean in (min(means), max(means)))
        change = f"between {low} and {high}" if len(means) > 1 else low
        text += f", and by {change} points with groups of {listing(others)}"
    name = f"groups-beside-{least}"
    if name not in measures:
        return f"{text}."
    return (
        f"{text}. Batches of {LARGE} in groups of {least} have statistics as noisy as those of "
        f"batches of {least}, but a less noisy gradient and another number of steps; their test "
        f"accuracy differed by {points(measures[name])}."
    )


def _noise(measures: Measures) -> str:
    if not {"noise-mean", "noise-variance"} <= measures.keys():
        return "The noise of the batch statistics could not be measured: no finite values."
    mean, variance = measures["noise-mean"].mean, measures["noise-variance"].mean
    sizes = FULL.sizes
    return (
        f"The error of the batch mean followed the batch size to the power {mean:.2f} (by the law "
        f"1 / √n {slope(sizes, mean_law):.2f}), that of the batch variance to the power "
        f"{variance:.2f} (over these sizes {slope(sizes, variance_law):.2f} for normally "
        "distributed values)."
    )


def _highlights(found: Outcomes, measures: Measures) -> tuple[Highlight, ...]:
    size = found.smallest
    ways = found.ways[size]
    worse = compared(measures, list(found.ways))["worse"]
    remedy = max(_REMEDIES, key=lambda way: ways[way].spread.mean)
    return (
        Highlight(
            label=f"test accuracy at batch size {size}, with batch norm",
            value=_text(found, ways["running"]),
            other=f"without batch norm: {_text(found, ways['without'])}",
        ),
        Highlight(
            label=f"test accuracy at batch size {size}, {_REMEDIES[remedy]}",
            value=_text(found, ways[remedy]),
            other="the best of three remedies for batch norm",
        ),
        Highlight(
            label="largest batch size at which batch norm is worse than none",
            value=str(max(worse, default="none")),
            other=f"batch sizes from {size} to {max(found.ways)}",
        ),
    )


def _summary(found: Outcomes) -> Table:
    titles = ("Without", "Running averages", "Own statistics", "Recalibrated", "Frozen")
    rows = tuple(
        (
            size,
            *(_text(found, ways[way]) if way in ways else None for way in WAYS),
        )
        for size, ways in found.ways.items()
    )
    return Table(
        name="small-batches-summary",
        title="Test accuracy by batch size, without and with batch norm",
        columns=(Column(title="Batch size", format="count"), *(Column(title=t) for t in titles)),
        rows=rows,
    )


def _runs(records: Sequence[Record]) -> Table:
    rows: list[tuple[Cell, ...]] = []
    for record in records:
        config, scores = record.config, record.scores

        def test(inference: Inference, record: Record = record) -> float | None:
            score = record.scores.get(inference)
            return None if score is None else score.test

        rows.append(
            (
                _statistics_of(record),
                config.batch_size,
                config.rate,
                config.seed,
                record.steps[-1],
                scores["running"].train,
                test("running"),
                test("recalibrated"),
                test("own"),
            )
        )
    return Table(
        name="small-batches-all",
        title="Every run",
        columns=(
            Column(title="Statistics in training"),
            Column(title="Batch size", format="count"),
            Column(title="Rate", format="rate"),
            Column(title="Seed", format="count"),
            Column(title="Steps", format="count"),
            Column(title="Training accuracy", format="percent"),
            Column(title="Test accuracy", format="percent"),
            Column(title="Recalibrated", format="percent"),
            Column(title="Own statistics", format="percent"),
        ),
        rows=tuple(rows),
    )


def _statistics_of(record: Record) -> str:
    config = record.config
    if not config.batch_norm:
        return "no batch norm"
    return config.statistics if config.group is None else f"groups of {config.group}"
