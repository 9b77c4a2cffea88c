"""The momentum of the running statistics, kept as it was read."""

from __future__ import annotations

from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from evenkeel.errors import InputError, explain
from evenkeel.spec._number import is_number

Side = Literal["new", "old"]


@dataclass(frozen=True, slots=True)
class Momentum:
    """How far one batch moves the running statistics, eq. (6) to (8).

    The number is kept as it was read together with the value that it weighs, because
    1 - (1 - 0.1) is not 0.1 in binary arithmetic, and a configuration would drift at every
    conversion.

    Args:
        value: any finite number; frameworks accept values above 1, too. None for the
            cumulative average (torch's ``momentum=None``), where batch t has weight 1/t.
        weighs: ``"new"``, the batch's value (torch, tinygrad, MLX), or ``"old"``, the stored
            one (Keras, Flax, Haiku, ONNX, MXNet, Paddle). Always ``"new"`` when cumulative.

    Raises:
        InputError: the value is not finite, or the side is unknown.

    Example:
        >>> Momentum(0.99, "old").as_weighing("new")
        Momentum(value=0.01, weighs='new')
        >>> Momentum.cumulative().new_weight(4)
        0.25
    """

    value: float | None
    weighs: Side

    def __post_init__(self) -> None:
        sides = ("new",) if self.value is None else ("new", "old")
        if not (self.value is None or is_number(self.value)) or self.weighs not in sides:
            raise InputError(
                explain(
                    asked="a momentum for running statistics",
                    got=f"value {self.value!r}, weighs {self.weighs!r}",
                    why="it is a finite number that weighs 'new' or 'old', or None with 'new'",
                    do="e.g. Momentum(0.1, 'new') for torch, Momentum(0.99, 'old') for Keras",
                )
            )

    @classmethod
    def cumulative(cls) -> Momentum:
        """The momentum under which every batch counts alike, eq. (8)."""
        return cls(None, "new")

    @property
    def is_cumulative(self) -> bool:
        """Whether batch t has weight 1/t instead of a constant one."""
        return self.value is None

    def new_weight(self, batch: int) -> float:
        """Weight of the new value when the ``batch``-th batch enters (the first is 1)."""
        if self.value is None:
            return 1.0 / batch
        return self.value if self.weighs == "new" else 1.0 - self.value

    def old_weight(self, batch: int) -> float:
        """Weight of the stored value when the ``batch``-th batch enters (the first is 1)."""
        if self.value is not None and self.weighs == "old":
            return self.value
        return 1.0 - self.new_weight(batch)

    def as_weighing(self, side: Side) -> Momentum:
        """The same momentum, written for a framework whose number weighs ``side``.

        The subtraction 1 - value is done on the decimal number that the value was written as,
        so 0.99 and 0.01 turn into each other. There and back gives every number of at most 15
        decimal places again, and every number from 0.5 to 1. A cumulative momentum has no
        sides and is returned as is.
        """
        if self.value is None or self.weighs == side:
            return self
        return Momentum(float(1 - Decimal(repr(float(self.value)))), side)
