"""A study that is stopped, in whatever way, goes on and ends with the same numbers."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evenkeel.errors import FileError
from evenkeel.study import STORE, StudySettings, run_study
from evenkeel.study.sections.learning_rate import _plan

ROOT = Path(__file__).parents[2]
#: Cuts the study down to 12 short runs; run in the test and in the processes that it kills.
TINY = """
from functools import partial
from evenkeel.study import RunConfig
from evenkeel.study.sections.learning_rate import _plan
_plan.RATES = {"sgd": (0.01, 0.03, 0.1), "adam": (0.01,)}
_plan.NETWORKS = {"3 layers": (256, 128, 64)}
_plan.RunConfig = partial(RunConfig, max_steps=30)
"""
SCRIPT = f"""{TINY}
import sys, typer
from evenkeel.cli._study import study
app = typer.Typer(); app.command()(study)
app()
"""


@pytest.fixture(scope="module", autouse=True)
def tiny():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RATES", "NETWORKS", "RunConfig"):
            patch.setattr(_plan, name, getattr(_plan, name))
        exec(TINY, {})
        yield


def settings(out: Path, **changes: Any) -> StudySettings:
    usual = {"seeds": 2, "workers": 1, "only": ("learning-rate",), "quick": True}
    return StudySettings(out=out, **{**usual, **changes})


class StopError(Exception):
    pass


def stop_after(count: int):
    def progress(done: int, total: int) -> None:
        if done >= count:
            raise StopError

    return progress


def stopped(out: Path, count: int = 3, **changes: Any) -> Path:
    with pytest.raises(StopError):
        run_study(settings(out, **changes), stop_after(count))
    return out


def same(out: Path) -> tuple[dict[str, Any], bytes]:
    """What two studies of the same settings have in common: all but time and machine."""
    results = json.loads((out / "results.json").read_bytes())
    del results["timing"], results["machine"]
    return results, (out / "model.safetensors").read_bytes()


def stored(out: Path) -> dict[str, bytes]:
    connection = sqlite3.connect(out / STORE)
    rows = dict(connection.execute("select key, record from runs").fetchall())
    connection.close()
    return rows


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], bytes]:
    out = tmp_path_factory.mktemp("undisturbed")
    run_study(settings(out))
    return same(out)


def test_resumed_study_repeats_nothing_and_ends_the_same(tmp_path: Path, undisturbed) -> None:
    out = stopped(tmp_path / "out")
    assert len(stored(out)) == 3
    assert not (out / "results.json").exists()
    calls: list[int] = []
    done = run_study(settings(out, resume=True), lambda done, _: calls.append(done))
    assert calls == list(range(3, 13))
    assert done.results["timing"]["reused"] == 3
    assert same(out) == undisturbed


def test_finished_study_is_reported_again_without_a_run(
    tmp_path: Path, undisturbed, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_study(settings(tmp_path))
    (tmp_path / "report.html").unlink()
    monkeypatch.setattr("evenkeel.study._execute._make", lambda *_: pytest.fail("made a run"))
    run_study(settings(tmp_path, resume=True))
    assert same(tmp_path) == undisturbed
    assert (tmp_path / "report.html").exists()


def test_resume_in_an_empty_folder_begins(tmp_path: Path, undisturbed) -> None:
    run_study(settings(tmp_path / "new", resume=True))
    assert same(tmp_path / "new") == undisturbed


def test_unfinished_study_is_not_thrown_away(tmp_path: Path) -> None:
    out = stopped(tmp_path / "out")
    before = stored(out)
    with pytest.raises(FileError, match="stopped after 3 of 12 runs") as caught:
        run_study(settings(out))
    assert "--resume" in str(caught.value)
    assert stored(out) == before


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"seeds": 3}, "seeds was 0,1, now 0,1,2"),
        ({"quick": False}, "quick was True, now False"),
        ({"data": "npz"}, "data was digits, now npz:mine.npz"),
    ],
)
@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize("finished", [True, False])
def test_another_study_is_refused_and_kept(
    tmp_path: Path, changes: dict[str, Any], said: str, resume: bool, finished: bool
) -> None:
    import numpy as np

    out = tmp_path / "out"
    if finished:
        run_study(settings(out))
    else:
        stopped(out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    if changes.get("data"):
        rng = np.random.default_rng(0)
        np.savez(tmp_path / "mine.npz", x=rng.normal(size=(60, 3)), y=np.arange(60) % 2)
        changes = {"data": f"npz:{tmp_path / 'mine.npz'}"}
    with pytest.raises(FileError, match="results of another study") as caught:
        run_study(settings(out, resume=resume, **changes))
    assert said in str(caught.value)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_finished_study_may_be_made_anew(tmp_path: Path, undisturbed) -> None:
    run_study(settings(tmp_path))
    calls: list[int] = []
    run_study(settings(tmp_path), lambda done, _: calls.append(done))
    assert calls[0] == 0
    assert same(tmp_path) == undisturbed


def test_runs_of_other_versions_are_not_mixed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = stopped(tmp_path / "out")
    monkeypatch.setattr("evenkeel.study._conduct.versions", lambda: {"torch": "9.9"})
    with pytest.raises(FileError, match=r"now 9\.9"):
        run_study(settings(out, resume=True))
    assert len(stored(out)) == 3


def test_results_without_their_runs_are_made_anew(tmp_path: Path, undisturbed) -> None:
    run_study(settings(tmp_path))
    (tmp_path / STORE).unlink()
    run_study(settings(tmp_path, resume=True))
    assert same(tmp_path) == undisturbed
    (tmp_path / STORE).unlink()
    with pytest.raises(FileError, match="seeds was 0,1, now 0"):
        run_study(settings(tmp_path, seeds=1))


def test_file_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    connection = sqlite3.connect(tmp_path / STORE)
    connection.execute("create table precious (value)")
    connection.close()
    before = (tmp_path / STORE).read_bytes()
    with pytest.raises(FileError, match="another program"):
        run_study(settings(tmp_path))
    (tmp_path / STORE).write_bytes(b"no database, but text " * 100)
    with pytest.raises(FileError, match="not a database"):
        run_study(settings(tmp_path))
    (tmp_path / STORE).write_bytes(before)


def test_damaged_store_is_one_message(tmp_path: Path) -> None:
    out = stopped(tmp_path / "out")
    path = out / STORE
    path.write_bytes(path.read_bytes()[:5000])
    with pytest.raises(FileError, match="damaged"):
        run_study(settings(out, resume=True))


def test_two_studies_do_not_mix(tmp_path: Path) -> None:
    def second(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(FileError, match="another study that is running"):
                run_study(settings(tmp_path))
            raise StopError

    with pytest.raises(StopError):
        run_study(settings(tmp_path), second)


def test_full_disk_keeps_the_finished_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed
) -> None:
    from evenkeel.study._store import Store

    original = Store._claim

    def claim(self: Store) -> None:
        original(self)
        pages = self._connection.execute("pragma page_count").fetchone()[0]
        self._connection.execute(f"pragma max_page_count = {pages + 4}")

    with monkeypatch.context() as patch:
        patch.setattr(Store, "_claim", claim)
        with pytest.raises(FileError, match="full"):
            run_study(settings(tmp_path / "out"))
    assert len(stored(tmp_path / "out")) > 0
    run_study(settings(tmp_path / "out", resume=True))
    assert same(tmp_path / "out") == undisturbed


def begin(out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            *(sys.executable, "-c", SCRIPT, "--only=learning-rate"),
            *("--quick", "--seeds=2", f"--out={out}"),
        ],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        start_new_session=True,
    )


@pytest.mark.parametrize(
    ("number", "code"),
    [
        (signal.SIGINT, 130),
        pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow),
        (signal.SIGKILL, -9),
    ],
)
@pytest.mark.parametrize("moment", [pytest.param(0.0, marks=pytest.mark.slow), 0.35])
def test_killed_study_goes_on(
    tmp_path: Path, undisturbed, number: signal.Signals, code: int, moment: float
) -> None:
    out = tmp_path / "out"
    process = begin(out)
    try:
        assert process.stderr is not None
        assert "training: 0 of 12" in process.stderr.readline()
        assert "training: " in process.stderr.readline()
        time.sleep(moment)
        # A terminal sends Ctrl-C to all processes; kill takes one.
        (os.killpg if number is signal.SIGINT else os.kill)(process.pid, number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == code or (out / "report.html").exists(), errors
    assert "Traceback" not in errors
    if number is not signal.SIGKILL:  # where nobody was left to clean up, joblib's tracker did
        assert "leaked" not in errors
    if process.returncode > 0:
        assert "--resume goes on" in errors
    finished = len(stored(out))
    assert finished >= 1
    done = run_study(settings(out, resume=True))
    assert done.results["timing"]["reused"] >= min(finished, 12) - 1
    assert same(out) == undisturbed


def test_study_stopped_before_its_first_run_leaves_nothing(tmp_path: Path) -> None:
    process = begin(tmp_path / "out")
    try:
        assert process.stderr is not None
        assert "training: 0 of" in process.stderr.readline()
        process.send_signal(signal.SIGTERM)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 143, errors
    assert "Interrupted. Nothing was written." in errors
    assert "Traceback" not in errors
    assert not (tmp_path / "out").exists()
