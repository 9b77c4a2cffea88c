"""Timings and ratios for a terminal of 80 columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Group
from rich.table import Table

from evenkeel.bench._summary import TORCH, US

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import RenderableType

    from evenkeel.bench._records import Record, StepRecord
    from evenkeel.bench._summary import Ratio


def tables(records: Sequence[Record], summary: Sequence[Ratio]) -> RenderableType:
    """For each group of sites the times and their ratios; then what went wrong."""
    groups: dict[tuple[str, ...], list[Record]] = {}
    for one in records:
        groups.setdefault((one.suite, one.layout, one.dtype, one.mode), []).append(one)
    parts: list[RenderableType] = []
    for key, group in groups.items():
        parts.append(_sites(key, group))
        ratios = [r for r in summary if (r.suite, r.layout, r.dtype, r.mode) == key]
        if ratios:
            parts.append(_ratios(ratios))
    problems = {f"{one.peer}: {one.problem}": one for one in records if one.problem}
    parts += [f"{text} (first at {one.shape})" for text, one in problems.items()]
    return Group(*parts)


def step_tables(records: Sequence[StepRecord]) -> RenderableType:
    """For each network times and memory; then what went wrong."""
    groups: dict[tuple[str, ...], list[StepRecord]] = {}
    for one in records:
        groups.setdefault(one.group, []).append(one)
    problems = [f"{one.peer}: {one.problem} ({one.network})" for one in records if one.problem]
    return Group(*map(_steps, groups.values()), *dict.fromkeys(problems))


def _steps(group: Sequence[StepRecord]) -> Table:
    one = group[0]
    table = _table(
        f"{one.network}, {one.batch} images of {one.pixels} x {one.pixels}, channels {one.layout}: "
        "one training step"
    )
    table.add_column("peer", no_wrap=True)
    for name in (
        "s",
        "p20 to p80",
        "torch's time\nover its",
        "peak GB",
        "of the\nstep",
        "saved GB",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    torch = next((each.median for each in group if each.peer == TORCH), None)
    for each in group:
        spread = "-" if each.median is None else f"{each.p20:.3g} to {each.p80:.3g}"
        table.add_row(
            each.peer,
            "-" if each.median is None else f"{each.median:.3g}",
            spread,
            _times(torch, each.median),
            *map(_gigabytes, (each.peak, each.own, each.saved)),
        )
    return table


def _gigabytes(size: int | None) -> str:
    return "-" if size is None else f"{size / 1e9:.2f}"


def _sites(key: tuple[str, ...], group: Sequence[Record]) -> Table:
    suite, layout, dtype, mode = key
    peers = list(dict.fromkeys(one.peer for one in group if one.peer != US))
    table = _table(f"{suite}, {dtype}, channels {layout}, {mode}: ms, and times evenkeel's")
    table.add_column("site", no_wrap=True)
    table.add_column("n", justify="right", no_wrap=True, min_width=2)
    for name in (US, *peers):
        table.add_column(name.replace("-", "\n"), justify="right", no_wrap=True)
    times = {(one.site, one.peer): one.median for one in group}
    rows = {one.site: (one.title, str(one.count)) for one in group}
    for site, (name, count) in rows.items():
        ours = times.get((site, US))
        cells = (_times(times.get((site, peer)), ours) for peer in peers)
        table.add_row(name, count, _milliseconds(ours), *cells)
    return table


def _ratios(ratios: Sequence[Ratio]) -> Table:
    table = _table("Time divided by evenkeel's, each site as often as the network has it")
    table.add_column("peer")
    for name in ("geometric mean", "of the sums", "least"):
        table.add_column(name, justify="right")
    table.add_column("at")
    for row in ratios:
        values = (f"{value:.2f}x" for value in (row.mean, row.total, row.worst))
        table.add_row(row.peer, *values, row.where)
    return table


def _table(title: str) -> Table:
    return Table(
        box=box.SIMPLE_HEAD, title=title, title_justify="left", pad_edge=False, padding=(0, 0, 0, 1)
    )


def _milliseconds(seconds: float | None) -> str:
    return "-" if seconds is None else f"{1e3 * seconds:.3g}"


def _times(theirs: float | None, ours: float | None) -> str:
    if theirs is None or ours is None:
        return "-"
    times = theirs / ours
    return f"{times:.2f}x" if times < 10 else f"{times:.1f}x"
