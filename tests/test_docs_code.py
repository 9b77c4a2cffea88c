"""Every python block of README and docs runs, from top to bottom of its page."""

import doctest
import importlib.util
import pkgutil
import re
from pathlib import Path

import pytest

import evenkeel

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(ROOT.glob("docs/**/*.md"))]
BLOCK = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)


def place_study(folder):
    """The pages of the study speak of a finished one: its smallest possible stand-in is real."""
    from safetensors.torch import save_file

    from evenkeel.study import build_network

    (folder / "study").mkdir()
    save_file(build_network(64, 10).state_dict(), folder / "study" / "model.safetensors")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_blocks_run(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    place_study(tmp_path)
    scope = {"__name__": "__main__"}
    for block in BLOCK.findall(page.read_text()):
        if ">>>" in block:
            parser, runner = doctest.DocTestParser(), doctest.DocTestRunner()
            runner.run(parser.get_doctest(block, scope, page.name, str(page), 0))
            assert runner.summarize(verbose=False).failed == 0
        else:
            exec(compile(block, str(page), "exec"), scope)


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
