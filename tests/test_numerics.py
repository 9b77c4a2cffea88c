"""docs/numerics.md says what is true: its bounds hold, and its tables are those of the results."""

from __future__ import annotations

import importlib.util
import platform
import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).parents[1]
UNBUILT = find_spec("evenkeel._cpu") is None and not shutil.which("c++")
WITHOUT_COMPILER = pytest.mark.skipif(UNBUILT, reason="no C++ compiler, no extension")
PROVIDERS = ("aten", pytest.param("cpu", marks=WITHOUT_COMPILER), "reference")
#: Odd sizes, with more and with fewer channels than a vector has lanes; none is the benchmark's.
SHAPES = {
    "rows": ((301, 9), (1025, 3), (5, 33)),
    "contiguous": ((12, 9, 31), (3, 17, 7, 9), (2, 5, 3, 6, 11)),
    "channels_last": ((12, 9, 31), (3, 17, 7, 9), (2, 5, 3, 6, 11)),
}
LAYOUTS = [(layout, shape) for layout, shapes in SHAPES.items() for shape in shapes]


def load_script() -> Any:
    spec = importlib.util.spec_from_file_location("accuracy", ROOT / "benchmarks" / "accuracy.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


accuracy = load_script()


def constants(text: str) -> dict[str, dict[str, float]]:
    """Provider -> metric -> constant in units of u, as the document states them."""
    _, rest = text.split("<!-- constants: begin -->")
    table, _ = rest.split("<!-- constants: end -->")
    lines = [line for line in table.splitlines() if line.startswith("|")]
    head, _, *rows = [[cell.strip(" `s") for cell in line.split("|")[1:-1]] for line in lines]
    assert head[1:] == list(accuracy.METRICS)
    return {row[0]: dict(zip(head[1:], map(float, row[1:]), strict=True)) for row in rows}


CONSTANTS = constants(accuracy.DOCUMENT.read_text())


def in_units_of_u(errors: Any) -> dict[str, float]:
    """Every error in units of u, the relative ones too."""
    return {
        metric: getattr(errors, metric) / (accuracy.U if metric in {"output", "variance"} else 1)
        for metric in accuracy.METRICS
    }


def test_tables_are_those_of_the_results() -> None:
    document = accuracy.DOCUMENT.read_text()
    assert accuracy.put(accuracy.tables(accuracy.read()), document) == document


def test_results_are_complete_and_name_no_machine() -> None:
    records = accuracy.read()
    wanted = {
        (name, layout, str(len(shape)), values)
        for layout, shapes in accuracy.SHAPES.items()
        for shape in shapes
        for values in accuracy.VALUES
        for name in accuracy.IMPLEMENTATIONS
        if name != "torch.compile" or len(shape) in accuracy.COMPILED_RANKS
    }
    keys = ("implementation", "layout", "rank", "values")
    assert {tuple(record[key] for key in keys) for record in records} == wanted
    text = accuracy.RESULTS.read_text()
    assert not platform.node() or platform.node() not in text
    assert not re.search(r"/(home|root|tmp|work)/", text)


def test_committed_results_keep_the_promise() -> None:
    for record in accuracy.read():
        if record["implementation"].startswith("evenkeel"):
            assert float(record["output"]) <= accuracy.LARGEST_ERROR, record
            assert float(record["variance"]) <= accuracy.LARGEST_ERROR, record
            assert max(float(record[name]) for name in ("dgamma", "dbeta", "dx")) <= 16, record


def test_stated_constants_are_within_promise_1() -> None:
    assert set(CONSTANTS) == {"aten", "cpu", "reference"}
    for stated in CONSTANTS.values():
        assert max(stated["output"], stated["variance"]) * 2**-24 <= 1e-6
        assert max(stated["dgamma"], stated["dbeta"], stated["dx"]) <= 16


@pytest.mark.parametrize(("layout", "shape"), LAYOUTS, ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_layers_stay_within_the_stated_constants(
    provider: str, layout: str, shape: tuple[int, ...]
) -> None:
    step = accuracy.evenkeel_step(provider, shape)
    for values in accuracy.VALUES:
        for offset in (0.0, 100.0):  # the second makes dx and d gamma cancel
            batch = accuracy.make_batch(shape, layout, values)
            batch = batch._replace(dy=batch.dy + offset)
            got = in_units_of_u(accuracy.errors(step(batch), batch))
            for metric, allowed in CONSTANTS[provider].items():
                assert got[metric] <= allowed, (values, offset, metric)


@pytest.mark.parametrize("shape", accuracy.SHAPES["channels_last"][1:], ids=str)
@pytest.mark.parametrize("provider", PROVIDERS)
def test_torch_is_a_hundred_times_less_exact_in_channels_last(
    provider: str, shape: tuple[int, ...]
) -> None:
    batch = accuracy.make_batch(shape, "channels_last", "mean/std 1e4")
    torchs = accuracy.errors(accuracy.torch_step(shape)(batch), batch)
    ours = accuracy.errors(accuracy.evenkeel_step(provider, shape)(batch), batch)
    assert torchs.output >= 100 * ours.output
    assert torchs.dgamma >= 100 * ours.dgamma
    assert torchs.dx >= 100 * ours.dx


def test_figures_do_not_depend_on_the_run() -> None:
    shape = accuracy.SHAPES["rows"][0]
    first, second = (accuracy.make_batch(shape, "rows", "mean/std 1e6") for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    step = accuracy.evenkeel_step("aten", shape)
    assert accuracy.errors(step(first), first) == accuracy.errors(step(second), second)


@pytest.mark.parametrize("metric", accuracy.METRICS)
def test_the_measure_sees_a_small_fault_and_nan(metric: str) -> None:
    shape = (64, 4)
    batch = accuracy.make_batch(shape, "rows", "mean/std 1e4")
    step = accuracy.evenkeel_step("reference", shape)(batch)
    limit = 1e-6 if metric in {"output", "variance"} else 16
    assert getattr(accuracy.errors(step, batch), metric) <= limit
    exact = getattr(step, metric)
    for fault in (exact * (1 + 1e-4), exact * float("nan")):
        wrong = accuracy.errors(step._replace(**{metric: fault}), batch)
        assert getattr(wrong, metric) > limit
        others = [name for name in accuracy.METRICS if name != metric]
        assert all(getattr(wrong, n) == getattr(accuracy.errors(step, batch), n) for n in others)
