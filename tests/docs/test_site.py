"""The site builds without a warning, loads nothing from the network, and leaves no link open."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup

ROOT = Path(__file__).parents[2]
MODULES = {
    "evenkeel.bench": "bench",
    "evenkeel": "index",
    "evenkeel.nn": "nn",
    "evenkeel.nn.functional": "functional",
    "evenkeel.reference": "reference",
    "evenkeel.spec": "spec",
    "evenkeel.kernels": "kernels",
    "evenkeel.kernels.conformance": "conformance",
    "evenkeel.tools": "tools",
    "evenkeel.checkpoints": "checkpoints",
    "evenkeel.dialects.torch": "dialects-torch",
    "evenkeel.dialects.keras": "dialects-keras",
    "evenkeel.dialects.flax": "dialects-flax",
    "evenkeel.dialects.onnx": "dialects-onnx",
    "evenkeel.integrations.keras": "integrations-keras",
    "evenkeel.integrations.flax": "integrations-flax",
    "evenkeel.study": "study",
    "evenkeel.report": "report",
    "evenkeel.errors": "errors",
}
#: What a browser fetches by itself when it shows a page.
FETCHED = {
    "audio": "src",
    "iframe": "src",
    "img": "src",
    "link": "href",
    "object": "data",
    "script": "src",
    "source": "src",
    "video": "src",
}

pytestmark = pytest.mark.skipif(
    not (ROOT / "mkdocs.yml").is_file(), reason="the site stands in a checkout"
)


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The folder of the built site; a warning fails the build."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    source = os.pathsep.join([str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    settings = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": source}
    done = subprocess.run(
        command, cwd=ROOT, env=settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "WARNING" not in done.stderr, done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site):
    """Every page as a tree. 404.html is left out: a server shows it at any address."""
    files = [path for path in site.rglob("*.html") if path.name != "404.html"]
    return {path: BeautifulSoup(path.read_text(), "html.parser") for path in files}


def anchors(tree):
    return {tag["id"] for tag in tree.find_all(id=True)}


def external(tree):
    """Addresses that the browser would fetch from the network by itself."""
    found = [tag.get(FETCHED[tag.name], "") for tag in tree.find_all(list(FETCHED))]
    for style in [*tree.find_all("style"), *tree.find_all(style=True)]:
        found += addresses(style.get("style") or style.text)
    return [address for address in found if urlsplit(address).netloc]


def addresses(css):
    named = re.findall(r"url\(\s*['\"]?([^'\")]+)|@import\s+['\"]([^'\"]+)", css)
    return [first or second for first, second in named]


def broken(path, tree, known, site):
    """Links inside the site that lead nowhere; ``known`` holds the anchors of every page."""
    for link in tree.find_all("a", href=True):
        address = urlsplit(link["href"])
        if address.scheme or address.netloc:
            continue
        target = (path.parent / unquote(address.path)).resolve() if address.path else path
        fragment = unquote(address.fragment)
        there = target.is_file() and target.is_relative_to(site)
        if not there or (fragment and fragment not in known.get(target, {fragment})):
            yield link["href"]


def test_there_are_pages(pages, site):
    for name in ("index", "tutorial/network", "math", "api/nn", "api/command-line"):
        assert site / f"{name}.html" in pages


def test_no_page_fetches_anything_from_the_network(pages):
    found = {path.name: external(tree) for path, tree in pages.items()}
    assert not {name: addresses for name, addresses in found.items() if addresses}


def test_no_style_sheet_fetches_anything_from_the_network(site):
    sheets = list(site.rglob("*.css"))
    assert sheets
    for sheet in sheets:
        assert not [a for a in addresses(sheet.read_text()) if urlsplit(a).netloc], sheet.name


def test_every_link_inside_the_site_leads_somewhere(pages, site):
    known = {path: anchors(tree) for path, tree in pages.items()}
    found = {path.name: list(broken(path, tree, known, site)) for path, tree in pages.items()}
    assert not {name: links for name, links in found.items() if links}


def test_an_anchor_is_there_once(pages):
    for path, tree in pages.items():
        ids = [tag["id"] for tag in tree.find_all(id=True)]
        assert len(ids) == len(set(ids)), path.name


def test_the_checks_can_fail(tmp_path):
    text = (
        '<script src="https://cdn.example/x.js"></script><p style="background: url(//a.example/b)">'
        '<a href="#none">a</a><a href="no.html">b</a><a href="#here" id="here">c</a>'
    )
    page = tmp_path / "page.html"
    page.write_text(text)
    tree = BeautifulSoup(text, "html.parser")
    assert external(tree) == ["https://cdn.example/x.js", "//a.example/b"]
    assert list(broken(page, tree, {page: anchors(tree)}, tmp_path)) == ["#none", "no.html"]


@pytest.mark.parametrize(("module", "page"), MODULES.items(), ids=list(MODULES))
def test_every_public_name_has_an_anchor(module, page, pages, site):
    loaded = importlib.import_module(module)
    named = {f"{module}.{name}" for name in loaded.__all__}
    on_their_own_page = set(MODULES) - {module} if page != "index" else set()
    assert named - on_their_own_page <= anchors(pages[site / "api" / f"{page}.html"])


def test_every_module_with_public_names_is_documented():
    public = {
        ".".join(path.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
        for path in (ROOT / "src" / "evenkeel").rglob("*.py")
        if re.search(r"^__all__", path.read_text(), re.MULTILINE)
    }
    assert {name for name in public if "._" not in name} - set(MODULES) == {
        "evenkeel.cli",  # its page is made from the commands
        "evenkeel.study.sections",  # where the study finds its experiments
    }


def test_no_private_name_shows(pages, site):
    for path in (site / "api").glob("*.html"):
        private = {a for a in anchors(pages[path]) if re.search(r"^evenkeel\..*\._", a)}
        assert not private, path.name


def test_no_role_of_another_markup_is_left(pages, site):
    for path in (site / "api").glob("*.html"):
        assert not re.search(r":(attr|class|data|exc|func|meth|mod):", pages[path].text), path.name


def test_every_equation_has_an_anchor_and_is_cited_by_a_link(pages, site):
    equations = {name for name in anchors(pages[site / "math.html"]) if name.startswith("eq-")}
    assert equations == {f"eq-{number}" for number in range(1, 17)}
    links = pages[site / "api" / "reference.html"].find_all("a", href=True)
    cited = {link["href"].partition("#")[2] for link in links if "math.html#eq-" in link["href"]}
    assert cited == equations


def test_no_formula_has_latex_left_in_it(pages):
    formulas = [formula.text for tree in pages.values() for formula in tree.find_all("math")]
    assert len(formulas) > 200
    assert not [text for text in formulas if re.search(r"[\\&$]", text)]


def test_every_command_and_its_options_are_there(pages, site):
    import typer

    from evenkeel import cli

    text = pages[site / "api" / "command-line.html"].text
    group = typer.main.get_command(cli.app)
    assert set(group.commands) >= {"study", "inspect", "explain"}
    for name, command in group.commands.items():
        assert f"evenkeel {name}" in text
        for param in command.params:
            assert (param.opts[0] if param.opts[0].startswith("-") else param.metavar) in text


def test_the_search_index_knows_the_names(site):
    index = (site / "search" / "search_index.js").read_text()
    assert "evenkeel.nn.BatchNorm2d" in index
