"""docs/json-records.md says what --json prints: every field, and no other."""

from __future__ import annotations

import inspect
import json
import re
import typing
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import evenkeel as ek
from evenkeel import bench, report
from evenkeel.cli import app
from evenkeel.spec import Spec
from evenkeel.tools import _inspect
from evenkeel.tools._convert import _compare as _convert_compare
from evenkeel.tools._inspect import _records as _inspect_records
from evenkeel.tools._inspect import _rules as _inspect_rules

ROOT = Path(__file__).parents[2]
#: Heading of a table in the page -> what stands before its paths.
FRAMES = {
    "inspect": {
        "## `evenkeel inspect": "",
        "### A layer": "rows[].",
        "### A finding": "findings[].",
    },
    "bench": {"## `evenkeel bench --": ""},
    "bench-steps": {"## `evenkeel bench-steps": ""},
    "explain": {"## `evenkeel explain": ""},
    "adopt": {"### `ek.adopt`": ""},
    "release": {"### `ek.release`": ""},
    "study": {"## `evenkeel study": ""},
    "convert": {"## `evenkeel convert": ""},
    "compare networks": {"### Two networks": ""},
    "compare files": {"### Two files of weights": ""},
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
    # A star stands for names that the page cannot list.
    stars = {k: re.compile(re.escape(k).replace(r"\*", "[^.]*") + "$") for k in known if "*" in k}
    covered |= {p for p in present if any(star.match(p) for star in stars.values())}
    assert present - covered == set()
    missing = {k for k, star in stars.items() if not any(map(star.match, present))}
    assert {k for k in known - present if k not in stars} | missing == set()


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


def test_records_of_bench():
    setting = bench.Setting(
        date="", commit="", machine="", threads=1, huge_pages=False, versions=""
    )
    case = bench.Case(suite="other", shape=(2, 3), activation="relu")
    timings = (bench.Timing(case, peer, 1.0, 1.0, 1.0, 1) for peer in ("evenkeel", "floor"))
    records = [bench.record(timing, setting) for timing in timings]
    summary = bench.ratios(records)
    present = {"records": [*map(asdict, records)], "summary": [*map(asdict, summary)]}
    require_same(paths(present), "bench")
    network = bench.Network(name="resnet50")
    record = bench.step_record(bench.Timing(network, "torch", 1.0, 1.0, 1.0, 1), None, setting)
    require_same(paths({"records": [asdict(record)]}), "bench-steps")


def test_records_of_convert(checkpoint, tmp_path):
    torch.save(nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(2)).state_dict(), tmp_path / "l.pt")
    like = ("--like", str(tmp_path / "l.pt"), "--inference")
    missing = printed("convert", "--json", str(checkpoint), str(tmp_path / "b.pt"), *like)
    assert missing["left_out"]
    assert missing["remarks"]
    assert missing["rows"][1]["made"]
    spec = Spec(2, variance="biased").to_json()
    metadata = {"evenkeel.batch_norm": json.dumps({"bn": spec})}
    state = {f"bn.{name}": tensor for name, tensor in nn.BatchNorm1d(2).state_dict().items()}
    save_file(state, tmp_path / "a.safetensors", metadata=metadata)
    code = printed("convert", "--json", str(tmp_path / "a.safetensors"), str(tmp_path / "c.pt"))
    assert code["settings"][0]["values"]
    changed = printed(
        "convert", "--json", str(tmp_path / "a.safetensors"), str(tmp_path / "c.msgpack")
    )
    assert changed["rows"][0]["kind"] == "batch_norm"
    require_same(paths(missing) | paths(code) | paths(changed), "convert")


def test_records_of_compare(module, tmp_path):
    (tmp_path / "comparedrecords.py").write_text(
        "from torch import nn\n"
        "def build(): return nn.Sequential(nn.BatchNorm1d(3))\n"
        "def other(): return nn.Sequential(nn.BatchNorm1d(3, eps=0.1))\n"
    )
    np.save(tmp_path / "x.npy", np.random.default_rng(0).standard_normal((8, 3)).astype("f"))
    names = ("comparedrecords:build", "comparedrecords:other")
    inputs = ("--inputs", str(tmp_path / "x.npy"))
    record = printed("compare", "--json", *names, *inputs)
    assert record["causes"]
    first = record.pop("first_difference")
    assert paths(first) == {path.removeprefix("rows[].") for path in paths(record["rows"], "rows")}
    require_same(paths(record | {"first_difference": None}), "compare networks")
    for name, size in (("a", 3), ("b", 4)):
        layer = nn.Sequential(nn.BatchNorm1d(size))
        save_file(layer.state_dict(), tmp_path / f"{name}.safetensors")
    files = [str(tmp_path / f"{name}.safetensors") for name in "ab"]
    require_same(paths(printed("compare", "--json", *files)), "compare files")


def test_records_of_adopt_and_release():
    net = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    proven = ek.adopt(net, torch.randn(4, 3), fuse=True).to_dict()
    require_same(paths(proven), "adopt")
    require_same(paths(proven | {"proof": None}) | paths(proven), "adopt")
    require_same(paths(ek.release(net).to_dict()), "release")


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
        ("### Two files of weights", "rows[].verdict", _convert_compare.Verdict),
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
