from __future__ import annotations

import hashlib
import io
import json
import os
import re
from dataclasses import fields, is_dataclass
from functools import partial
from pathlib import Path
from types import UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints

import pytest
import torch
import typer
from bs4 import BeautifulSoup
from rich.console import Console
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from evenkeel.cli import _study as command
from evenkeel.errors import InputError
from evenkeel.study import RunConfig, StudySettings, build_network, load_dataset, run_study
from evenkeel.study.sections import SECTIONS
from evenkeel.study.sections.learning_rate import _plan

ROOT = Path(__file__).parents[2]
RATES = {"sgd": (0.1, 0.3, 100.0), "adam": (0.01,)}
APP = typer.Typer()
APP.command()(command.study)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Few rates: a quick study takes the powers of ten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_plan, "RATES", RATES)
        patch.setattr(_plan, "NETWORKS", {"3 layers": (256, 128, 64)})
        patch.setattr(_plan, "RunConfig", partial(RunConfig, max_steps=60))
        yield


def settings(out: Path, **changes: Any) -> StudySettings:
    usual = {"seeds": 2, "workers": 1, "only": ("learning-rate",)}
    return StudySettings(out=out, quick=True, **{**usual, **changes})


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory):
    return run_study(settings(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def results(done) -> dict[str, Any]:
    return json.loads((done.out / "results.json").read_bytes())


def test_same_seed_same_file(done, tmp_path: Path) -> None:
    again = run_study(settings(tmp_path))
    texts = []
    for out in (done.out, again.out):
        content = json.loads((out / "results.json").read_bytes())
        assert content.pop("timing")["runs"] == 12
        assert content.pop("machine")["cores"] >= 1
        texts.append(json.dumps(content))
    assert texts[0] == texts[1]
    models = [(out / "model.safetensors").read_bytes() for out in (done.out, again.out)]
    assert models[0] == models[1]


def test_number_of_workers_changes_no_number(done, tmp_path: Path) -> None:
    # Worker processes look the section up by name and see the same plan as data.
    again = run_study(settings(tmp_path, workers=2))
    assert again.results["sections"] == done.results["sections"]


def paths(value: Any, prefix: str = "") -> set[str]:
    """Return the path of every leaf, in the notation of docs/results-schema.md."""
    if isinstance(value, dict):
        free = prefix == "sections."
        return {p for k, v in value.items() for p in paths(v, f"{prefix}{'*' if free else k}.")}
    if isinstance(value, list):
        return {p for v in value for p in paths(v, f"{prefix.removesuffix('.')}[].")} or {
            f"{prefix.removesuffix('.')}[]"
        }
    return {prefix.removesuffix(".")}


def documented(frames: dict[str, str]) -> list[str]:
    """Return the paths in the tables below some headings, each behind its prefix."""
    text = (ROOT / "docs" / "results-schema.md").read_text(encoding="utf-8")
    found: list[str] = []
    for heading, prefix in frames.items():
        part = re.split(r"\n##", text.partition(heading)[2])[0]
        for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE):
            found += [prefix + name for name in re.findall(r"`([^`]+)`", row)]
    return found


def check_documented(present: set[str], known: list[str]) -> None:
    # A documented name covers what lies below it: `model.config`, a table, an axis, a series.
    assert [p for p in present if not any(covers(k, p) for k in known)] == []
    assert [k for k in known if not any(covers(k, p) for p in present)] == []


def covers(known: str, path: str) -> bool:
    return path == known or path.startswith((f"{known}.", f"{known}[]"))


def test_every_field_is_documented_and_every_documented_field_exists(results) -> None:
    frames = {
        "## Frame": "",
        "## One section": "sections.*.",
        "### Findings": "sections.*.findings.",
    }
    check_documented(
        {re.sub(r"(sections\.\*\.runs\[\])\..*", r"\1", p) for p in paths(results)},
        documented(frames),
    )


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: section.name)
def test_every_field_of_a_run_is_documented(section) -> None:
    shown = {
        "### Every run: `sections.*.runs[].config`": "config.",
        f"### A run of {section.name}\n": "",
    }
    check_documented(fields_of(section.record), documented(shown))


def fields_of(kind: Any, prefix: str = "") -> set[str]:
    """Return the paths of all fields of a dataclass, through tuples, dicts and unions."""
    if is_dataclass(kind):
        hints = get_type_hints(kind)
        return {
            path
            for field in fields(kind)
            for path in fields_of(hints[field.name], f"{prefix}.{field.name}".lstrip("."))
        }
    origin, arguments = get_origin(kind), [a for a in get_args(kind) if a is not type(None)]
    if origin is tuple:
        return fields_of(arguments[0], f"{prefix}[]")
    if origin is dict:
        return fields_of(arguments[1], f"{prefix}.*")
    if origin in {Union, UnionType} and len(arguments) == 1:
        return fields_of(arguments[0], prefix)
    return {prefix}


def test_results_are_plain_json_without_host_or_paths(done, results) -> None:
    text = (done.out / "results.json").read_text(encoding="utf-8")
    assert results["schema"] == {"name": "evenkeel-study", "version": 2}
    json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    for secret in (str(done.out), str(Path.home()) + "/", os.uname().nodename):
        assert secret not in text
    assert results["data"]["checksum"] == load_dataset("digits").info.checksum


def test_report_shows_only_numbers_of_the_results(done, results) -> None:
    page = BeautifulSoup((done.out / "report.html").read_text(encoding="utf-8"), "html.parser")
    plotted = [
        number
        for tag in page.select("script.plot-data")
        for trace in json.loads(tag.get_text())["data"]
        for axis in ("x", "y")
        for number in trace[axis]
        if number is not None
    ]
    figures = results["sections"]["learning-rate"]["findings"]["figures"]
    known = {
        number
        for figure in figures
        for panel in figure["panels"]
        for series in panel["series"]
        for axis in ("x", "y", "low", "high")
        for number in series[axis]
    }
    assert len(plotted) > 300
    assert set(plotted) <= known


def test_report_is_complete(done) -> None:
    page = BeautifulSoup((done.out / "report.html").read_text(encoding="utf-8"), "html.parser")
    text = page.get_text()
    for needed in ("He for ReLU", "Limitations", "sha256:", "Ioffe & Szegedy 2015"):
        assert needed in text
    assert len(page.select(".samples img")) == 10
    assert len(page.select("figure.plots")) == 4
    ids = [tag["id"] for tag in page.find_all(id=True)]
    assert len(ids) == len(set(ids))


def test_model_is_the_network_that_was_measured(done, results) -> None:
    path = done.out / "model.safetensors"
    entry = results["model"]
    assert entry["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    with safe_open(path, "pt") as file:
        assert json.loads(file.metadata()["config"]) == entry["config"]
    network = build_network(64, 10)
    network.load_state_dict(load_file(path))
    data = load_dataset("digits")
    with torch.no_grad():
        right = network.eval()(torch.tensor(data.test_x)).argmax(1).numpy() == data.test_y
    assert right.mean() == entry["final_accuracy"] > 0.9


def test_summary_fits_80_columns(done) -> None:
    for terminal in (False, True):
        text = io.StringIO()
        console = Console(file=text, width=80, force_terminal=terminal, color_system=None)
        command.print_summary(done, console)
        lines = text.getvalue().splitlines()
        table = [line for line in lines if not line.startswith(str(done.out))]
        assert max(map(len, table)) <= 80
        assert "…" not in text.getvalue(), text.getvalue()
        for cell in ("SGD, 3 layers", "Diverged", "±", done.chapters[0].verdict.words):
            assert cell in text.getvalue()


def test_command_prints_plain_progress_and_json(tmp_path: Path) -> None:
    run = CliRunner().invoke(
        APP,
        ["--quick", "--seeds=1", "--only=learning-rate", f"--out={tmp_path}", "--json"],
        env={"COLUMNS": "80"},
    )
    assert run.exit_code == 0, run.output
    assert "training: 6 of 6 runs" in run.stderr
    records = json.loads(run.stdout)
    assert records["sections"]["learning-rate"]["rows"][0][0] == "SGD, 3 layers"
    assert records["sections"]["learning-rate"]["verdict"]["kind"] in {"holds", "fails", "depends"}
    measures = {m["name"]: m for m in records["sections"]["learning-rate"]["measures"]}
    assert 0.5 < measures["3-layers-sgd-accuracy-with"]["mean"] <= 1
    assert run.stdout.startswith('{\n  "sections"')
    assert "starting workers" in run.stderr
    assert len(records["files"]) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seeds": 0}, "--seeds 0"),
        ({"only": ("magic",)}, "unknown section"),
        ({"data": "npz:nowhere.npz"}, "no such file"),
        ({"data": "cats"}, "known are"),
        ({"device": "warp"}, "--device warp"),
        ({"device": "cuda:63"}, "--device cuda:63"),
    ],
)
def test_bad_requests_leave_no_folder(
    tmp_path: Path, arguments: dict[str, Any], message: str
) -> None:
    out = tmp_path / "out"
    with pytest.raises(InputError, match=message):
        run_study(settings(out, **arguments))
    assert not out.exists()


def test_folder_is_checked_before_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> None:
        pytest.fail("trained before the folder was checked")

    monkeypatch.setattr("evenkeel.study._conduct.execute", never)
    (tmp_path / "results.json").write_text("{}")
    with pytest.raises(InputError, match="did not write"):
        run_study(settings(tmp_path))


def test_own_data_without_any_trained_network(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    np.savez(tmp_path / "noise.npz", x=rng.normal(size=(60, 3)), y=np.arange(60) % 2)
    done = run_study(settings(tmp_path / "out", data=f"npz:{tmp_path / 'noise.npz'}", seeds=1))
    names = {path.name for path in done.files}
    assert "report.html" in names
    assert ("model.safetensors" in names) == (done.results["model"] is not None)
    assert str(tmp_path) not in json.dumps(done.results)
