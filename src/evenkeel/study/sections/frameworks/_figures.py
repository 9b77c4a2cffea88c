"""The plots of the section: curves side by side, one panel for each origin."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread
from evenkeel.study.sections.frameworks._groups import accuracy, loss, mean
from evenkeel.study.sections.frameworks._plan import ORIGINS, TITLES

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Series
    from evenkeel.study.sections.frameworks._groups import Curve, Group

_STEP: Final = Axis(title="step", scale="log", format="count")


def figures(groups: Sequence[Group], seeds: int) -> tuple[Figure, ...]:
    """Loss and accuracy in inference over the steps."""
    return (
        Figure(
            name="inference-loss",
            title="Loss in inference of the same network in three frameworks",
            caption=caption(
                "All arms of a panel start from the same weights and see the same batches. Lines "
                "that lie on each other are the same training.",
                seeds,
            ),
            alt=f"Line plots of the inference loss over steps. {_ends(groups, loss, '.3f')}",
            x=_STEP,
            y=Axis(title="cross entropy in inference", scale="log"),
            panels=_panels(groups, loss),
        ),
        Figure(
            name="inference-accuracy",
            title="Accuracy in inference of the same network in three frameworks",
            caption=caption("As above, for the share of right answers.", seeds),
            alt=f"Line plots of the test accuracy over steps. {_ends(groups, accuracy, '.1%')}",
            x=_STEP,
            y=Axis(title="test accuracy", format="percent", limits=(0, 1.02)),
            panels=_panels(groups, accuracy),
        ),
    )


def _panels(groups: Sequence[Group], curve: Curve) -> tuple[Panel, ...]:
    return tuple(
        Panel(
            title=f"settings from {TITLES[origin]}",
            series=tuple(
                _line(group, color, curve)
                for color, group in enumerate(g for g in groups if g.arm.origin == origin)
            ),
        )
        for origin in ORIGINS
    )


def _line(group: Group, color: int, curve: Curve) -> Series:
    rows = zip(*(curve(record) for record in group.records), strict=True)
    return banded(group.arm.title, color, group.records[0].steps, [Spread.of(row) for row in rows])


def _ends(groups: Sequence[Group], curve: Curve, form: str) -> str:
    def end(group: Group) -> float:
        return Spread.of(mean(record, curve, "end") for record in group.records).mean

    return " ".join(
        f"Settings from {TITLES[origin]}, at the end: "
        + ", ".join(f"{g.arm.title} {end(g):{form}}" for g in groups if g.arm.origin == origin)
        + "."
        for origin in ORIGINS
    )
