from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest
from bs4 import BeautifulSoup

from evenkeel.report import (
    Axis,
    Chapter,
    Column,
    Figure,
    Findings,
    Highlight,
    Note,
    Panel,
    Picture,
    Report,
    Series,
    Table,
    render_html,
    write_cell,
)
from evenkeel.report._plots import plot_json
from evenkeel.report._tables import panel_table

HOSTILE = "</script><script>alert('x')</script> & <b>\"bold\"</b>"
TABLE = Table(
    name="t",
    title="A table",
    columns=(Column(title="Who"), Column(title="Share", format="percent")),
    rows=((HOSTILE, 0.5), ("nobody", None)),
)
FIGURE = Figure(
    name="f",
    title=f"A figure {HOSTILE}",
    caption="What it shows.",
    alt="Accuracy rises to 90%.",
    x=Axis(title="rate", scale="log", format="rate"),
    y=Axis(title="accuracy", format="percent"),
    panels=(
        Panel(
            title="SGD",
            series=(
                Series(
                    name=f"one {HOSTILE}",
                    x=(0.01, 0.1, 1.0),
                    y=(0.5, 0.9, None),
                    low=(0.4, 0.8, None),
                    high=(0.6, 1.0, None),
                ),
                Series(name="two", x=(0.1, 10.0), y=(0.3, 0.2), color=1, dash="dash"),
            ),
        ),
        Panel(title="Adam", series=(Series(name="none", x=(), y=()),)),
    ),
)
REPORT = Report(
    title=f"Title {HOSTILE}",
    subtitle="sub",
    pictures=(Picture(png=b"\x89PNG", width=1, height=1, label="0", alt="a digit"),),
    pictures_caption="Digits.",
    chapters=(
        Chapter(
            name="one",
            title="One",
            claim="It works.",
            method=("Tried it.",),
            findings=Findings(
                headline="It did.",
                answer=HOSTILE,
                highlights=(Highlight(label="l", value="1", other="2"),),
                summary=TABLE,
                figures=(FIGURE,),
                tables=(replace(TABLE, title="Another"),),
            ),
        ),
    ),
    tables=(replace(TABLE, name="settings"),),
    notes=(Note(name="n", title="Notes", paragraphs=(HOSTILE,)),),
    footer="end",
)


@pytest.fixture(scope="module")
def html() -> str:
    return render_html(REPORT)


@pytest.fixture(scope="module")
def page(html: str) -> BeautifulSoup:
    return BeautifulSoup(html, "html.parser")


def test_text_is_escaped_everywhere(html: str, page: BeautifulSoup) -> None:
    assert "<script>alert(" not in html
    assert "<b>" not in html.partition("plotly.js v")[0]
    assert HOSTILE in page.h1.get_text()
    assert page.find("b") is None
    assert HOSTILE in page.find("td").get_text()


def test_nothing_is_loaded_from_anywhere(page: BeautifulSoup) -> None:
    for tag in page.find_all(True):
        for attribute in ("src", "href", "srcset", "poster", "data", "action"):
            assert str(tag.get(attribute, "data:")).startswith(("data:", "#")), tag.name
    style = page.style.get_text()
    assert "url(" not in style
    assert "@import" not in style
    policy = page.find("meta", attrs={"http-equiv": "Content-Security-Policy"})["content"]
    assert policy.startswith("default-src 'none'")
    assert "http" not in policy


def test_plot_library_is_inlined_once(html: str) -> None:
    assert len(re.findall(r"plotly\.js v\d", html)) == 1


def test_every_plot_and_picture_has_a_text_alternative(page: BeautifulSoup) -> None:
    plots = page.select(".plot")
    assert len(plots) == 2
    for plot in plots:
        assert plot["role"] == "img"
        assert "Accuracy rises to 90%." in plot["aria-label"]
        figure = plot.find_parent("figure")
        assert figure.figcaption.get_text() == "What it shows."
        assert figure.select("details table")
    assert all(image["alt"] for image in page.find_all("img"))


def test_tables_show_the_numbers_of_the_figure(page: BeautifulSoup) -> None:
    rows = [
        [cell.get_text() for cell in row.find_all("td")]
        for row in page.select_one("figure details table").find_all("tr")[1:]
    ]
    assert rows == [
        ["0.01", "50.0% (40.0% to 60.0%)", "\N{EN DASH}"],
        ["0.1", "90.0% (80.0% to 100.0%)", "30.0%"],
        ["1", "\N{EN DASH}", "\N{EN DASH}"],
        ["10", "\N{EN DASH}", "20.0%"],
    ]


def test_embedded_plots_are_the_data(page: BeautifulSoup) -> None:
    plots = [json.loads(tag.get_text()) for tag in page.select("script.plot-data")]
    low, high, line, other = plots[0]["data"]
    assert low["y"] == [0.4, 0.8]
    assert high["y"] == [0.6, 1.0]
    assert line["y"] == [0.5, 0.9, None]
    assert line["name"] == f"one {HOSTILE}"
    assert other["line"]["dash"] == "dash"
    assert plots[0]["layout"]["yaxis"]["range"] == plots[1]["layout"]["yaxis"]["range"]
    assert plots[0]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_logarithmic_range_covers_the_data() -> None:
    axis = plot_json(FIGURE, FIGURE.panels[0])["layout"]["xaxis"]
    low, high = axis["range"]
    assert -3 < low < -2
    assert 1 < high < 2
    assert axis["ticktext"] == ["0.01", "0.1", "1", "10"]
    assert axis["tickvals"] == [0.01, 0.1, 1.0, 10.0]


def test_panel_table_keeps_all_positions() -> None:
    table = panel_table(FIGURE, FIGURE.panels[0])
    assert [row[0] for row in table.rows] == [0.01, 0.1, 1.0, 10.0]
    assert {len(row) for row in table.rows} == {3}


@pytest.mark.parametrize(
    ("value", "form", "text"),
    [
        (None, "percent", "\N{EN DASH}"),
        (0.9937, "percent", "99.4%"),
        (1e-05, "rate", "1e-05"),
        (0.1, "rate", "0.1"),
        (1234567, "count", "1\N{NARROW NO-BREAK SPACE}234\N{NARROW NO-BREAK SPACE}567"),
        (11.6, "count", "12"),
        (3.14159, "number", "3.142"),
        ("as it is", "percent", "as it is"),
        (7, "text", "7"),
    ],
)
def test_written_cells(value: object, form: str, text: str) -> None:
    assert write_cell(value, form) == text
