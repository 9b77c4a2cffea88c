"""The sections of the study, in the order of the report.

To add one: write a file here that ends in ``SECTION = Section(...)`` (copy the shape of
``learning_rate.py``: rates and rules on top, ``_plan``, ``_reduce``), import it below and put it
into the list. ``--only``, ``results.json``, the report and the terminal follow by themselves.
"""

from __future__ import annotations

from typing import Final

from evenkeel.errors import InputError, explain
from evenkeel.study.sections import learning_rate
from evenkeel.study.sections._section import Section

__all__ = ["SECTIONS", "Section", "select"]

SECTIONS: Final[tuple[Section, ...]] = (learning_rate.SECTION,)


def select(names: tuple[str, ...]) -> tuple[Section, ...]:
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
