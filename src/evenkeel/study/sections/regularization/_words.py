"""The findings in words and tables."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import Spread, above, below, listing, over_seeds, plus_minus, points
from evenkeel.study.sections.regularization._figures import figures
from evenkeel.study.sections.regularization._outcomes import Outcome, outcomes_of
from evenkeel.study.sections.regularization._plan import NETWORKS, network_of
from evenkeel.study.sections.regularization._verdict import leads, measures_of, regularizes

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Cell
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.regularization._outcomes import Outcomes, What
    from evenkeel.study.sections.regularization._plan import Network
    from evenkeel.study.sections.regularization._run import Record


def reduce(records: Sequence[Record]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    found = outcomes_of(records)
    measures = measures_of(found)
    by_name = {measure.name: measure for measure in measures}
    paragraphs = (
        _claim(found, by_name),
        _gains(found, by_name),
        _dropout(found, by_name),
        _batches(found, by_name),
        _trained(found),
        over_seeds(
            found.seeds,
            f"All numbers are means over {found.seeds} seeds, each with a training set of its own; "
            "± is the standard deviation.",
        ),
    )
    return Findings(
        headline=_headline(found, by_name),
        answer="\n\n".join(paragraphs),
        highlights=_highlights(found),
        summary=_summary(found),
        figures=figures(found),
        tables=(_runs(records, found.seeds),),
        measures=measures,
    )


def _text(
    found: Outcomes, what: What, network: Network, size: int, batch: int | None = None
) -> str:
    return plus_minus(found.spread(what, network, size, batch), found.seeds)


def _headline(found: Outcomes, measures: Measures) -> str:
    by_norm = listing(
        f"{points(measures[f'norm-{size}'])} with {size} training samples" for size in found.sizes
    )
    added = listing(f"{points(measures[f'added-{size}'])} with {size}" for size in found.sizes)
    return (
        f"Batch norm changed the test accuracy of the plain network by {by_norm}. Dropout in "
        f"addition changed that by {added}."
    )


def _claim(found: Outcomes, measures: Measures) -> str:
    """Answer both parts of the claim."""
    yes = [size for size in found.sizes if regularizes(measures, size)]
    no = [size for size in found.sizes if size not in yes]
    clearly = "clearly " if found.seeds > 1 else ""
    first = (
        f"Batch norm {clearly}raised test accuracy and closed part of the train-test gap with "
        f"{listing(yes)} training samples"
        if yes
        else f"With no size of the training set did batch norm {clearly}raise test accuracy and "
        "close part of the train-test gap"
    )
    if yes and no:
        first += f", but not with {listing(no)}"
    ahead = [f"{listing(better)} with {s}" for s in found.sizes if (better := leads(measures, s))]
    second = (
        f"Dropout was {clearly}ahead of batch norm alone in these cases: {'; '.join(ahead)}."
        if ahead
        else f"At no size was dropout, instead or in addition, {clearly}ahead of batch norm alone."
    )
    return f"{first}{_room(found, measures)}. {second}"


def _room(found: Outcomes, measures: Measures) -> str:
    """Say how large a gain may be that is not clear."""
    highs = [measures[f"norm-{s}"].high for s in found.sizes if not regularizes(measures, s)]
    known = [high for high in highs if high is not None]
    if not known:
        return ""
    return f"; the intervals leave room for a gain of {100 * max(*known, 0.0):.1f} points at most"


def _gains(found: Outcomes, measures: Measures) -> str:
    rows = "; ".join(
        f"with {size} samples {points(measures[f'norm-{size}'])} (from "
        f"{_text(found, 'test', 'plain', size)} to {_text(found, 'test', 'batch norm', size)}), "
        f"while test loss was multiplied by {math.exp(measures[f'loss-{size}'].mean):.2f}"
        for size in found.sizes
    )
    return f"Change in test accuracy by batch norm, averaged over the batch sizes: {rows}."


def _dropout(found: Outcomes, measures: Measures) -> str:
    rows = "; ".join(
        f"with {size} samples {points(measures[f'instead-{size}'])} instead of it and "
        f"{points(measures[f'added-{size}'])} in addition to it"
        for size in found.sizes
    )
    alone = listing(points(measures[f"dropout-{size}"]) for size in found.sizes)
    return (
        f"Change in test accuracy when dropout is used against batch norm alone: {rows}. Against "
        f"the plain network, dropout alone changed it by {alone}."
    )


def _batches(found: Outcomes, measures: Measures) -> str:
    measured = measures["batch-size"]
    small, large = found.batch_sizes[0], found.batch_sizes[-1]
    unclear = "not clearly different from" if found.seeds > 1 else "the same as"
    kind = "larger than" if above(measured) else "smaller than" if below(measured) else unclear
    return (
        f"The gain by batch norm at batch size {small}, where the statistics are noisier, was "
        f"{kind} that at batch size {large}: the difference is {points(measured)}, averaged over "
        "the training sets."
    )


def _trained(found: Outcomes) -> str:
    rows = listing(
        f"{min(found.spread('train', n, size).mean for size in found.sizes):.1%} ({n})"
        for n in NETWORKS
    )
    return (
        f"The lowest training accuracy at the end, over the sizes of the training set: {rows}. A "
        "gap means the more, the nearer these are to each other."
    )


def _highlights(found: Outcomes) -> tuple[Highlight, ...]:
    size = found.sizes[0]

    def tile(label: str, what: What, network: Network, beside: Network, name: str) -> Highlight:
        return Highlight(
            label=f"{label}, {size} training samples",
            value=_text(found, what, network, size),
            other=f"{name}: {_text(found, what, beside, size)}",
        )

    return (
        tile("test accuracy with batch norm", "test", "batch norm", "plain", "plain"),
        tile("train-test gap with batch norm", "gap", "batch norm", "plain", "plain"),
        tile("test accuracy with both", "test", "both", "dropout", "with dropout alone"),
    )


def _summary(found: Outcomes) -> Table:
    rows = tuple(
        (size, batch, *(_text(found, "test", network, size, batch) for network in NETWORKS))
        for size, batch in found.settings
    )
    return Table(
        name="regularization-summary",
        title="Test accuracy after training on few samples",
        columns=(
            Column(title="Training samples", format="count"),
            Column(title="Batch size", format="count"),
            *(Column(title=network.capitalize()) for network in NETWORKS),
        ),
        rows=rows,
    )


def _runs(records: Sequence[Record], seeds: int) -> Table:
    """Return every setting, network and rate, also those that were not the best."""
    groups: dict[tuple[int | None, int, Network, float], list[Record]] = {}
    for record in records:
        c = record.config
        key = (c.samples, c.batch_size, network_of(c), c.rate)
        groups.setdefault(key, []).append(record)
    rows: list[tuple[Cell, ...]] = []
    for (_, batch, network, rate), members in groups.items():
        outcome = Outcome(tuple(members))
        rows.append(
            (
                members[0].samples,
                batch,
                network,
                rate,
                members[0].config.max_steps,
                outcome.mean("train"),
                plus_minus(Spread.of(outcome.values("test")), seeds),
                outcome.mean("gap"),
                outcome.mean("train loss"),
                outcome.mean("test loss"),
            )
        )
    return Table(
        name="regularization-all",
        title="Every network at every rate, means over the seeds",
        columns=(
            Column(title="Training samples", format="count"),
            Column(title="Batch size", format="count"),
            Column(title="Network"),
            Column(title="Rate", format="rate"),
            Column(title="Steps", format="count"),
            Column(title="Training accuracy", format="percent"),
            Column(title="Test accuracy"),
            Column(title="Gap", format="percent"),
            Column(title="Training loss", format="number"),
            Column(title="Test loss", format="number"),
        ),
        rows=tuple(rows),
    )
