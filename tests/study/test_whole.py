"""What holds for a real study of all sections: made once, see ``quick_study``."""

from __future__ import annotations

import importlib.util
import io
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bs4 import BeautifulSoup

from evenkeel.report import Measure
from evenkeel.study import Scale
from evenkeel.study._statistics import measure
from evenkeel.study.sections import SECTIONS

ROOT = Path(__file__).parents[2]
EACH = pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)


@pytest.fixture(scope="module")
def results(quick_study: Path) -> dict[str, Any]:
    return json.loads((quick_study / "results.json").read_bytes())


def judged(section, measures: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the verdict on the values alone: means and intervals are computed once more."""
    known = [msgspec.convert(entry, Measure) for entry in measures]
    anew = [measure(m.name, m.label, m.values, m.format) for m in known]
    assert anew == known
    return msgspec.to_builtins(section.judge({m.name: m for m in anew}))


@EACH
def test_verdict_follows_from_the_numbers_in_the_file(section, results) -> None:
    entry = results["sections"][section.name]
    assert judged(section, entry["findings"]["measures"]) == entry["verdict"]
    assert entry["rule"] == section.rule


@EACH
def test_findings_follow_from_the_runs_in_the_file(section, results) -> None:
    entry = results["sections"][section.name]
    records = [msgspec.convert(run, section.record) for run in entry["runs"]]
    assert [r.config for r in records] == list(section.plan(Scale((0,), quick=True)))
    again = json.loads(json.dumps(msgspec.to_builtins(section.reduce(records))))
    assert again == entry["findings"]


def test_every_number_that_is_drawn_is_in_the_file(quick_study: Path, results) -> None:
    page = BeautifulSoup((quick_study / "report.html").read_text(encoding="utf-8"), "html.parser")
    plotted = {
        number
        for tag in page.select("script.plot-data")
        for trace in json.loads(tag.get_text())["data"]
        for axis in ("x", "y")
        for number in trace[axis]
        if number is not None
    }
    known = {
        number
        for section in results["sections"].values()
        for figure in section["findings"]["figures"]
        for panel in figure["panels"]
        for series in panel["series"]
        for axis in ("x", "y", "low", "high")
        for number in series[axis]
    }
    assert len(plotted) > 1000
    assert plotted <= known


def test_report_shows_every_section(quick_study: Path, results) -> None:
    page = BeautifulSoup((quick_study / "report.html").read_text(encoding="utf-8"), "html.parser")
    for name, section in results["sections"].items():
        text = " ".join(page.find(id=name).get_text(" ").split())
        for part in (section["claim"], section["rule"], section["verdict"]["reason"]):
            assert " ".join(part.split()) in text
        for paper in section["papers"]:
            assert paper["cite"] in text
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_summary_of_all_sections_fits_80_columns(quick_study: Path) -> None:
    from rich.console import Console

    from evenkeel.cli._study import print_summary
    from evenkeel.study import StudySettings, run_study

    # Every run is there already: nothing is trained.
    done = run_study(StudySettings(quick=True, seeds=1, out=quick_study, resume=True))
    text = io.StringIO()
    print_summary(done, Console(file=text, width=80, color_system=None))
    lines = [line for line in text.getvalue().splitlines() if str(quick_study) not in line]
    assert max(map(len, lines)) <= 80
    assert "\N{HORIZONTAL ELLIPSIS}" not in text.getvalue()


def study_page():
    spec = importlib.util.spec_from_file_location("page", ROOT / "benchmarks" / "study_page.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_page_of_the_study_is_that_of_the_committed_figures() -> None:
    script = study_page()
    committed = json.loads(script.FIGURES.read_bytes())
    assert script.PAGE.read_text(encoding="utf-8") == script.page(committed)


@EACH
def test_committed_verdict_follows_from_the_committed_numbers(section) -> None:
    committed = json.loads(study_page().FIGURES.read_bytes())
    assert committed["seeds"] >= 5
    entry = committed["sections"][section.name]
    assert judged(section, entry["measures"]) == entry["verdict"]


def test_page_states_each_rule_before_its_verdict() -> None:
    text = study_page().PAGE.read_text(encoding="utf-8")
    for section in SECTIONS:
        part = text.partition(f"{{ #{section.name} }}")[2].partition("\n## ")[0]
        assert 0 <= part.index("**The rule.**") < part.index("**The verdict: ")
