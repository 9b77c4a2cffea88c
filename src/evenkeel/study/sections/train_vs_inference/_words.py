"""The findings in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import Spread, above, below, over_seeds, plus_minus, points
from evenkeel.study.sections.train_vs_inference._figures import figures
from evenkeel.study.sections.train_vs_inference._groups import (
    MOMENTS,
    batch,
    groups_of,
    running,
    whole,
)
from evenkeel.study.sections.train_vs_inference._plan import DEFAULT
from evenkeel.study.sections.train_vs_inference._verdict import (
    MARGIN,
    is_same,
    key,
    measures_of,
    settings_in,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from evenkeel.report import Cell, Measure
    from evenkeel.study.sections.train_vs_inference._groups import Curve, Group, Moment
    from evenkeel.study.sections.train_vs_inference._records import BatchOfOne, ModeRecord


def reduce(records: Sequence[ModeRecord]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    groups = groups_of(records)
    measures = measures_of(groups)
    known = {found.name: found for found in measures}
    seeds = len({record.config.seed for record in records})
    single = [record.single for record in records if record.single is not None]
    return Findings(
        headline=_headline(groups, known),
        answer="\n\n".join(_answer(groups, known, single, seeds)),
        highlights=_highlights(groups, known, single),
        summary=_accuracies(groups, "end"),
        figures=figures(groups, seeds),
        tables=(_accuracies(groups, "early"), *_single_table(single)),
        measures=measures,
    )


def _headline(groups: Sequence[Group], known: Mapping[str, Measure]) -> str:
    smallest, largest = groups[0], groups[-1]
    ends = [known[key(group.size, DEFAULT, "end")] for group in (smallest, largest)]
    return (
        f"At the end of training the running averages (momentum {DEFAULT:g}) differ from the "
        f"batch statistics by {points(ends[0])} at batch size {smallest.size} and by "
        f"{points(ends[1])} at batch size {largest.size}. {_early(groups, known)}"
    )


def _early(groups: Sequence[Group], known: Mapping[str, Measure]) -> str:
    """Say where the running averages lose most over the first steps."""
    early = {
        (group.size, m): known[key(group.size, m, "early")]
        for group in groups
        for m in group.momenta
    }
    size, momentum = min(early, key=lambda setting: early[setting].mean)
    lowest = early[size, momentum]
    if lowest.mean >= 0:
        return f"{MOMENTS['early'].capitalize()} they are nowhere behind on average."
    return (
        f"{MOMENTS['early'].capitalize()} they are furthest behind with momentum {momentum:g} at "
        f"batch size {size}: {points(lowest)}."
    )


def _answer(
    groups: Sequence[Group],
    known: Mapping[str, Measure],
    single: Sequence[BatchOfOne],
    seeds: int,
) -> Iterator[str]:
    """The claim, each batch size, where the gap comes from, a batch of one, the seeds."""
    same = {setting: is_same(found) for setting, found in settings_in(known).items()}
    counted = " and ".join(
        f"{sum(alike for (_, _, at), alike in same.items() if at == moment)} of "
        f"{sum(at == moment for _, _, at in same)} {when}"
        for moment, when in MOMENTS.items()
    )
    yield (
        f"{_compared(groups, known)} Over all batch sizes and momenta, wherever the network has "
        "learned something, running averages and batch statistics give the same accuracy, to "
        f"within {100 * MARGIN:g} point, in {counted}."
    )
    yield (
        f"With momentum {DEFAULT:g} at the end: "
        + "; ".join(_at_end(group, known) for group in groups)
        + "."
    )
    yield _early(groups, known) + " " + _whole(groups, known)
    yield from _single(single)
    yield over_seeds(seeds)


def _compared(groups: Sequence[Group], known: Mapping[str, Measure]) -> str:
    """Sort the batch sizes by what the running averages do at the end."""
    words = {
        "better": f"better, by more than {100 * MARGIN:g} point, at batch size",
        "same": f"the same, to within {100 * MARGIN:g} point, at batch size",
        "worse": f"worse, by more than {100 * MARGIN:g} point, at batch size",
        "unclear": "not clearly one of these at batch size",
    }
    sizes: dict[str, list[str]] = {}
    for group in groups:
        state = _state(known[key(group.size, DEFAULT, "end")])
        sizes.setdefault(state, []).append(str(group.size))
    named = "; ".join(f"{text} {', '.join(sizes[s])}" for s, text in words.items() if s in sizes)
    return (
        f"At the end of training the accuracy with running averages (momentum {DEFAULT:g}), "
        f"compared with that of batch statistics, is {named}."
    )


def _state(gap: Measure) -> str:
    if is_same(gap):
        return "same"
    if above(gap, MARGIN):
        return "better"
    return "worse" if below(gap, -MARGIN) else "unclear"


def _at_end(group: Group, known: Mapping[str, Measure]) -> str:
    return (
        f"batch size {group.size}: {_percent(group, 'end', running(DEFAULT))} with running "
        f"averages, {_percent(group, 'end', batch)} with batch statistics, a gap of "
        f"{points(known[key(group.size, DEFAULT, 'end')])}"
    )


def _whole(groups: Sequence[Group], known: Mapping[str, Measure]) -> str:
    """Compare with statistics that are neither averaged over time nor taken from a batch."""
    gaps = "; ".join(
        f"batch size {group.size}: {100 * known[f'batch-{group.size}-whole-early'].mean:+z.1f} "
        f"points early, {100 * known[f'batch-{group.size}-whole-end'].mean:+z.1f} at the end"
        for group in groups
    )
    return (
        "With the statistics of the whole training set in the place of the running averages, the "
        f"gaps would be: {gaps}. Where that differs from the running averages, these lag behind "
        "the weights or are noisy; where it does not, the gap lies in the batch statistics: those "
        "of few samples are noisy, too."
    )


def _single(single: Sequence[BatchOfOne]) -> Iterator[str]:
    """Say what a batch of one does."""
    if not single:
        return
    refused = sum(found.refusal is not None for found in single)
    by_torch = sum(found.torch_refusal is not None for found in single)
    beyond = [found.beyond_beta for found in single]
    constant = Spread.of(found.constant_accuracy for found in single)
    differences = [found.difference for found in single]
    same = Spread.of(found.same_answers for found in single)
    yield (
        f"A batch of one in training was refused by evenkeel in {refused} and by torch in "
        f"{by_torch} of {len(single)} networks: one value per channel is its own mean, so the "
        "normalized input is 0 and the layer's output is beta, whatever the sample (the "
        f"reference differs from beta by {_largest(beyond)}). Such a network answers every sample "
        f"alike and is right in {constant.mean:.1%} of the test samples. In inference a batch of "
        f"one is fine: {single[0].samples} samples, each alone, got the same answer as in one "
        f"batch in {same.mean:.1%} of the cases, and their logits differed by at most "
        f"{_largest(differences)} of the largest logit (one rounding of float32 is 6e-08)."
    )


def _largest(values: Sequence[float | None]) -> str:
    known = [value for value in values if value is not None]
    return f"{max(known):.2g}" if len(known) == len(values) else "a number that is not finite"


def _percent(group: Group, moment: Moment, curve: Curve) -> str:
    return plus_minus(Spread.of(group.at(moment, curve)), len(group.records))


def _highlights(
    groups: Sequence[Group], known: Mapping[str, Measure], single: Sequence[BatchOfOne]
) -> tuple[Highlight, ...]:
    ends = tuple(
        Highlight(
            label=f"gap at the end, batch size {group.size}, momentum {DEFAULT:g}",
            value=f"{100 * known[key(group.size, DEFAULT, 'end')].mean:+z.1f} points",
            other=f"{_percent(group, 'end', running(DEFAULT))} with running averages, "
            f"{_percent(group, 'end', batch)} with batch statistics",
        )
        for group in (groups[0], groups[-1])
    )
    refused = sum(found.refusal is not None for found in single)
    return (
        *ends,
        Highlight(
            label="networks in training that refuse a batch of one",
            value=f"{refused} of {len(single)}",
            other="in inference it is fine",
        ),
    )


def _accuracies(groups: Sequence[Group], moment: Moment) -> Table:
    momenta = groups[0].momenta
    rows: list[tuple[Cell, ...]] = [
        (
            group.size,
            *(
                Spread.of(group.at(moment, curve)).mean
                for curve in (batch, *map(running, momenta), whole)
            ),
        )
        for group in groups
    ]
    return Table(
        name=f"train-vs-inference-{moment}",
        title=f"Test accuracy {MOMENTS[moment]}, by the statistics that normalize",
        columns=(
            Column(title="Batch size", format="count"),
            Column(title="Batch statistics", format="percent"),
            *(Column(title=f"Momentum {m:g}", format="percent") for m in momenta),
            Column(title="Whole training set", format="percent"),
        ),
        rows=tuple(rows),
    )


def _single_table(single: Sequence[BatchOfOne]) -> Iterator[Table]:
    """The messages, word for word."""
    if not single:
        return
    first = single[0]
    yield Table(
        name="train-vs-inference-one",
        title="What a layer in training says to a batch of one",
        columns=(Column(title="Layer"), Column(title="Message")),
        rows=(
            ("evenkeel.nn.BatchNorm1d", first.refusal),
            ("torch.nn.BatchNorm1d", first.torch_refusal),
        ),
    )
