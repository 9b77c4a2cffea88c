"""Training steps of whole networks: who runs, what memory is counted, what is printed."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace

import pytest
import torch
from torch import nn
from typer.testing import CliRunner

from evenkeel import bench
from evenkeel.bench import _memory
from evenkeel.bench._tables import step_tables
from evenkeel.cli import app
from evenkeel.errors import FileError

SMALL = bench.Network(name="mobilenet_v2", batch=2, pixels=32)

needs_torchvision = pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is None, reason="torchvision has the networks"
)


def one(**changes: object) -> bench.StepRecord:
    setting = bench.Setting(
        date="", commit="", machine="", threads=1, huge_pages=False, versions=""
    )
    timing = bench.Timing(SMALL, "torch", 2.0, 1.9, 2.1, 5)
    memory = bench.Memory(peak=3 * 10**9, rest=10**9, source="VmHWM", saved=15 * 10**8)
    return replace(bench.step_record(timing, memory, setting), **changes)


@needs_torchvision
def test_the_command_measures_a_step(tmp_path) -> None:
    path = tmp_path / "steps.csv"
    arguments = ["bench-steps", "--network", "mobilenet_v2", "--peers", "torch", "--batch", "2"]
    arguments += ["--pixels", "32", "--rounds", "2", "--threads", "1", "--csv", str(path), "--json"]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    (record,) = json.loads(result.stdout)["records"]
    assert record["problem"] == ""
    assert 0 < record["p20"] <= record["median"] <= record["p80"]
    # Each of the 52 norms saves at least its input; torch's own buffers are no result of a step.
    assert 2 * 4 * 300_000 < record["saved"] < 2 * 4 * 2_000_000
    assert record["peak"] > record["saved"]
    assert [one.network for one in bench.read(path, bench.StepRecord)] == ["mobilenet_v2"]


def measured(network: bench.Network, peers: list[bench.Peer]) -> list[tuple[str, str]]:
    """Who was timed, and what went wrong with whom; each that runs saves something."""
    found = list(
        bench.measure_steps(
            [network],
            peers,
            threads=1,
            rounds=1,
            huge_pages=False,
            patience=2400,
            progress=lambda *_: None,
        )
    )
    assert all(memory is None or memory.saved > 0 for _, memory in found)
    return [(timing.peer, timing.problem) for timing, _ in found]


@needs_torchvision
@pytest.mark.slow
@pytest.mark.parametrize("layout", bench.LAYOUTS)
def test_every_eager_variant_runs(layout: bench.Layout) -> None:
    peers = [peer for peer in bench.VARIANTS if peer.name != "compile"]
    found = measured(replace(SMALL, layout=layout), peers)
    assert found == [("torch", ""), ("evenkeel", ""), ("evenkeel-fused", "")]


@needs_torchvision
@pytest.mark.slow
@pytest.mark.timeout(2500)  # compiling takes minutes, more on a busy machine
def test_the_compiled_variant_runs() -> None:
    peers = [peer for peer in bench.VARIANTS if peer.name == "compile"]
    assert measured(SMALL, peers) == [("compile", "")]


def test_a_variant_that_fails_is_reported_with_its_reason() -> None:
    broken = replace(bench.VARIANTS[0], module="_nowhere")
    ((timing, memory),) = bench.measure_steps(
        [SMALL],
        [broken],
        threads=1,
        rounds=1,
        huge_pages=False,
        patience=60,
        progress=lambda *_: None,
    )
    assert timing.problem.startswith("ModuleNotFoundError")
    record = bench.step_record(timing, memory, one())
    assert record.median is record.peak is record.own is record.saved is None
    assert "ModuleNotFoundError" in _text([record])


class Step:
    """Holds 64 MiB for as long as it runs."""

    size = 64 * 2**20

    def __call__(self) -> None:
        torch.ones(self.size // 4).sum()

    def saved_bytes(self) -> int:
        return 5


@pytest.mark.skipif(sys.platform != "linux", reason="proc(5)")
def test_the_peak_is_that_of_the_step() -> None:
    held = torch.ones(4 * Step.size // 4)  # a peak from before, four times as high
    del held
    memory = _memory.memory_of(Step())
    assert memory.saved == 5
    assert memory.source == "VmHWM"
    assert 0.9 * Step.size < memory.peak - memory.rest < 1.5 * Step.size


@pytest.mark.skipif(sys.platform == "win32", reason="getrusage")
def test_without_proc_the_peak_is_that_of_the_process(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(_memory, "_PROCESS", tmp_path / "nowhere")
    memory = _memory.memory_of(Step())
    assert memory.source == "ru_maxrss"
    assert memory.rest is None
    assert memory.peak > Step.size


def test_a_tensor_that_is_saved_twice_counts_once() -> None:
    from evenkeel.bench._peers._network import TrainingStep

    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(1000))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            x = images.flatten(1)[:, :1000] * self.weight  # saves the images, not the weight
            return x * x  # saves x twice

    model = Twice()
    step = TrainingStep(replace(SMALL, batch=3), model, model)
    head = 3 * 1000 + 3 * 1000  # logarithms of the softmax, and x
    assert step.saved_bytes() == 4 * (3 * 3 * 32 * 32 + head) + 8 * 3 + 4  # labels, their weight


def test_records_survive_the_file(tmp_path) -> None:
    records = [one(), one(peak=None, rest=None, median=None, problem='a "b", c')]
    bench.append(tmp_path / "steps.csv", records)
    assert bench.read(tmp_path / "steps.csv", bench.StepRecord) == records
    with pytest.raises(FileError, match="columns"):
        bench.read(tmp_path / "steps.csv")


def _text(records: list[bench.StepRecord]) -> str:
    from rich.console import Console

    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        console.print(step_tables(records))
    return capture.get()


def test_the_table_fits_80_columns() -> None:
    slow = one(median=123.456, p20=100.123, p80=140.123, network="mobilenet_v2")
    text = _text([slow, replace(slow, peer="evenkeel-fused", median=61.728)])
    assert all(len(line.rstrip()) <= 80 for line in text.splitlines())
    assert "…" not in text
    assert "2.00x" in text
    assert "100 to 140" in text
    assert {"3.00", "2.00", "1.50"} <= set(text.split())  # peak, that of the step, saved


def test_without_torchvision_the_command_asks_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec

    def find_others(name: str, *rest: str) -> object:
        return None if name == "torchvision" else find(name, *rest)

    monkeypatch.setattr(importlib.util, "find_spec", find_others)
    result = CliRunner().invoke(app, ["bench-steps"])
    assert result.exit_code == 2
    assert result.stderr.rstrip().endswith("do:  pip install torchvision")


def test_a_network_that_is_not_known_is_refused() -> None:
    result = CliRunner().invoke(app, ["bench-steps", "--network", "resnet51"])
    assert result.exit_code == 2
    assert "mobilenet_v2" in result.stderr
