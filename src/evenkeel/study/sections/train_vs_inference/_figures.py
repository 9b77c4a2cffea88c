"""The plots of the section."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread
from evenkeel.study.sections.train_vs_inference._groups import (
    MOMENTS,
    batch,
    gap,
    running,
    whole,
)
from evenkeel.study.sections.train_vs_inference._plan import DEFAULT, MOMENTA

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Series
    from evenkeel.study.sections.train_vs_inference._groups import Curve, Group

_STEP: Final = Axis(title="step", scale="log", format="count")
_WHOLE: Final = "whole training set"


def figures(groups: Sequence[Group], seeds: int) -> tuple[Figure, ...]:
    """Accuracy and gap over steps, then the gap by momentum."""
    return (_accuracy(groups, seeds), _gaps(groups, seeds), _by_momentum(groups, seeds))


def _accuracy(groups: Sequence[Group], seeds: int) -> Figure:
    curves = {
        "batch statistics": batch,
        **{f"running averages, momentum {m:g}": running(m) for m in (DEFAULT, MOMENTA[0])},
        _WHOLE: whole,
    }
    ends = "; ".join(
        f"batch {group.size}: "
        + ", ".join(f"{name} {_end(group, curve):.1%}" for name, curve in curves.items())
        for group in groups
    )
    return Figure(
        name="accuracy-by-statistics",
        title="Test accuracy of the same network, by the statistics that normalize",
        caption=caption(
            "At each recorded step the same weights are tested with each kind of statistics.",
            seeds,
        ),
        alt=f"Line plots of test accuracy over steps, one for each batch size. At the end: {ends}.",
        x=_STEP,
        y=Axis(title="test accuracy", format="percent", limits=(0, 1.02)),
        panels=_panels(groups, curves),
    )


def _gaps(groups: Sequence[Group], seeds: int) -> Figure:
    curves = {f"momentum {m:g}": gap(running(m)) for m in groups[0].momenta}
    curves[_WHOLE] = gap(whole)
    return Figure(
        name="gap-over-steps",
        title="Accuracy with running averages minus accuracy with batch statistics",
        caption=caption(
            "Above zero the running averages do better. The last line uses the statistics of the "
            "whole training set instead, which neither lag nor depend on a batch.",
            seeds,
        ),
        alt="Line plots of the gap over steps, one for each batch size. "
        + " ".join(_gap_ends(group) for group in groups),
        x=_STEP,
        y=Axis(title="gap in accuracy", format="percent"),
        panels=_panels(groups, curves),
    )


def _gap_ends(group: Group) -> str:
    ends = ", ".join(
        f"momentum {m:g} {100 * _end(group, gap(running(m))):+z.1f} points" for m in group.momenta
    )
    return f"Batch {group.size}, at the end: {ends}."


def _by_momentum(groups: Sequence[Group], seeds: int) -> Figure:
    def line(group: Group, color: int, moment: str) -> Series:
        spreads = [
            Spread.of(group.at("early" if moment == "early" else "end", gap(running(m))))
            for m in group.momenta
        ]
        return banded(f"batch {group.size}", color, group.momenta, spreads)

    return Figure(
        name="gap-by-momentum",
        title="The gap by momentum, early and at the end",
        caption=caption(
            "A momentum of 1 keeps nothing but the last batch, one of 0.01 looks back about a "
            "hundred batches and, early, on the start of 0 and 1.",
            seeds,
        ),
        alt="Line plots of the gap over the momentum, early and at the end. "
        + " ".join(_gap_ends(group) for group in groups),
        x=Axis(title="momentum (weight of the new batch)", scale="log", format="rate"),
        y=Axis(title="gap in accuracy", format="percent"),
        panels=tuple(
            Panel(
                title=when,
                series=tuple(line(group, color, moment) for color, group in enumerate(groups)),
            )
            for moment, when in MOMENTS.items()
        ),
    )


def _panels(groups: Sequence[Group], curves: dict[str, Curve]) -> tuple[Panel, ...]:
    """Return one panel per batch size with all curves in it."""
    return tuple(
        Panel(
            title=f"batch size {group.size}",
            series=tuple(
                banded(name, color, *group.over_steps(curve))
                for color, (name, curve) in enumerate(curves.items())
            ),
        )
        for group in groups
    )


def _end(group: Group, curve: Curve) -> float:
    return Spread.of(group.at("end", curve)).mean
