"""The report in a browser: does it load, draw, answer to clicks, fit, print."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
from playwright.sync_api import expect, sync_playwright

from evenkeel.report import render_html

from ._synthetic import synthetic_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, Locator, Page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = pytest.mark.skipif(
    CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on the path"
)

# A busy machine draws slowly, which is no fault of the page.
expect.set_options(timeout=60_000)


def write_synthetic(folder: Path) -> Path:
    path = folder / "report.html"
    path.write_text(render_html(synthetic_report()), encoding="utf-8")
    return path


@dataclass
class Opened:
    """A page, and everything it complained about."""

    page: Page
    complaints: list[str] = field(default_factory=list)

    def listen(self) -> Opened:
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("requestfailed", lambda request: self.complaints.append(request.url[:200]))
        return self

    def draw_all(self) -> None:
        for plot in self.page.locator(".plot").all():
            plot.scroll_into_view_if_needed()
            expect(plot.locator("svg.main-svg").first).to_be_visible()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM)
        yield browser
        browser.close()


@pytest.fixture(
    scope="module",
    params=["synthetic", pytest.param("quick study", marks=pytest.mark.slow)],
)
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every test runs on a report of all shapes, and on that of a real study."""
    if request.param == "synthetic":
        return write_synthetic(tmp_path_factory.mktemp("report"))
    return request.getfixturevalue("quick_study") / "report.html"


@pytest.fixture(scope="module")
def open_report(browser: Browser, path: Path) -> Iterator[Callable[..., Opened]]:
    contexts = []

    def opener(*, width: int = 1280, **options: Any) -> Opened:
        contexts.append(
            browser.new_context(viewport={"width": width, "height": 900}, offline=True, **options)
        )
        opened = Opened(contexts[-1].new_page()).listen()
        opened.page.goto(path.as_uri())
        return opened

    yield opener
    for context in contexts:
        context.close()


@pytest.fixture(scope="module", params=[1280, pytest.param(390, marks=pytest.mark.slow)])
def drawn(request: pytest.FixtureRequest, open_report) -> Opened:
    """Return a page that was read to its end; tests leave it as they found it."""
    opened = open_report(width=request.param, color_scheme="light")
    opened.draw_all()
    return opened


@pytest.fixture
def opened(drawn: Opened) -> Iterator[Opened]:
    yield drawn
    assert drawn.complaints == []


# What is painted in each plot, beside what was to be painted, and the room it has.
PAINTED = """() => [...document.querySelectorAll(".plot")].map((div) => {
  const spec = JSON.parse(div.parentElement.querySelector(".plot-data").textContent);
  const data = spec.data;
  const line = data.findLast((trace) => trace.meta.role === "line" && trace.x.length);
  const path = [...div.querySelectorAll(".scatterlayer .trace .js-line")].pop();
  const svg = div.querySelector("svg.main-svg");
  return {
    traces: div.querySelectorAll(".scatterlayer .trace").length,
    expected: data.filter((trace) => trace.x.length).length,
    bands: [...div.querySelectorAll(".scatterlayer .js-fill")]
      .filter((band) => band.getBoundingClientRect().height > 5).length,
    outlines: data.filter((trace) => trace.meta.role === "band").length,
    // How far the deepest band ends above the lower edge of the plot, and whether it should not.
    above: div.querySelector(".nsewdrag").getBoundingClientRect().bottom - Math.max(
      ...[...div.querySelectorAll(".js-fill")].map((band) => band.getBoundingClientRect().bottom)),
    sinks: spec.layout.yaxis.type === "log" && data.some(
      (trace) => trace.meta.role === "band" && trace.y.some((y) => y !== null && y < 0)),
    broken: [...div.querySelectorAll("path")].filter((p) => /NaN/.test(p.getAttribute("d"))).length,
    color: path ? getComputedStyle(path).stroke : "",
    palette: line.meta.color % 8,
    room: [div.clientWidth, div.clientHeight],
    size: svg ? [svg.width.baseVal.value, svg.height.baseVal.value] : [],
  };
})"""
PALETTE = """() => [...Array(8).keys()].map((at) => {
  const probe = document.body.appendChild(document.createElement("i"));
  probe.style.color = `var(--series-${at})`;
  const color = getComputedStyle(probe).color;
  probe.remove();
  return color;
})"""
SIDEWAYS = """() => document.documentElement.scrollWidth - document.documentElement.clientWidth"""


def check_plots(page: Page) -> list[str]:
    """Assert that every plot is drawn in full; return the palette of the page."""
    palette = page.evaluate(PALETTE)
    assert len(set(palette)) == 8
    plots = page.evaluate(PAINTED)
    assert plots
    for plot in plots:
        assert plot["traces"] == plot["expected"] > 0
        assert plot["bands"] == plot["outlines"]
        assert plot["broken"] == 0
        assert not plot["sinks"] or plot["above"] <= 0
        assert plot["color"] == palette[plot["palette"]]
        assert plot["size"] == plot["room"]
        assert min(plot["size"]) > 150
    return palette


def test_everything_is_drawn_in_light_and_dark(opened: Opened) -> None:
    page = opened.page
    light = check_plots(page)
    assert page.evaluate(SIDEWAYS) <= 0
    page.emulate_media(color_scheme="dark")
    dark = check_plots(page)
    assert page.evaluate(SIDEWAYS) <= 0
    assert not set(light) & set(dark)
    page.emulate_media(color_scheme="light")


def test_a_turned_screen_draws_its_plots_anew(opened: Opened) -> None:
    page = opened.page
    plot = page.locator(".plot").first
    before, size = plot.evaluate("div => div.clientWidth"), page.viewport_size
    assert size is not None
    page.set_viewport_size({"width": 600, "height": size["width"]})
    room = plot.evaluate("div => div.clientWidth")
    assert room not in {before, 0}
    expect(plot.locator("svg.main-svg").first).to_have_attribute("width", str(room))
    assert page.evaluate(SIDEWAYS) <= 0
    page.set_viewport_size(size)
    expect(plot.locator("svg.main-svg").first).to_have_attribute("width", str(before))


def test_every_picture_has_a_text_alternative(opened: Opened) -> None:
    page = opened.page
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    labels = page.locator(".plot[role=img]").evaluate_all("all => all.map(p => p.ariaLabel)")
    assert len(labels) == page.locator(".plot").count() > 0
    assert all(len(label) > 30 for label in labels)
    drawings = page.locator("main svg:not([aria-hidden])").evaluate_all(
        "all => all.filter(svg => !svg.closest('[role=img]')).length"
    )
    assert drawings == 0


def test_a_legend_entry_hides_its_line_and_shows_it_again(opened: Opened) -> None:
    figure = opened.page.locator("figure.plots").first
    traces = figure.locator(".plot").first.locator(".scatterlayer .trace")
    before = traces.count()
    entry = figure.locator(".legend button").first
    entry.click()
    expect(entry).to_have_attribute("aria-pressed", "false")
    assert 0 < traces.count() < before
    entry.press("Enter")
    expect(entry).to_have_attribute("aria-pressed", "true")
    assert traces.count() == before > 0


def test_links_of_the_overview_reach_their_sections(opened: Opened) -> None:
    page = opened.page
    links = page.locator(".overview a").all()
    assert len(links) == page.locator("section .verdict").count() > 0
    for link in links:
        follow(page, link)
        current = page.locator("nav a[aria-current]")
        expect(current).to_have_attribute("href", str(link.get_attribute("href")))
        expect(current).to_be_in_viewport()


def test_links_of_the_navigation_reach_their_sections(opened: Opened) -> None:
    page = opened.page
    page.locator("nav").hover()  # under a mouse the links keep still
    for link in page.locator("nav a").all():
        follow(page, link)


def follow(page: Page, link: Locator) -> None:
    """Click, and assert that the heading comes to stand below the bar of links."""
    link.click()
    target = link.get_attribute("href")
    assert page.evaluate("location.hash") == target
    heading = page.locator(f"{target} h2")
    expect(heading).to_be_in_viewport()
    above, below = page.locator("nav").bounding_box(), heading.bounding_box()
    assert above is not None
    assert below is not None
    assert below["y"] >= above["y"] + above["height"] - 1


def test_print_shows_every_plot_in_light_colours(open_report) -> None:
    opened = open_report(color_scheme="dark")
    page = opened.page
    page.emulate_media(media="print")
    expect(page.locator("html.print")).to_be_attached()
    palette = check_plots(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    edges = "all => all.map(plot => plot.getBoundingClientRect().right)"
    assert max(page.locator(".plot").evaluate_all(edges)) <= 700  # A4 without its margins
    assert page.locator("details.measures:not([open])").count() == 0
    assert not page.locator("details.data").first.is_visible()
    page.emulate_media(media="screen")
    expect(page.locator("html.print")).to_have_count(0)
    assert not set(palette) & set(check_plots(page))
    assert page.locator("details.measures[open]").count() == 0
    assert opened.complaints == []


def test_tables_are_readable_without_javascript(open_report) -> None:
    page = open_report(width=390, java_script_enabled=False).page
    expect(page.locator(".noscript")).to_be_visible()
    expect(page.locator(".panels").first).to_be_hidden()
    data = page.locator("details.data").first
    cell = data.locator("td").first
    expect(cell).to_be_hidden()
    data.locator("summary").click()
    expect(cell).to_be_visible()
    assert cell.inner_text().strip()
    assert page.evaluate(SIDEWAYS) <= 0


def test_the_page_is_shown_in_less_than_a_second(browser: Browser, path: Path) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    # What waits until the page is shown, the plot library above all, is not part of it.
    page.add_init_script(
        "window.requestIdleCallback = IntersectionObserver.prototype.observe = ()=>{}"
    )
    session = page.context.new_cdp_session(page)
    # The clock of the page's own thread: other work on the machine does not count.
    session.send("Performance.enable", {"timeDomain": "threadTicks"})
    before = task_seconds(session)
    page.goto(path.as_uri(), wait_until="load")
    assert 0.0 < task_seconds(session) - before < 1.0
    assert page.evaluate("window.Plotly") is None
    page.close()


def task_seconds(session: Any) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return next(entry["value"] for entry in metrics if entry["name"] == "TaskDuration")
