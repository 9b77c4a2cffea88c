from __future__ import annotations

import hashlib
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

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
from evenkeel.study.sections import SECTIONS, learning_rate

ROOT = Path(__file__).parents[2]
RATES = {"sgd": (0.003, 0.3, 100.0), "adam": (0.01,)}
APP = typer.Typer()
APP.command()(command.study)


@pytest.fixture(scope="module", autouse=True)
def tiny():
    """Few rates: a quick study takes every second one of them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(learning_rate, "RATES", RATES)
        patch.setattr(learning_rate, "RunConfig", partial(RunConfig, max_steps=60))
        yield


def settings(out: Path, **changes: Any) -> StudySettings:
    return StudySettings(out=out, quick=True, **{"seeds": 2, "workers": 1, **changes})


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
        free = prefix in {"sections.", "sections.*.runs[].trajectories[].channels."}
        return {p for k, v in value.items() for p in paths(v, f"{prefix}{'*' if free else k}.")}
    if isinstance(value, list):
        return {p for v in value for p in paths(v, f"{prefix.removesuffix('.')}[].")} or {
            f"{prefix.removesuffix('.')}[]"
        }
    return {prefix.removesuffix(".")}


def documented() -> list[str]:
    text = (ROOT / "docs" / "results-schema.md").read_text(encoding="utf-8")
    frames = {
        "## Frame": "",
        "## One section": "sections.*.",
        "### A run": "sections.*.runs[].",
        "### Findings": "sections.*.findings.",
    }
    found: list[str] = []
    for heading, prefix in frames.items():
        part = re.split(r"\n##", text.partition(heading)[2])[0]
        for row in re.findall(r"^\| (`.*?) \|", part, re.MULTILINE):
            found += [prefix + name for name in re.findall(r"`([^`]+)`", row)]
    return found


def test_every_field_is_documented_and_every_documented_field_exists(results) -> None:
    present, known = paths(results), documented()
    # A documented name covers what lies below it: `model.config`, a table, an axis, a series.
    strange = [
        p for p in present if not any(p == k or p.startswith((f"{k}.", f"{k}[]")) for k in known)
    ]
    assert strange == []
    gone = [
        k for k in known if not any(p == k or p.startswith((f"{k}.", f"{k}[")) for p in present)
    ]
    assert gone == []


def test_results_are_plain_json_without_host_or_paths(done, results) -> None:
    text = (done.out / "results.json").read_text(encoding="utf-8")
    assert results["schema"] == {"name": "evenkeel-study", "version": 1}
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
    assert len(plotted) > 500
    assert set(plotted) <= known


def test_report_is_complete(done) -> None:
    page = BeautifulSoup((done.out / "report.html").read_text(encoding="utf-8"), "html.parser")
    text = page.get_text()
    for needed in ("He: weights normal", "Limitations", "sha256:", "gamma over training steps"):
        assert needed in text
    assert len(page.select(".samples img")) == 10
    assert len(page.select("figure.plots")) == 8
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
        assert "…" not in text.getvalue()
        for cell in ("SGD", "without", "Diverged", "±"):
            assert cell in text.getvalue()


def test_command_prints_plain_progress_and_json(tmp_path: Path) -> None:
    run = CliRunner().invoke(
        APP, ["--quick", "--seeds", "1", "--out", str(tmp_path), "--json"], env={"COLUMNS": "80"}
    )
    assert run.exit_code == 0, run.output
    assert "training: 6 of 6 runs" in run.stderr
    records = json.loads(run.stdout)
    assert records["sections"]["learning-rate"]["rows"][0][0] == "SGD"
    assert 0 < records["sections"]["learning-rate"]["measures"][0]["mean"] <= 1
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

    monkeypatch.setattr("evenkeel.study._study.execute", never)
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


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_study_that_is_stopped_writes_nothing(
    tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    script = (
        "import typer; from evenkeel.cli._study import study; "
        "app = typer.Typer(); app.command()(study); app()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen(
        [sys.executable, "-c", script, "--out", str(out), "--seeds", "50"],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )
    try:
        assert process.stderr is not None
        assert "training: 0 of" in process.stderr.readline()
        time.sleep(1.0)
        if number is signal.SIGINT:
            os.killpg(process.pid, number)  # as a terminal does: workers get it too
        else:
            process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code, errors
    assert "Interrupted. Nothing was written." in errors
    assert "Traceback" not in errors
    assert "leaked" not in errors
    assert not out.exists()


def test_stranger_finds_the_sections() -> None:
    assert [section.name for section in SECTIONS] == ["learning-rate"]
