"""The house rules that a machine can see: layers, sizes, style."""

import ast
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = [*ROOT.glob("src/**/*.py"), *ROOT.glob("csrc/*"), *ROOT.glob("benchmarks/*.py")]
TOOLS = Path(sys.executable).parent

pytestmark = pytest.mark.skipif(
    not (ROOT / "csrc").is_dir(), reason="the house stands in a checkout, not in an installation"
)


def functions():
    for path in SOURCES:
        if path.suffix == ".py":
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                    yield path, node


def body_lines(node):
    """Lines of a function without its docstring, whose length is no complexity."""
    first = node.body[0]
    documented = isinstance(first, ast.Expr) and isinstance(first.value, ast.Constant)
    docstring = first.end_lineno - first.lineno + 1 if documented else 0
    return node.end_lineno - node.lineno + 1 - docstring


def test_files_are_at_most_400_lines():
    assert SOURCES
    long = {str(p.relative_to(ROOT)): n for p in SOURCES if (n := p.read_text().count("\n")) > 400}
    assert not long


def test_functions_are_at_most_60_lines():
    long = [(p.name, n.name) for p, n in functions() if body_lines(n) > 60]
    assert not long


def test_functions_are_short_as_a_rule():
    lengths = sorted(body_lines(node) for _, node in functions())
    assert lengths[len(lengths) // 2] <= 10
    assert lengths[len(lengths) * 9 // 10] <= 30


def test_a_package_imports_only_what_stands_below_it():
    tool = shutil.which("lint-imports", path=TOOLS)
    done = subprocess.run(
        [tool, "--no-logo"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert "0 broken" in done.stdout


def test_ruff_has_nothing_to_say():
    tool = shutil.which("ruff", path=TOOLS)
    done = subprocess.run([tool, "check"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def unexplained(path):
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        near = "".join(lines[max(0, number - 4) : number])
        for mark in MARKS:
            if mark in line and " - " not in line.partition(mark)[2] and "#" not in near:
                yield f"{path.relative_to(ROOT)}:{number + 1}"


MARKS = ("# " + "noqa: ", "# pyright: " + "ignore", "# type: " + "ignore")


def test_every_silenced_check_says_why():
    files = [*SOURCES, *ROOT.glob("tests/**/*.py")]
    assert not [place for path in files for place in unexplained(path)]
