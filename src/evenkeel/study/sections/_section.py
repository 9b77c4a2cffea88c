"""What a section of the study is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeAlias, TypeVar

from evenkeel.study._plan import RunConfig

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from evenkeel.report import Findings, Measure, Paper, Verdict
    from evenkeel.study._plan import Scale
    from evenkeel.study._samples import Samples

ConfigT = TypeVar("ConfigT", bound=RunConfig)
RecordT = TypeVar("RecordT")
#: The measures of a section by name.
Measures: TypeAlias = "Mapping[str, Measure]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Section(Generic[ConfigT, RecordT]):
    """A claim about batch normalization, and the experiment that tests it.

    Args:
        name: what ``--only`` takes; lower case with hyphens.
        title: heading in the report.
        claim: the sentence that is tested, as people repeat it.
        method: paragraphs on how it is tested.
        rule: when the claim counts as holding here, as not holding, or as depending on something;
            written before the runs, and repeated word for word in ``docs/study.md``.
        papers: who said or found what about the claim.
        plan: the runs to make, as data, in a fixed order.
        run: makes one run; has to be importable (worker processes look it up by name).
        record: the dataclass that ``run`` returns.
        reduce: figures, tables, an answer and the measures, from the records in the order of
            the plan.
        judge: the verdict by the rule, from nothing but the measures.
    """

    name: str
    title: str
    claim: str
    method: tuple[str, ...]
    rule: str
    papers: tuple[Paper, ...]
    plan: Callable[[Scale], Sequence[ConfigT]]
    run: Callable[[ConfigT, Samples], RecordT]
    record: type[RecordT]
    reduce: Callable[[Sequence[RecordT]], Findings]
    judge: Callable[[Measures], Verdict]
