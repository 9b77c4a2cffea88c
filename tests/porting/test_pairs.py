"""Every two frameworks: ported networks train alike, and naive ports are found out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from ._pairs import PAIRS, backend_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "benchmarks" / "porting.py"
RESULTS = ROOT / "benchmarks" / "results" / "porting.json"
STAGES = {"inference"} | {
    f"{proof} {rule}" for proof in ("step by step", "free run") for rule in ("sgd", "adam")
}

pytestmark = pytest.mark.skipif(
    not RESULTS.is_file(), reason="the records stand in a checkout, not in an installation"
)


def naive_causes(source: str, target: str) -> set[str]:
    """What a port by numbers gets wrong between two frameworks."""
    if "torch" in (source, target):
        return {"momentum sense", "variance convention"}
    return {"eps"} if "flax (nnx)" in (source, target) else {"values"}


def check(record: dict[str, Any], steps: int) -> None:
    """Hold one record against what is promised."""
    pair = record["source"], record["target"]
    assert record["equal"] is True, record["causes"]
    assert record["proof"] is True
    assert record["steps"] == steps
    assert set(record["stages"]) == STAGES
    assert 0 < record["inference"]["ratio"] <= 4
    assert 0 < record["step_by_step"]["largest_share_of_bound"] <= 1
    assert 0 < record["free_run"]["largest_difference"] <= 1e-7
    assert record["naive"]["equal"] is False
    assert set(record["naive"]["causes"]) == naive_causes(*pair)
    by_file = all(name.startswith("keras") for name in pair)
    assert record["absorbed"] == ([] if by_file else ["right into right_norm"])


@pytest.fixture(scope="module")
def page() -> dict[str, Any]:
    return json.loads(RESULTS.read_text())


def test_the_benchmark_covers_every_pair_once(page: dict[str, Any]) -> None:
    pairs = [(record["source"], record["target"]) for record in page["pairs"]]
    assert len(pairs) == 20
    assert set(pairs) == set(PAIRS)


def test_every_pair_is_equal_over_20_steps_with_both_rules(page: dict[str, Any]) -> None:
    for record in page["pairs"]:
        check(record, 20)


def test_the_benchmark_says_where_it_ran(page: dict[str, Any]) -> None:
    assert {"torch", "keras", "tensorflow", "jax", "flax", "python"} <= page["versions"].keys()
    assert page["machine"]["cores"] > 0


def test_the_table_has_a_line_for_every_pair() -> None:
    command = [sys.executable, str(SCRIPT), "--table"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len({line.count("|") for line in lines}) == 1
    for source, target in PAIRS:
        assert sum(line.startswith(f"| {source} | {target} |") for line in lines) == 1


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("source", "target"), [pytest.param(*pair, id=" to ".join(pair)) for pair in PAIRS]
)
def test_a_ported_network_trains_as_its_source(source: str, target: str, tmp_path: Path) -> None:
    out = tmp_path / "record.json"
    command = [sys.executable, str(SCRIPT), "--write", str(out), "--steps", "2"]
    backend = backend_of(source, target) or "torch"
    done = subprocess.run(
        [*command, "--pair", source, target],
        env={**os.environ, "KERAS_BACKEND": backend, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    check(json.loads(out.read_text()), 2)


def test_the_guide_shows_the_records() -> None:
    done = subprocess.run(
        [sys.executable, SCRIPT, "--table"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
    )
    assert done.stdout.strip() in (ROOT / "docs" / "porting.md").read_text(encoding="utf-8")
