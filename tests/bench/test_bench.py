from __future__ import annotations

import importlib
import importlib.util
import json
import math
import statistics
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from typer.testing import CliRunner

from evenkeel import bench
from evenkeel.bench import _page, _session, _worker
from evenkeel.bench._records import Record
from evenkeel.bench._tables import tables
from evenkeel.errors import FileError

SMALL = bench.Case(suite="other", shape=(4, 8, 3, 3), activation="relu", residual=True)


def one(**changes: object) -> Record:
    base = Record(
        date="2026-01-01T00:00:00+00:00",
        commit="abc",
        machine="a processor, 2 cores",
        threads=2,
        huge_pages=False,
        versions="torch 2",
        suite="resnet50",
        shape="2x3",
        activation="relu",
        residual=False,
        count=1,
        layout="first",
        dtype="float32",
        mode="forward",
        peer="evenkeel",
        median=1.0,
        p20=0.5,
        p80=2.0,
        steps=3,
        problem="",
    )
    return replace(base, **changes)


@pytest.mark.parametrize(
    ("suite", "sites"), [("resnet50", 53), ("mobilenet_v2", 52), ("densenet121", 121)]
)
def test_the_networks_have_all_their_sites(suite: str, sites: int) -> None:
    cases = bench.cases([suite], ["first"], ["float32"], ["forward"])
    assert sum(case.count for case in cases) == sites
    assert len(cases) == len({(case.shape, case.activation, case.residual) for case in cases})


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet50", "mobilenet_v2", "densenet121"])
def test_sites_are_those_of_the_real_network(name: str) -> None:
    import torch

    from ..zoo._models import import_torchvision  # noqa: TID252 - tests have no package name

    model = getattr(import_torchvision().models, name)().eval()
    found: dict[tuple[int, ...], int] = {}

    def count(module: object, inputs: tuple[torch.Tensor, ...], output: object) -> None:
        found[tuple(inputs[0].shape[1:])] = found.get(tuple(inputs[0].shape[1:]), 0) + 1

    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.register_forward_hook(count)
    with torch.no_grad():
        model(torch.zeros(1, 3, 224, 224))
    stated: dict[tuple[int, ...], int] = {}
    for case in bench.cases([name], ["first"], ["float32"], ["forward"]):
        stated[case.shape[1:]] = stated.get(case.shape[1:], 0) + case.count
    assert stated == found


def test_the_floor_counts_every_tensor_once() -> None:
    case = bench.Case(suite="other", shape=(2, 3), activation="relu", mode="forward")
    assert case.compulsory_bytes == 2 * 24  # x, y
    trained = replace(case, mode="forward+backward")
    assert trained.compulsory_bytes == 5 * 24  # and x, dy, dx
    # and the residual in both passes, and its gradient
    assert replace(trained, residual=True).compulsory_bytes == 8 * 24
    # a plain sum passes dy on without looking at the residual again
    assert replace(trained, residual=True, activation="identity").compulsory_bytes == 7 * 24
    assert replace(case, dtype="bfloat16").compulsory_bytes == 24


def _peers() -> list[object]:
    """All of them; those that take long to start are for the slow tier."""
    quick = {"evenkeel", "torch", "floor"}
    return [
        pytest.param(p, id=p.name, marks=() if p.name in quick else pytest.mark.slow)
        for p in bench.PEERS
    ]


@pytest.mark.parametrize("peer", _peers())
@pytest.mark.parametrize("mode", bench.MODES)
def test_every_peer_runs_in_its_process(peer: bench.Peer, mode: str) -> None:
    assert not bench.missing(peer)
    case = replace(SMALL, mode=mode)
    (timing,) = bench.measure(
        [case], [peer], threads=1, rounds=2, huge_pages=False, progress=lambda *_: None
    )
    assert timing.problem == ""
    assert timing.p20 is not None
    assert timing.median is not None
    assert timing.p80 is not None
    assert 0 < timing.p20 <= timing.median <= timing.p80
    assert timing.steps >= 2


def test_a_peer_that_fails_is_reported_and_does_not_stop_the_others() -> None:
    broken = replace(bench.PEERS[1], name="broken", module="_nowhere")
    ours = bench.PEERS[0]
    timings = list(
        bench.measure(
            [SMALL], [broken, ours], threads=1, rounds=1, huge_pages=True, progress=lambda *_: None
        )
    )
    assert timings[0].problem.startswith("ModuleNotFoundError")
    assert timings[0].median is None
    assert timings[1].median is not None


def test_a_process_that_died_is_replaced_for_the_next_case(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    take_turn, killed = _session._Worker.take_turn, []

    def killed_once(worker: _session._Worker) -> None:
        if not killed:
            worker.process.kill()
            killed.append(worker)
        take_turn(worker)

    monkeypatch.setattr(_session._Worker, "take_turn", killed_once)
    floor = [peer for peer in bench.PEERS if peer.name == "floor"]
    first, second = bench.measure(
        [SMALL, SMALL], floor, threads=1, rounds=2, huge_pages=False, progress=lambda *_: None
    )
    assert first.problem == "its process ended with exit code -9"
    assert first.median is None
    assert second.problem == ""
    assert second.median is not None


def test_an_error_without_a_message_is_a_problem_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> object:
        raise AssertionError

    monkeypatch.setattr(importlib, "import_module", refuse)
    step, problem = _worker._prepare(bench.PEERS[0], SMALL)
    assert step is None
    assert problem == "AssertionError: (no message)"


def test_the_environment_is_put_back(monkeypatch: pytest.MonkeyPatch) -> None:
    import os

    monkeypatch.setenv("KEPT", "before")
    monkeypatch.delenv("FRESH", raising=False)
    with _session._environment({"KEPT": "now", "FRESH": "now"}):
        assert os.environ["KEPT"] == os.environ["FRESH"] == "now"
    assert os.environ["KEPT"] == "before"
    assert "FRESH" not in os.environ


def test_records_survive_the_file(tmp_path) -> None:
    path = tmp_path / "folder" / "timings.csv"
    records = [one(), one(peer="torch", median=None, p20=None, p80=None, problem='a "b", c')]
    bench.append(path, records)
    bench.append(path, [one(median=3.0)])
    assert bench.read(path) == [*records, one(median=3.0)]
    assert bench.latest(bench.read(path))[0].median == 3.0
    assert path.read_text().count("date,commit") == 1


def test_the_latest_run_is_one_commit_on_one_machine() -> None:
    old = [one(), one(peer="torch")]
    others = [one(layout="last"), one(huge_pages=True)]
    new = one(commit="def", median=3.0)
    assert bench.latest([*old, *others, new]) == [*others, new]


def test_another_file_is_left_alone(tmp_path) -> None:
    path = tmp_path / "other.csv"
    path.write_text("a,b\n1,2\n")
    with pytest.raises(FileError, match="--csv"):
        bench.append(path, [one()])
    assert path.read_text() == "a,b\n1,2\n"


@given(
    st.lists(st.tuples(st.floats(1e-6, 1e3), st.floats(1e-6, 1e3), st.integers(1, 9)), min_size=1)
)
def test_ratios_are_over_all_sites(times: list[tuple[float, float, int]]) -> None:
    records = []
    for number, (ours, theirs, count) in enumerate(times):
        site = one(shape=str(number), count=count, median=ours)
        records += [site, replace(site, peer="torch", median=theirs)]
    (ratio,) = bench.ratios(records)
    every = [theirs / ours for ours, theirs, count in times for _ in range(count)]
    assert ratio.sites == len(every)
    assert math.isclose(ratio.mean, statistics.geometric_mean(every), rel_tol=1e-9)
    assert math.isclose(ratio.worst, min(every), rel_tol=1e-12)
    total = sum(t * n for _, t, n in times) / sum(o * n for o, _, n in times)
    assert math.isclose(ratio.total, total, rel_tol=1e-9)


def test_a_site_without_a_time_enters_no_ratio() -> None:
    records = [one(), one(peer="torch", median=None, problem="broke")]
    assert bench.ratios(records) == []
    assert "broke" in _text(records)


def _text(records: list[Record]) -> str:
    from rich.console import Console

    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(tables(records, bench.ratios(records)))
    return capture.get()


def test_tables_fit_80_columns_with_all_peers() -> None:
    records = [
        one(
            shape="32x2048x112x112", activation="identity", residual=True, peer=p.name, median=0.123
        )
        for p in bench.PEERS
    ]
    text = _text(records)
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "1.00x" in text


def timed(**medians: float | None) -> list[Record]:
    """One site in two shapes, the second one twice as slow."""
    shapes = ("32x8x3x3", 1.0), ("32x8x7x7", 2.0)
    return [
        one(shape=shape, peer=peer, median=None if median is None else factor * median)
        for shape, factor in shapes
        for peer, median in medians.items()
    ]


def test_a_figure_shows_times_over_the_floor() -> None:
    records = timed(evenkeel=2.0, torch=None, floor=0.5)
    records += [replace(r, layout="last", residual=True) for r in records]
    (figure,) = _page.figures(records)
    assert [panel.title for panel in figure.panels] == ["channels first", "channels last"]
    assert figure.x.labels == ("8x3x3 relu", "8x7x7 relu", "8x3x3 relu +", "8x7x7 relu +")
    lines = {series.name: series.y for series in figure.panels[0].series}
    nothing = (None,) * 4
    assert lines == {
        "evenkeel": (4.0, 4.0, None, None),
        "torch": nothing,
        "floor": (1.0, 1.0, None, None),
    }


def test_every_peer_has_a_colour_of_its_own() -> None:
    (figure,) = _page.figures([one(peer=peer.name) for peer in bench.PEERS])
    colors = [series.color for series in figure.panels[0].series]
    assert len(set(colors)) == len(bench.PEERS)


def test_batches_that_differ_stay_in_the_labels() -> None:
    records = timed(evenkeel=2.0, floor=0.5)
    records[:2] = [replace(r, shape="2x4") for r in records[:2]]
    (figure,) = _page.figures(records)
    assert figure.x.labels == ("2x4 relu", "32x8x7x7 relu")
    assert _page.figures([r for r in records if r.peer != "floor"]) == ()


def test_the_command_prints_and_appends(tmp_path) -> None:
    from evenkeel.cli import app

    path, plot = tmp_path / "timings.csv", tmp_path / "plots" / "timings.html"
    arguments = ["bench", "--suite", "other", "--peers", "evenkeel,floor", "--layout", "first"]
    arguments += ["--rounds", "1", "--threads", "1", "--csv", str(path), "--json"]
    arguments += ["--plot", str(plot)]
    small = [replace(SMALL, shape=(4, 8), residual=False)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bench, "cases", lambda *_: small)
        result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    answer = json.loads(result.stdout)
    assert [r["peer"] for r in answer["records"]] == ["evenkeel", "floor"]
    assert answer["summary"][0]["sites"] == 1
    assert [r.peer for r in bench.read(path)] == ["evenkeel", "floor"]
    assert "4x8 relu" in plot.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--suite", "resnet51"], "mobilenet_v2"),
        (["--peers", "evenkeel,caffe"], "keras-jax"),
        (["--layout", ""], "last"),
        (["--peers", "evenkeel,torch", "--plot", "page.html"], "add floor"),
    ],
)
def test_unknown_names_are_refused_with_the_known_ones(arguments: list[str], says: str) -> None:
    from evenkeel.cli import app

    result = CliRunner().invoke(app, ["bench", *arguments])
    assert result.exit_code == 2
    assert says in result.stderr


def test_a_peer_that_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from evenkeel.cli import app

    find = importlib.util.find_spec

    def find_others(name: str, *rest: str) -> object:
        return None if name == "tensorflow" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    result = CliRunner().invoke(app, ["bench", "--peers", "evenkeel,keras-tf"])
    assert result.exit_code == 2
    assert "pip install tensorflow" in result.stderr
