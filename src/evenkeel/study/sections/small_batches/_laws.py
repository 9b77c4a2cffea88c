"""How the noise of batch statistics depends on the batch size, by theory."""

from __future__ import annotations

import math
import statistics
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def mean_law(n: int) -> float:
    """Standard deviation of the mean of n independent values of variance 1.

    Example:
        >>> mean_law(4)
        0.5
    """
    return 1 / math.sqrt(n)


def variance_law(n: int) -> float:
    """Relative standard deviation of the unbiased variance of n independent normal values.

    Example:
        >>> variance_law(3)
        1.0
    """
    return math.sqrt(2 / (n - 1))


def slope(sizes: Iterable[int], noise: Callable[[int], float]) -> float:
    """Return the exponent of the batch size: the slope of log noise over log size.

    Example:
        >>> round(slope([2, 4, 8], mean_law), 6)
        -0.5
    """
    x, y = zip(*((math.log(size), math.log(noise(size))) for size in sizes), strict=True)
    return statistics.linear_regression(x, y).slope
