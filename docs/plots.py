"""Save figures of a report as small SVG files for these pages, light and dark.

    python docs/plots.py study/report.html learning-rate-accuracy gradients-norms

Every figure becomes ``docs/images/study/ID-light.svg`` and ``ID-dark.svg``, laid out as on the
report's own page at the given width. Needs playwright and an installed Chromium.
"""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree as ET

from playwright.sync_api import sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Page

OUT = Path(__file__).parent / "images" / "study"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
#: Draws one figure as SVG: boxes and plots where they stand on the page, text line by line.
COMPOSE = (Path(__file__).parent / "plots.js").read_text(encoding="utf-8")
SVG = "http://www.w3.org/2000/svg"


def save_figures(report: Path, ids: list[str], out: Path = OUT, width: int = 760) -> list[Path]:
    """Write two files for each figure and return their paths."""
    out.mkdir(parents=True, exist_ok=True)
    return [
        save(out / f"{name}-{scheme}.svg", drawing)
        for scheme in ("light", "dark")
        for name, drawing in draw(report, ids, scheme, width)
    ]


def draw(report: Path, ids: list[str], scheme: str, width: int) -> Iterator[tuple[str, str]]:
    """Yield the name and the drawing of each figure in one colour scheme."""
    browser_path = next(filter(None, map(shutil.which, BROWSERS)), None)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=browser_path)
        options = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
        page = browser.new_page(**options)
        page.goto(report.resolve().as_uri())
        known = page.locator("figure.plots").evaluate_all("all => all.map(figure => figure.id)")
        unknown = [name for name in ids if name not in known]
        if unknown:
            sys.exit(f"{report} has no figure {unknown[0]!r}; it has: {', '.join(known)}")
        for name in ids or known:
            yield name, compose(page, name)
        browser.close()


def compose(page: Page, name: str) -> str:
    for plot in page.locator(f"#{name} .plot").all():
        plot.scroll_into_view_if_needed()
        plot.locator("svg.main-svg").first.wait_for()
    return page.evaluate(COMPOSE, name)


def save(path: Path, drawing: str) -> Path:
    path.write_text(compact(drawing) + "\n", encoding="utf-8")
    return path


def compact(drawing: str) -> str:
    """Drop what a still picture does not need, so that the same numbers give the same file."""
    # plotly names its clipping paths after a random number
    marks = dict.fromkeys(re.findall(r'id="(?:top)?defs-(\w{6})"', drawing))
    for number, mark in enumerate(marks):
        drawing = re.sub(rf"(clip|defs-){mark}", rf"\g<1>{number}", drawing)
    ET.register_namespace("", SVG)
    root = ET.fromstring(drawing)  # noqa: S314 - the page is ours
    while prune(root):
        pass
    for element in root.iter():
        for name, value in element.items():
            element.set(name, re.sub(r"(\d\.\d\d)\d+", r"\1", value))
    return ET.tostring(root, encoding="unicode")


def prune(element: ET.Element) -> bool:
    """Remove empty groups and attributes without effect; say whether anything went."""
    empty = [child for child in element if child.tag == f"{{{SVG}}}g" and not len(child)]
    for child in empty:
        element.remove(child)
    for noise in ("class", "data-unformatted", "data-math", "data-notex"):
        element.attrib.pop(noise, None)
    return bool([*filter(None, map(prune, element))] or empty)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("report", type=Path, help="a report.html of evenkeel study")
    parser.add_argument("figures", nargs="*", help="ids of figures; all of them if none is given")
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--width", type=int, default=760, help="width of the page, in pixels")
    arguments = parser.parse_args()
    for path in save_figures(arguments.report, arguments.figures, arguments.out, arguments.width):
        print(f"{path} {path.stat().st_size / 1024:.0f} KiB")  # noqa: T201 - a script's answer


if __name__ == "__main__":
    main()
