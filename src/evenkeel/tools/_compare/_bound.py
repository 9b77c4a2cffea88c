r"""When two results in float32 count as equal: the law of ``compare``.

With :math:`u = 2^{-24}` and :math:`w = 2^{-53}`, the unit roundoffs of float32 and float64,
every quantity :math:`q` (an output, a loss, a gradient, a statistic) is computed four times:
by each side in float32, :math:`a` and :math:`b`, and by each side in its float64 mode at the
same state, :math:`A` and :math:`B`. All distances are largest absolute differences.

.. math::

    \text{own} &= \max(|a - A|,\; u\,\text{size}(q)) \\
    \text{gap} &= |B - A| \;\le\; 2^{13}\,\tfrac{w}{u}\,\text{own}
        \quad\text{(the same function)} \\
    |b - A| &\le 4 \max(\text{own},\; \tfrac{u}{w}\,\text{gap})
        \quad\text{(as exact as the source)}

*Same function.* Rounding shrinks by :math:`w/u = 2^{-29}` from float32 to float64, a wrong eps,
momentum or padding does not. A sum of :math:`n` terms loses about :math:`\sqrt n` roundings
(``docs/numerics.md``, section 6) more in one order of summation than in another; with
:math:`n \le 2^{26}`, as everywhere in that page, that is the factor :math:`2^{13}`.

*The floor.* The source may be exact by luck: every stored number is rounded once, hence
:math:`u\,\text{size}(q)`. And the target may add in another order, or fold where the source
centres, which costs more the further a mean is from 0. Its float64 mode runs the same
operations with roundings that are :math:`2^{-29}` times smaller, so the gap times
:math:`u/w` is what these roundings amount to in float32.

A tensor with few numbers may be right by luck on one side and not on the other. The tensors of
one layer are therefore taken together: the own error of each, relative to its size, is at
least that of the worst of them. The error of a loss :math:`L(y)` is at least what the own error
of the output explains, :math:`\sum |\partial L/\partial y|` times that error. Gradients and
statistics are long sums and have the floor of ``_compare_step.Sum``. A float32 result beyond its
bound on one batch is judged again by the largest own error, relative to size, over further
batches at the same state. An own error that a kink makes large counts nowhere: such a batch is
drawn again, and if every draw has a kink, the floor alone decides.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

UNIT32: Final = 2.0**-24
UNIT64: Final = 2.0**-53
#: How much a rounding grows from float64 to float32.
GROWTH: Final = UNIT32 / UNIT64
#: How much larger than its own float32 error the source allows.
FACTOR: Final = 4.0
#: Square root of the longest sum that is allowed for.
ORDER: Final = 2.0**13


@dataclass(frozen=True, slots=True, eq=False)
class Quantity:
    """One array that both sides computed, in the target's layout.

    Args:
        layer: name in the source; empty for the whole network.
        target: name in the target.
        item: what it is, such as ``"output"`` or ``"gradient of kernel"``.
        a: of the source in float32.
        b: of the target in float32, or None where it has none.
        exact: of the source in float64; of the target's where only that has float64.
        other: of the target in float64, or None.
        size: of the values that it is made of; the largest value where it is None.
        own: the least own error to assume, see the module.
        shared: the own error that others of its layer, or other batches, showed.
        zero: whether it is mathematically zero, so that all of it is rounding.
    """

    layer: str
    target: str
    item: str
    a: NDArray[Any] | None
    b: NDArray[Any] | None
    exact: NDArray[Any]
    other: NDArray[Any] | None
    size: float | None = None
    own: float = 0.0
    shared: float = 0.0
    zero: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Judged:
    """A quantity, and what the law says about it.

    Args:
        quantity: what was judged.
        error_a: of the source's float32 against float64.
        error_b: of the target's float32 against the same.
        bound: of ``error_b``.
        same: whether both sides agree in float64; True where one of them has none.
        floor: the own error without what the source's float32 run showed.
    """

    quantity: Quantity
    error_a: float
    error_b: float
    bound: float
    same: bool
    floor: float = field(default=0.0)

    @property
    def equal(self) -> bool:
        """Whether the target computes the same function as exactly as the source."""
        return self.same and self.error_b <= self.bound < np.inf

    @property
    def ratio(self) -> float:
        """How much of the bound the target needs; infinite where the functions differ."""
        if not self.same:
            return np.inf
        return 0.0 if self.error_b == 0 else self.error_b / self.bound if self.bound else np.inf

    @property
    def relative_own(self) -> float:
        """The own error in units of the size; 0 where nothing can be learned from it."""
        size = _size(self.quantity)
        usable = self.same and 0 < size < np.inf and self.bound < np.inf
        return self.bound / FACTOR / size if usable else 0.0


def largest(array: NDArray[Any] | None) -> float:
    """The largest absolute value; infinite where a value is not finite."""
    if array is None or array.size == 0:
        return 0.0
    value = float(np.max(np.abs(array.astype(np.float64))))
    return value if np.isfinite(value) else np.inf


def distance(one: NDArray[Any] | None, two: NDArray[Any] | None) -> float:
    """The largest difference; infinite where one is missing or not finite, or shapes differ."""
    if one is None or two is None or one.shape != two.shape:
        return np.inf
    with np.errstate(invalid="ignore", over="ignore"):
        return largest(one.astype(np.float64) - two.astype(np.float64))


def judge(quantity: Quantity) -> Judged:
    """Apply the law to one quantity."""
    q = quantity
    exact = np.zeros_like(q.exact) if q.zero else q.exact
    size = largest(exact) if q.size is None else q.size
    floor = max(UNIT32 * size, q.own)
    if q.zero:
        floor = max(floor, GROWTH * largest(q.exact))
    error_a = 0.0 if q.a is None else distance(q.a, exact)
    own, gap = max(floor, error_a, q.shared), 0.0 if q.other is None else distance(q.other, exact)
    same = q.b is not None and gap <= ORDER * own / GROWTH
    if same:
        own, floor = max(own, GROWTH * gap), max(floor, GROWTH * gap)
    return Judged(q, error_a, distance(q.b, exact), FACTOR * own, same, floor)


def judge_together(quantities: Sequence[Quantity]) -> tuple[Judged, ...]:
    """Apply the law to the tensors of one layer, see the module."""
    relative = max((judge(q).relative_own for q in quantities if not q.zero), default=0.0)
    return tuple(
        judge(q if q.zero else replace(q, shared=max(q.shared, relative * _size(q))))
        for q in quantities
    )


def judge_again(judged: Judged, relative: float) -> Judged:
    """Apply the law with at least this own error, in units of the size."""
    q = judged.quantity
    return judged if q.zero else judge(replace(q, shared=max(q.shared, relative * _size(q))))


def _size(q: Quantity) -> float:
    return largest(q.exact) if q.size is None else q.size
