"""Every python block of README and docs runs, from top to bottom of its page.

A block ``text title="Output"`` is what the python block above it prints; in ``text title="Output
(figures vary)"`` rounding shows, and the figures may differ from one machine to the next. So they
may in a ``console`` block that shows what ``evenkeel inspect`` or ``evenkeel explain`` prints,
which is run, too. All else may not.
"""

import contextlib
import doctest
import importlib
import importlib.util
import io
import os
import pkgutil
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

import evenkeel
from evenkeel.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(
    r"^```(?P<kind>python|console|text title=\"Output(?P<vary> \(figures vary\))?\")\n"
    r"(?P<text>.*?)^```",
    re.MULTILINE | re.DOTALL,
)
FIGURE = re.compile(r"-?\d+(\.\d+)?(e[-+]?\d+)?")


def place_study(folder):
    """The pages of the study speak of a finished one: its smallest possible stand-in is real."""
    from safetensors.torch import save_file

    from evenkeel.study import build_network

    (folder / "study").mkdir()
    save_file(build_network(64, 10).state_dict(), folder / "study" / "model.safetensors")


def run_python(code, scope, page):
    """Run one block; return what it printed."""
    if ">>>" in code:
        parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
        runner.run(parser.get_doctest(code, scope, page.name, str(page), 0))
        assert runner.summarize(verbose=False).failed == 0
        return ""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(page), "exec"), scope)
    return printed.getvalue()


def words(text):
    """The words of a table: no figures, and no order, since a wide figure wraps its cell."""
    return sorted(FIGURE.sub("", text).replace("..", "").replace("\u2500", "").split())


def run_console(text):
    """Run the commands that look and do not train; compare what they print."""
    command, _, expected = text.partition("\n")
    if not re.match(r"\$ evenkeel (inspect|explain)\b", command) or not expected:
        return
    got = CliRunner().invoke(app, shlex.split(command)[2:])
    assert got.exit_code == 0, got.output
    assert words(got.stdout) == words(expected), got.stdout


def run_page(page, folder):
    """Run the blocks of a page in an empty folder."""
    place_study(folder)
    scope, printed = {"__name__": "__main__"}, ""
    for block in BLOCK.finditer(page.read_text()):
        if block["kind"] == "python":
            printed = run_python(block["text"], scope, page)
        elif block["kind"] == "console":
            run_console(block["text"])
        elif block["vary"]:
            assert words(printed) == words(block["text"]), printed
        else:
            assert printed == block["text"]


#: It needs a process in which nobody has chosen a backend of Keras.
PORTING = ROOT / "docs" / "porting.md"


@pytest.mark.parametrize(
    "page", [p for p in PAGES if p != PORTING], ids=lambda page: str(page.relative_to(ROOT))
)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_page(page, tmp_path)


@pytest.mark.slow
def test_the_guide_to_porting_runs(tmp_path):
    code = f"from tests.test_docs_code import *; run_page(PORTING, Path({str(tmp_path)!r}))"
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, sys.path)])
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_the_readme_has_a_block():
    assert BLOCK.search((ROOT / "README.md").read_text())


def modules():
    found = pkgutil.walk_packages(evenkeel.__path__, "evenkeel.")
    return sorted(m.name for m in found if not m.name.endswith(("__main__", "_cpu")))


@pytest.mark.parametrize("name", modules())
def test_examples_in_docstrings_run(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert doctest.testmod(importlib.import_module(name)).failed == 0


def test_links_to_files_of_the_repository_exist():
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", page.read_text()):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_table_of_the_readme_is_that_of_the_committed_figures():
    spec = importlib.util.spec_from_file_location("readme", ROOT / "benchmarks" / "readme.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    text = (ROOT / "README.md").read_text()
    assert script.table().count("\n") >= 6
    assert script.put(text) == text
