"""The sections of the study, in the order of the report.

To add one: make a package here whose ``__init__`` ends in ``SECTION = Section(...)`` (copy the
shape of ``learning_rate``: ``_plan``, ``_verdict``, ``_words``, ``_figures``), import it below and
put it into the list, and its rule into ``docs/study.md``. ``--only``, ``results.json``, the report
and the terminal follow by themselves.
"""

from __future__ import annotations

from typing import Any, Final

from evenkeel.errors import InputError, explain
from evenkeel.study.sections import (
    covariate_shift,
    frameworks,
    gradients,
    learning_rate,
    regularization,
    scale_and_shift,
    small_batches,
    train_vs_inference,
)
from evenkeel.study.sections._section import Section

__all__ = ["SECTIONS", "Section", "select"]

SECTIONS: Final[tuple[Section[Any, Any], ...]] = (
    learning_rate.SECTION,
    gradients.SECTION,
    covariate_shift.SECTION,
    regularization.SECTION,
    scale_and_shift.SECTION,
    small_batches.SECTION,
    train_vs_inference.SECTION,
    frameworks.SECTION,
)


def select(names: tuple[str, ...]) -> tuple[Section[Any, Any], ...]:
    """Return the named sections in report order, or all if no name is given.

    Raises:
        InputError: a name is unknown.
    """
    known = [section.name for section in SECTIONS]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise InputError(
            explain(
                asked=f"--only {','.join(names)}",
                got=f"unknown section {unknown[0]!r}",
                why=f"the sections are: {', '.join(known)}",
                do="leave --only out to run all of them",
            )
        )
    return tuple(section for section in SECTIONS if not names or section.name in names)
