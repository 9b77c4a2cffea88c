"""Series that more than one section draws."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Series

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.study._statistics import Spread

#: What the bands of :func:`banded` mean, for captions.
BAND: Final = "Lines are means over the seeds, bands the 95% confidence interval of the mean."


def banded(name: str, color: int, x: Sequence[float], spreads: Sequence[Spread | None]) -> Series:
    """Return means with their confidence intervals; None leaves a gap.

    Every second colour is dashed, so that colour is never the only difference.
    """
    has_width = any(s and s.low < s.high for s in spreads)
    return Series(
        name=name,
        x=tuple(x),
        y=tuple(s and s.mean for s in spreads),
        low=tuple(s and s.low for s in spreads) if has_width else (),
        high=tuple(s and s.high for s in spreads) if has_width else (),
        color=color,
        dash="dash" if color % 2 else "solid",
    )


def caption(text: str, seeds: int) -> str:
    """Add to a caption what lines and bands are."""
    return f"{text} {BAND if seeds > 1 else 'One seed, so there is no spread.'}".strip()
