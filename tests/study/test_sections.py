from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from evenkeel.errors import InputError
from evenkeel.study import Scale, sections
from evenkeel.study._codec import decode, encode, key
from evenkeel.study.sections import SECTIONS, select

ROOT = Path(__file__).parents[2]
FULL = Scale((0, 1, 2, 3, 4), quick=False)
EACH = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)


@EACH
def test_section_is_complete(section) -> None:
    plan = section.plan(FULL)
    assert {config.section for config in plan} == {section.name}
    assert len({key(config) for config in plan}) == len(plan)
    assert {config.seed for config in plan} == set(FULL.seeds)
    assert len(section.plan(Scale((0, 1, 2), quick=True))) < len(plan)
    assert section.claim
    assert section.method
    assert section.papers


@EACH
def test_settings_of_a_run_survive_the_file(section) -> None:
    for config in section.plan(Scale((0,), quick=True)):
        assert decode(encode(config), type(config)) == config


@EACH
def test_rule_stands_in_the_documentation(section) -> None:
    page = " ".join((ROOT / "docs" / "study.md").read_text(encoding="utf-8").split())
    assert " ".join(section.rule.split()) in page


def test_names_are_unique() -> None:
    names = [section.name for section in SECTIONS]
    assert len(set(names)) == len(names)
    assert [section.name for section in select(())] == names


def test_unknown_section() -> None:
    assert [section.name for section in select(("learning-rate",))] == ["learning-rate"]
    with pytest.raises(InputError, match=r"unknown section 'magic'"):
        select(("learning-rate", "magic"))


def test_a_section_file_says_how_to_add_one() -> None:
    assert "To add one" in (inspect.getdoc(sections) or "")
