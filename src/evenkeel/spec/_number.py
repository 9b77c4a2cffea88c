"""What counts as a number in a description."""

from __future__ import annotations

import math


def is_number(value: object) -> bool:
    """Whether ``value`` is a finite Python number (no bool, which is an int to Python)."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an int beyond every float
        return False
