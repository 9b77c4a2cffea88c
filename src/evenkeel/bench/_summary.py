"""Ratios over the sites of a suite: what a reader wants to know of a few hundred timings."""

from __future__ import annotations

from dataclasses import dataclass
from math import exp, fsum, log
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.bench._records import Record

US: Final = "evenkeel"
FLOOR: Final = "floor"
TORCH: Final = "torch"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """One peer against evenkeel over the sites of a suite, in one layout, dtype and mode.

    Args:
        suite: network or group.
        layout: channels first or last.
        dtype: of input and output.
        mode: forward+backward, or forward.
        peer: whose time is divided by evenkeel's.
        sites: how many sites both have a time for, each as often as the network has it.
        mean: geometric mean of the ratios, over these sites.
        total: ratio of the summed times.
        worst: least ratio, and the site that has it.
        where: that site.
    """

    suite: str
    layout: str
    dtype: str
    mode: str
    peer: str
    sites: int
    mean: float
    total: float
    worst: float
    where: str


def ratios(records: Sequence[Record]) -> list[Ratio]:
    """One line for each group and peer, in the order in which they first appear."""
    times = {(one.site, one.peer): one.median for one in records if one.median is not None}
    groups: dict[tuple[str, ...], list[Record]] = {}
    for one in records:
        if one.peer != US and (one.site, one.peer) in times and (one.site, US) in times:
            key = (one.suite, one.layout, one.dtype, one.mode, one.peer)
            groups.setdefault(key, []).append(one)
    return [_ratio(key, group, times) for key, group in groups.items()]


def _ratio(
    key: tuple[str, ...],
    group: Sequence[Record],
    times: dict[tuple[tuple[str, ...], str], float],
) -> Ratio:
    suite, layout, dtype, mode, peer = key
    theirs = [times[one.site, peer] for one in group]
    ours = [times[one.site, US] for one in group]
    counts = [one.count for one in group]
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    worst = min(range(len(each)), key=each.__getitem__)
    return Ratio(
        suite=suite,
        layout=layout,
        dtype=dtype,
        mode=mode,
        peer=peer,
        sites=sum(counts),
        mean=exp(fsum(n * log(r) for n, r in zip(counts, each, strict=True)) / sum(counts)),
        total=_weighted(theirs, counts) / _weighted(ours, counts),
        worst=each[worst],
        where=group[worst].title,
    )


def _weighted(values: Sequence[float], counts: Sequence[int]) -> float:
    return fsum(value * count for value, count in zip(values, counts, strict=True))
