"""What a section of the study is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from evenkeel.study._training import train

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.report import Findings
    from evenkeel.study._data import Dataset
    from evenkeel.study._plan import RunConfig, Scale
    from evenkeel.study._records import RunRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Section:
    """A claim about batch normalization, and the experiment that tests it.

    Args:
        name: what ``--only`` takes; lower case with hyphens.
        title: heading in the report.
        claim: the sentence that is tested, as people repeat it.
        method: paragraphs on how it is tested and by what rule it is judged.
        plan: the runs to make, as data, in a fixed order.
        reduce: figures, tables and an answer from the records, in the order of the plan.
        run: makes one run; a section with measurements of its own brings its own function,
            which has to be importable (worker processes look it up by name).
    """

    name: str
    title: str
    claim: str
    method: tuple[str, ...]
    plan: Callable[[Scale], Sequence[RunConfig]]
    reduce: Callable[[Sequence[RunRecord]], Findings]
    run: Callable[[RunConfig, Dataset], RunRecord] = train
