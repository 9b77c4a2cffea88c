"""Every equation that the source cites exists in docs/math.md, exactly once."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MATH = ROOT / "docs" / "math.md"
SOURCES = sorted(
    path
    for folder in ("src", "csrc")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".h", ".hpp", ".cpp"}
)
# "eq. (3)", "Eq. (3) and (5)", "eq. (1) to (3)", "eq. (1), (2)", also across a line break.
CITATION = re.compile(r"\beqs?\.\s+(\(\d+\)(?:(?:,|\s|#|//|\*|and|or|to)+\(\d+\))*)", re.IGNORECASE)


def cited(text):
    """Numbers of the equations that ``text`` cites; a range means all between its ends."""
    numbers = set()
    for match in CITATION.finditer(text):
        for first, last in re.findall(r"\((\d+)\)(?:\s+to\s+\((\d+)\))?", match[1]):
            numbers |= set(range(int(first), int(last or first) + 1))
    return numbers


def tagged(text):
    """Numbers of the equations that ``text`` defines, in displayed mathematics only."""
    displayed = re.findall(r"\$\$.*?\$\$", text, re.DOTALL)
    return [int(n) for block in displayed for n in re.findall(r"\\tag\{(\d+)\}", block)]


def test_numbers_are_1_to_16_and_each_is_defined_once():
    assert Counter(tagged(MATH.read_text())) == Counter(range(1, 17))


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: str(p.relative_to(ROOT)))
def test_cited_equations_exist(path):
    assert cited(path.read_text()) <= set(tagged(MATH.read_text()))


def test_math_cites_itself_correctly():
    text = MATH.read_text()
    assert cited(text) <= set(tagged(text))


def test_every_equation_is_cited_somewhere():
    everywhere = set().union(*(cited(path.read_text()) for path in SOURCES))
    assert everywhere == set(range(1, 17))


def test_the_check_can_fail():
    text = '"""Output, Eq. (3) and\n    (5), eq. (7) to (9), eqs. (11), (12) or (99); see (55)."""'
    assert cited(text) == {3, 5, 7, 8, 9, 11, 12, 99}
    assert not cited(text) <= set(tagged(MATH.read_text()))
    assert tagged("$$ a \\tag{4} $$ and \\tag{99} outside") == [4]
