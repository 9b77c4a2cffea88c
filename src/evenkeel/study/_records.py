"""What a training run leaves behind."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from evenkeel.study._plan import RunConfig  # noqa: TC001 - read from JSON by its types

#: ``trained``, ``diverged`` or ``slow``; the rule is in :func:`judge`.
Outcome: TypeAlias = Literal["trained", "diverged", "slow"]
#: One value per recorded step; None where it was not finite.
Values: TypeAlias = tuple[float | None, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRecord:
    """The measurements of one run; ``steps`` belongs to every list as long as it.

    ``train_loss`` is the mean over the batches since the previous recorded step, None at step 0
    and where it is not finite. A prediction that is not finite counts as wrong.
    """

    config: RunConfig
    steps: tuple[int, ...]
    test_accuracy: tuple[float, ...]
    train_loss: Values
    steps_to_target: int | None
    best_accuracy: float
    final_accuracy: float
    final_train_accuracy: float
    first_loss: float | None
    peak_loss: float | None
    finite: bool
    outcome: Outcome


#: Names of the outcomes, and the rule that tells them apart, for the report.
OUTCOME_RULE: Final = (
    "A run counts as trained if its final training accuracy beats always guessing the commonest "
    "class by 10 percentage points (or half the way to 100%, if that is less). Otherwise it "
    "diverged if the loss became infinite or NaN, or if the loss averaged between two records "
    "ever rose above twice the loss of the first batch; and it was merely too slow if not."
)


def judge(
    *, accuracy: float, majority: float, finite: bool, first_loss: float, peak_loss: float
) -> Outcome:
    """Decide the outcome of a run by the rule in :data:`OUTCOME_RULE`.

    Args:
        accuracy: on the training set, at the end.
        majority: share of the commonest class.
        finite: every loss was finite.
        first_loss: of the first batch.
        peak_loss: the largest recorded mean loss.
    """
    if finite and accuracy >= majority + min(0.1, (1 - majority) / 2):
        return "trained"
    return "diverged" if not finite or peak_loss > 2 * first_loss else "slow"
