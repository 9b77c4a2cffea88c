"""How many parameters the same batch-norm layers have, as each framework counts them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable

    from evenkeel.spec import Spec

#: A layer of C channels has 2C numbers that are trained and 2C that are averaged everywhere;
#: the reports differ in what they call a parameter.
_WHY: Final = {
    "torch": "statistics and a counter are buffers",
    "keras": "statistics are untrained parameters",
    "flax": "statistics are in batch_stats",
    "onnx": "scale and offset are never absent",
}


@dataclass(frozen=True, slots=True)
class Count:
    """What one framework reports for the layers.

    Args:
        framework: ``"torch"``, ``"keras"``, ``"flax"`` or ``"onnx"``.
        parameters: what its report of parameters adds up to.
        trained: those among them that an optimizer gets.
        beside: further numbers that belong to the layers (buffers, ``batch_stats``).
        why: what makes the difference.
    """

    framework: str
    parameters: int
    trained: int
    beside: int
    why: str


def count(specs: Iterable[Spec]) -> tuple[Count, ...]:
    """The counts of these layers in every framework; none without layers."""
    known = [*specs]
    return tuple(_total(framework, known) for framework in _WHY) if known else ()


def _total(framework: str, specs: list[Spec]) -> Count:
    parts = [_of_layer(framework, spec) for spec in specs]
    parameters, trained, beside = (sum(part[i] for part in parts) for i in range(3))
    return Count(framework, parameters, trained, beside, _WHY[framework])


def _of_layer(framework: str, spec: Spec) -> tuple[int, int, int]:
    """Parameters, trained ones, and what stands beside them."""
    affine = spec.channels * (spec.scale + spec.offset)
    averaged = 2 * spec.channels * spec.track_statistics
    trained = 0 if spec.affine_frozen else affine
    if framework == "torch":
        if spec.statistics_frozen and spec.affine_frozen:  # four buffers, no counter
            return 0, 0, affine + averaged
        return affine, trained, averaged + spec.track_statistics
    if framework == "keras":
        more = 3 * spec.channels if spec.renorm else 0  # moving_stddev and two of renorm
        return affine + averaged + more, trained, 0
    if framework == "flax":
        return affine, trained, averaged
    return 4 * spec.channels, 0, 0
