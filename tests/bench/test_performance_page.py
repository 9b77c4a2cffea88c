"""README and docs/performance.md show the committed timings, and say what is slower."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest

from evenkeel import bench
from evenkeel.bench import _page

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(
    not (ROOT / "benchmarks").is_dir(), reason="the timings are in a checkout"
)


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location(
        "performance", ROOT / "benchmarks" / "performance.py"
    )
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def one(**changes: object) -> bench.Record:
    setting = bench.Setting(
        date="2026-01-01T00:00:00+00:00",
        commit="abc",
        machine="a processor, 2 cores",
        threads=2,
        huge_pages=False,
        versions="torch 2",
    )
    case = bench.Case(suite="resnet50", shape=(32, 8, 3, 3), activation="relu", count=3)
    return replace(
        bench.record(bench.Timing(case, "evenkeel", 1.0, 1.0, 1.0, 3), setting), **changes
    )


def step(**changes: object) -> bench.StepRecord:
    timing = bench.Timing(bench.Network(name="resnet50"), "torch", 3.0, 2.9, 3.1, 5)
    memory = bench.Memory(peak=3 * 10**9, rest=10**9, source="VmHWM", saved=15 * 10**8)
    return replace(bench.step_record(timing, memory, one()), **changes)


def test_readme_and_page_are_those_of_the_committed_timings(script) -> None:
    records = script.sites()
    for path, text in (
        (ROOT / "README.md", script.readme(records)),
        (ROOT / "docs" / "performance.md", script.page(records, script.steps())),
    ):
        document = path.read_text(encoding="utf-8")
        assert text.count("\n") >= 5
        assert script.put(document, text) == document, "run `make performance`"


def test_the_pictures_are_those_of_the_committed_timings(script) -> None:
    figures = _page.figures(script.usual(script.sites()))
    assert figures
    expected = {
        f"{figure.name}-{mode}.svg": script.digest(figure)
        for figure in figures
        for mode in ("light", "dark")
    }
    found = {
        path.name: path.read_text(encoding="utf-8").splitlines(keepends=True)[-1]
        for path in script.IMAGES.glob("*.svg")
    }
    assert found == expected, "run `make performance`"


def test_a_figure_with_other_numbers_has_another_digest(script) -> None:
    floor = one(peer="floor", median=0.5)
    (first,) = _page.figures([one(), floor])
    (second,) = _page.figures([one(median=1.01), floor])
    assert script.digest(first) != script.digest(second)


def test_what_is_slower_is_listed_with_the_worst_first(script) -> None:
    sites = [one(shape=name, median=time) for name, time in (("a", 2.0), ("b", 3.0), ("c", 1.04))]
    theirs = [replace(site, peer="torch", median=1.0) for site in sites]
    head, _, _, _, *rows = script.slower([*sites, *theirs])
    assert head == "evenkeel's median is more than 5 % above torch's in 2 of 3 cases:"
    assert [row.split(" | ")[1].split()[0] for row in rows] == ["b", "a"]
    assert [row.split(" | ")[-1] for row in rows] == ["3.00 |", "2.00 |"]
    assert script.slower([sites[2], theirs[2]]) == [
        "evenkeel's median is more than 5 % above torch's in 0 of 1 cases."
    ]


def test_ratios_are_means_for_peers_and_of_sums_for_the_floor(script) -> None:
    sites = [one(shape="a", count=1), one(shape="b", count=1, median=2.0)]
    records = [*sites, *(replace(site, peer=peer) for peer in ("torch", "floor") for site in sites)]
    records[2] = replace(records[2], median=4.0)
    records[4] = replace(records[4], median=0.25)
    *_, row = script.ratio_table(records)
    # means 4 and 1: 2; sums (0.25 + 2) / (1 + 2)
    assert row == "| `resnet50` | first | 2 | 2.00 | 0.75 |"


def test_steps_are_compared_with_torch_and_failures_are_told(script) -> None:
    failed = step(peer="compile", median=None, p20=None, p80=None, problem="no answer in 9 s")
    table = script.step_table([step(), step(peer="evenkeel", median=2.0, saved=10**9), failed])
    assert "| torch | 3 | 2.9 to 3.1 | 1.00 | 3.00 | 2.00 | 1.50 |" in table
    assert "| evenkeel | 2 | 2.9 to 3.1 | 1.50 | 3.00 | 2.00 | 1.00 |" in table
    assert table.endswith("compile: no answer in 9 s.")
    records = [one(), one(peer="torch"), one(peer="floor")]
    assert table in script.page(
        records, [step(), step(peer="evenkeel", median=2.0, saved=10**9), failed]
    )


def test_groups_stand_in_the_order_of_the_bench_whichever_was_timed_last(script) -> None:
    groups = [
        one(suite="other"),
        one(mode="forward"),
        one(dtype="bfloat16"),
        one(layout="last"),
        one(suite="densenet121"),
        one(),
    ]
    ordered = script.in_order(groups)
    assert ordered == [groups[i] for i in (5, 3, 1, 2, 4, 0)]
    sites = [one(shape="32x9x3x3"), one()]
    assert script.in_order(sites) == sites
