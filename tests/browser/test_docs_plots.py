"""The script that saves figures of a report for the documentation."""

from __future__ import annotations

import importlib.util
import re
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from evenkeel.report import render_html

from ._synthetic import synthetic_report
from .test_report_page import pytestmark

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"

__all__ = ["pytestmark"]


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("plots", ROOT / "docs" / "plots.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    whole = synthetic_report()
    path = tmp_path_factory.mktemp("report") / "report.html"
    path.write_text(render_html(replace(whole, chapters=whole.chapters[:1])), encoding="utf-8")
    return path


def test_figures_become_small_pictures_in_both_schemes(
    script, report: Path, tmp_path: Path
) -> None:
    saved = script.save_figures(report, ["learning-rate-accuracy"], tmp_path)
    assert [path.stem for path in saved] == [
        "learning-rate-accuracy-light",
        "learning-rate-accuracy-dark",
    ]
    roots = [ET.fromstring(path.read_text(encoding="utf-8")) for path in saved]
    for root, path in zip(roots, saved, strict=True):
        assert path.stat().st_size < 40_000
        assert not re.search(r'href="(?!#)|<script|var\(', path.read_text(encoding="utf-8"))
        texts = {"".join(element.itertext()) for element in root.iter(f"{SVG}text")}
        assert {"SGD", "Adam", "with batch norm", "best test accuracy", "learning rate"} <= texts
        assert {"0.001", "100", "0%", "100%"} <= texts
        assert len(root.findall(f"{SVG}svg")) == 2
    strokes = [
        set(re.findall(r"stroke: (rgb\([\d, ]+\))", ET.tostring(r, "unicode"))) for r in roots
    ]
    assert strokes[0]
    assert not strokes[0] & strokes[1]


def test_an_unknown_figure_is_named(script, report: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match=r"no figure 'none'; it has: learning-rate-accuracy, "):
        script.save_figures(report, ["none"], tmp_path)
