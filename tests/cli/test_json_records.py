"""docs/json-records.md says what --json prints: every field, and no other."""

from __future__ import annotations

import inspect
import json
import re
import typing
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from evenkeel import report
from evenkeel.cli import app
from evenkeel.tools import _inspect, _inspect_records, _inspect_rules

ROOT = Path(__file__).parents[2]
#: Heading of a table in the page -> what stands before its paths.
FRAMES = {
    "inspect": {
        "## `evenkeel inspect": "",
        "### A layer": "rows[].",
        "### A finding": "findings[].",
    },
    "explain": {"## `evenkeel explain": ""},
    "study": {"## `evenkeel study": ""},
}

pytestmark = pytest.mark.skipif(
    not (ROOT / "docs").is_dir(), reason="the page stands in a checkout, not in an installation"
)


def page(heading: str) -> str:
    """The part of the page under a heading, up to the next one."""
    text = (ROOT / "docs" / "json-records.md").read_text(encoding="utf-8")
    assert text.count(f"\n{heading}") == 1
    return re.split(r"\n##", text.partition(f"\n{heading}")[2])[0]


def documented(command: str) -> set[str]:
    """Paths in the tables of a command; one that only announces another table counts as that."""
    found: set[str] = set()
    for heading, prefix in FRAMES[command].items():
        table = page(heading).partition("| path | what |")[2].partition("\n\n")[0]
        for row in re.findall(r"^\| (`.*?) \|", table, re.MULTILINE):
            found |= {prefix + name for name in re.findall(r"`([^`]+)`", row)}
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def paths(value: Any, prefix: str = "") -> set[str]:
    """The path of every leaf, in the notation of the page."""
    if isinstance(value, dict):
        inside = (paths(v, f"{prefix}.{k}" if prefix else k) for k, v in value.items())
        return {path for part in inside for path in part}
    if isinstance(value, list) and value:
        return {path for item in value for path in paths(item, f"{prefix}[]")}
    return {f"{prefix}[]" if isinstance(value, list) else prefix}


def printed(*args: str) -> Any:
    done = CliRunner().invoke(app, list(args))
    assert done.stderr == ""
    return json.loads(done.stdout, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


def require_same(present: set[str], command: str) -> None:
    known = documented(command)
    # Null stands for a whole record that is not there, an empty list for its items.
    covered = {p for p in present if p in known or any(k.startswith(f"{p}.") for k in known)}
    assert present - covered == set()
    assert known - present == set()


@pytest.fixture
def checkpoint(tmp_path):
    """A file with something suspicious, a null in each kind of field, and a remark."""
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(2, affine=False))
    model[0].running_var[0] = -1
    torch.save({"state_dict": model.state_dict(), "epoch": 7}, tmp_path / "a.pt")
    return tmp_path / "a.pt"


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A live model in a module of its own."""
    (tmp_path / "recordnets.py").write_text(
        "from torch import nn\n"
        "def build():\n"
        "    layers = nn.BatchNorm1d(3, momentum=0.99), nn.BatchNorm1d(2, momentum=None)\n"
        "    return nn.Sequential(*layers, nn.LazyBatchNorm1d())\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return "recordnets:build"


def test_records_of_inspect(checkpoint, module):
    weights, live = (
        printed("inspect", "--json", str(checkpoint)),
        printed("inspect", "--json", module),
    )
    assert weights["remarks"]
    assert weights["findings"]
    assert {"channels", "eps", "momentum", "weight"} <= {
        name for row in [*weights["rows"], *live["rows"]] for name in row if row[name] is None
    }
    require_same(paths(weights) | paths(live), "inspect")


def test_records_of_explain():
    shaped = printed("explain", "--json", "--shape", "4,3,2", "--dtype", "float64")
    refused = printed("explain", "--json", "--dtype", "int8")
    assert any(row["reasons"] for row in refused["rows"])
    require_same(paths(shaped) | paths(refused), "explain")


def test_a_field_that_is_missing_or_invented_is_seen():
    record = printed("explain", "--json", "--shape", "4,3,2")
    for change in ({"more": 1}, {"requested": {"by": 1}}):
        with pytest.raises(AssertionError, match=r"more|by"):
            require_same(paths(record | change), "explain")
    del record["requested"]
    with pytest.raises(AssertionError, match="requested"):
        require_same(paths(record), "explain")


def test_every_code_of_a_finding_is_documented():
    source = "".join(inspect.getsource(module) for module in (_inspect, _inspect_rules))
    yielded = set(re.findall(r'yield .*?, "([a-z0-9-]+)", ', source))
    built = set(re.findall(r'Finding\(name, severity, "([a-z-]+)"', source))
    table = page("### A finding").partition("| code | what was found |")[2]
    assert len(yielded) > 10
    assert built == {"unreadable"}
    assert set(re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)) == yielded | built


@pytest.mark.parametrize(
    ("heading", "path", "type_"),
    [
        ("### A layer", "mode", _inspect_records.Mode),
        ("### A finding", "severity", _inspect_records.Severity),
        (
            "## `evenkeel study",
            "sections.*.columns[].title`, `sections.*.columns[].format",
            report.Format,
        ),
    ],
)
def test_every_value_of_a_choice_is_documented(heading, path, type_):
    row = next(line for line in page(heading).splitlines() if line.startswith(f"| `{path}` |"))
    meaning = row.partition("` |")[2]
    assert set(typing.get_args(type_)) <= set(re.findall(r"`([^`]+)`", meaning))
