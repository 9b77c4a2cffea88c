from __future__ import annotations

import html as html_module
import json
import math
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
    Measure,
    Note,
    Panel,
    Paper,
    Picture,
    Report,
    Series,
    Table,
    Verdict,
    render_html,
    write_cell,
)
from evenkeel.report._axes import axis_layout, span_of
from evenkeel.report._legend import panel_legend, shared_legend
from evenkeel.report._plots import plot_json
from evenkeel.report._tables import measure_table, panel_table
from evenkeel.report._text import MISSING

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
MEASURES = (
    Measure(
        name="gap",
        label="gap",
        values=(0.1, 0.3),
        mean=0.2,
        std=0.1414,
        low=-1.0,
        high=1.4,
        format="percent",
    ),
    Measure(name="one", label="one seed", values=(2.0,), mean=2.0, std=None, low=None, high=None),
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
            rule="Above 3 it holds.",
            verdict=Verdict(kind="depends", words="depends on the weather", reason=HOSTILE),
            papers=(Paper(cite="Doe 2015", title=HOSTILE, where="ICML", says="It rains."),),
            findings=Findings(
                headline="It did.",
                answer=f"{HOSTILE} first.\n\nThe second.",
                highlights=(Highlight(label="l", value="1", other="2"),),
                summary=TABLE,
                figures=(FIGURE,),
                tables=(replace(TABLE, title="Another"),),
                measures=MEASURES,
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
    assert HOSTILE in page.select_one(".reason").get_text()
    assert page.select_one(".papers cite").get_text() == HOSTILE
    assert page.select_one(".legend button").get_text() == f"one {HOSTILE}"


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
    band, line, other = plots[0]["data"]
    assert band["x"] == [0.01, 0.1, 0.1, 0.01]
    assert band["y"] == [0.6, 1.0, 0.8, 0.4]
    assert line["y"] == [0.5, 0.9, None]
    assert other["line"]["dash"] == "dash"
    assert [trace["meta"]["entry"] for trace in plots[0]["data"]] == [0, 0, 1]
    assert plots[0]["layout"]["yaxis"]["range"] == plots[1]["layout"]["yaxis"]["range"]
    assert plots[0]["layout"]["paper_bgcolor"] == "rgba(0,0,0,0)"


def test_names_are_text_to_plotly_too() -> None:
    # plotly reads some HTML in names of traces
    line = plot_json(FIGURE, FIGURE.panels[0])["data"][1]
    assert "<" not in line["name"]
    assert html_module.unescape(line["name"]) == "one </script><script>aler\N{HORIZONTAL ELLIPSIS}"


def test_many_lines_are_read_one_by_one() -> None:
    def mode(panel: Panel) -> str:
        return plot_json(replace(FIGURE, panels=(panel,)), panel)["layout"]["hovermode"]

    assert mode(Panel(title="", series=lines(*"abcd"))) == "x unified"
    assert mode(Panel(title="", series=lines(*"abcde"))) == "closest"


def test_a_band_stops_at_a_gap_and_a_lone_point_gets_an_error_bar() -> None:
    series = Series(
        name="gaps",
        x=(1, 2, 3, 4, 5, 6),
        y=(1.0, 2.0, None, 4.0, None, 6.0),
        low=(0.5, 1.5, None, 3.0, None, 5.5),
        high=(1.5, 2.5, None, 4.5, None, 7.0),
    )
    panel = Panel(title="", series=(series,))
    band, line = plot_json(replace(FIGURE, y=Axis(title="y"), panels=(panel,)), panel)["data"]
    assert band["x"] == [1, 2, 2, 1]
    assert band["y"] == [1.5, 2.5, 1.5, 0.5]
    assert line["error_y"]["array"] == [0, 0, 0, 0.5, 0, 1.0]
    assert line["error_y"]["arrayminus"] == [0, 0, 0, 1.0, 0, 0.5]


def test_logarithmic_range_covers_the_data() -> None:
    axis = plot_json(FIGURE, FIGURE.panels[0])["layout"]["xaxis"]
    low, high = axis["range"]
    assert -3 < low < -2
    assert 1 < high < 2
    assert axis["ticktext"] == ["0.01", "0.1", "1", "10"]
    assert axis["tickvals"] == [0.01, 0.1, 1.0, 10.0]


@pytest.mark.parametrize(
    ("span", "labels"),
    [
        ((1e-12, 1e3), ["1e-12", "1e-9", "1e-6", "0.001", "1", "1000"]),
        ((0.2, 1.1), ["0.2", "0.5", "1"]),
        ((2, 256), ["2", "5", "10", "20", "50", "100", "200"]),
        ((0.8, 110), ["1", "2", "5", "10", "20", "50", "100"]),
        ((0.9, 0.955), ["0.9", "0.91", "0.92", "0.93", "0.94", "0.95"]),
        ((3e4, 4e6), ["5e4", "1e5", "2e5", "5e5", "1e6", "2e6"]),
    ],
)
def test_labels_of_logarithmic_axes(span: tuple[float, float], labels: list[str]) -> None:
    drawn = axis_layout(Axis(title="", scale="log"), span)
    assert drawn["ticktext"] == labels
    assert all(span[0] <= tick <= span[1] for tick in drawn["tickvals"])


def test_percent_of_a_narrow_range_has_decimals() -> None:
    axis = Axis(title="", format="percent")
    assert axis_layout(axis, (0.97, 0.99))["tickformat"] == ".1%"
    assert axis_layout(axis, (0.5, 1.0))["tickformat"] == ".0%"


def test_a_flat_line_and_no_line_have_a_range() -> None:
    assert span_of([3.0, 3.0], Axis(title="")) == (2.5, 3.5)
    assert span_of([-1.0, 0.0], Axis(title="", scale="log")) is None
    assert "range" not in axis_layout(Axis(title="", scale="log"), None)


def test_a_band_widens_the_range_to_three_times_at_most() -> None:
    linear, log = Axis(title=""), Axis(title="", scale="log")
    assert span_of([1.0, 2.0], linear, [0.9, 2.1]) == pytest.approx((0.852, 2.148))
    low, high = span_of([1.0, 2.0], linear, [-50.0, 50.0])
    assert (low, high) == pytest.approx((-0.12, 3.12))
    low, high = span_of([0.1, 10.0], log, [-1.0, 1e-300, 20.0])
    assert -3.5 < math.log10(low) < -3
    assert 1.3 < math.log10(high) < 1.5


def lines(*names: str) -> tuple[Series, ...]:
    return tuple(Series(name=name, x=(1,), y=(1.0,)) for name in names)


def test_panels_share_a_legend_while_it_stays_short() -> None:
    few = tuple(Panel(title=t, series=lines("with", "without")) for t in "ab")
    figure = replace(FIGURE, panels=few)
    assert [series.name for series in shared_legend(figure)] == ["with", "without"]
    assert panel_legend(figure, few[0]) == ()
    many = tuple(Panel(title=t, series=lines(*(f"{t}{n}" for n in range(5)))) for t in "ab")
    figure = replace(FIGURE, panels=many)
    assert shared_legend(figure) == ()
    assert [series.name for series in panel_legend(figure, many[1])] == [
        "b0",
        "b1",
        "b2",
        "b3",
        "b4",
    ]


def test_faint_companions_stay_out_of_the_legend() -> None:
    companion = replace(FIGURE.panels[0].series[0], faint=True)
    panel = Panel(title="", series=(companion, *lines("mean")))
    assert [s.name for s in shared_legend(replace(FIGURE, panels=(panel,)))] == ["mean"]


def test_positions_with_names_are_written_by_them() -> None:
    x = Axis(title="site", labels=tuple(f"<{at}>" for at in range(30)))
    line = Series(name="one", x=(0.0, 29.0), y=(1.0, 2.0))
    figure = replace(FIGURE, x=x, panels=(Panel(title="", series=(line,)),))
    drawn = plot_json(figure, figure.panels[0])
    ticks = drawn["layout"]["xaxis"]
    assert len(ticks["tickvals"]) == len(ticks["ticktext"]) <= 24  # what fits
    assert ticks["ticktext"][1] == f"&lt;{ticks['tickvals'][1]}&gt;"
    assert ticks["range"] == [-0.5, 29.5]
    assert drawn["data"][-1]["text"] == ["&lt;0&gt;", "&lt;29&gt;"]
    assert [row[0] for row in panel_table(figure, figure.panels[0]).rows] == ["<0>", "<29>"]


def test_a_report_without_claims_shows_its_figures_first() -> None:
    page = BeautifulSoup(
        render_html(replace(REPORT, chapters=(), figures=(FIGURE,))), "html.parser"
    )
    overview = page.find(id="overview")
    assert overview.find("figure", id="f") is not None
    assert overview.select_one(".overview") is None
    for link in page.select("nav a"):
        assert page.find(id=link["href"].removeprefix("#")) is not None


def test_a_section_starts_with_verdict_and_answer(page: BeautifulSoup) -> None:
    section = page.find(id="one")
    assert section.h2.get_text() == "One"
    assert section.select_one(".badge.depends").get_text() == "depends on the weather"
    assert section.select_one(".answer.first").get_text() == f"{HOSTILE} first."
    assert "Above 3 it holds." in section.select_one(".method").get_text()
    paper = " ".join(section.select_one(".papers li").get_text().split())
    assert paper.startswith("It rains. Doe 2015, ")


def test_overview_names_each_verdict_and_leads_to_it(page: BeautifulSoup) -> None:
    (entry,) = page.select(".overview li")
    assert entry.select_one(".badge").get_text() == "depends on the weather"
    assert "It did." in entry.get_text()
    assert entry.a["href"] == "#one"
    for link in page.select("nav a, .overview a"):
        assert page.find(id=link["href"].removeprefix("#")) is not None
    assert page.select_one(".tally") is None


def test_verdicts_are_counted_in_words() -> None:
    def chapters(*kinds: str) -> tuple[Chapter, ...]:
        (chapter,) = REPORT.chapters
        verdicts = [Verdict(kind=kind, words="", reason="") for kind in kinds]
        return tuple(replace(chapter, verdict=verdict) for verdict in verdicts)

    one_each = render_html(replace(REPORT, chapters=chapters("depends", "holds", "fails")))
    assert "3 claims: 1 holds here, 1 does not hold here, 1 depends." in one_each
    several = render_html(replace(REPORT, chapters=chapters("holds", "holds", "fails", "fails")))
    assert "4 claims: 2 hold here, 2 do not hold here." in several


def test_numbers_behind_the_verdict(page: BeautifulSoup) -> None:
    assert measure_table(REPORT.chapters[0].findings).rows == (
        ("gap", "20.0%", "-100.0% to 140.0%", 2, "10.0%, 30.0%"),
        ("one seed", "2", MISSING, 1, "2"),
    )
    assert "-100.0% to 140.0%" in page.select_one("details.measures td:nth-of-type(3)").get_text()


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
