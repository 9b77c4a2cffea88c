"""The list of exclusions names nothing but what it may, and every other case runs."""

from __future__ import annotations

import ast
from collections import Counter
from pathlib import Path

import pytest
import torch
from torch.testing._internal.common_nn import get_new_module_tests, module_tests

from ._adapters import OURS
from ._samples import MODULES, OPS, module_cases, op_cases, state_cases
from .exclusions import DEVIATIONS, EXCLUSIONS, GPU, GPU_ONLY, TORCH_MODULE_TESTS, reasons

HERE = Path(__file__).parent


def test_only_gpu_cases_and_the_three_deviations_are_excluded() -> None:
    assert [exclusion.reason for exclusion in EXCLUSIONS] == list(DEVIATIONS)
    assert len(DEVIATIONS) == 3
    assert all(reason.startswith("deviation: ") for reason in DEVIATIONS)
    assert set(GPU_ONLY.values()) == {GPU}


def _gpu_only(suite: str) -> set[str]:
    return {name.removeprefix(suite) for name in GPU_ONLY if name.startswith(suite)}


def test_every_test_of_torchs_modules_is_here_or_gpu_only() -> None:
    defined = {
        node.name
        for path in HERE.glob("test_*.py")
        for node in ast.parse(path.read_text()).body
        if isinstance(node, ast.FunctionDef)
    }
    assert set(TORCH_MODULE_TESTS) == (set(TORCH_MODULE_TESTS) & defined) | _gpu_only("module_db: ")
    assert not defined & _gpu_only("module_db: ")


def test_every_op_entry_runs_or_is_gpu_only() -> None:
    gpu_only = _gpu_only("op_db: ")
    assert OPS.keys() == OURS.keys() | gpu_only
    for name in gpu_only:
        assert not OPS[name].supported_dtypes("cpu")
        assert OPS[name].supported_dtypes("cuda")


def test_every_op_entry_has_samples_in_every_cpu_dtype() -> None:
    counts = Counter((case.entry, case.dtype) for case in op_cases())
    for name in OURS:
        dtypes = OPS[name].supported_dtypes("cpu")
        assert dtypes == {torch.float16, torch.bfloat16, torch.float32, torch.float64}
        assert len({counts[name, dtype] for dtype in dtypes}) == 1
        assert counts[name, torch.float32] == len(
            list(OPS[name].sample_inputs("cpu", torch.float32))
        )
        assert counts[name, torch.float32] > 0


def test_every_module_entry_runs_in_both_modes_and_every_dtype() -> None:
    assert MODULES.keys() == {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}
    counts = Counter((c.name, c.lazy, c.training, c.dtype) for c in module_cases())
    for name, info in MODULES.items():
        inputs = info.module_inputs_func(info, "cpu", torch.float32, False, True)
        for lazy in (False, True):
            for training in (False, True):
                for dtype in info.supported_dtypes("cpu"):
                    assert counts[name, lazy, training, dtype] == len(inputs) > 0


def test_every_exclusion_is_in_use_and_most_cases_are_not_excluded() -> None:
    cases = state_cases()
    used = Counter(reason for case in cases for reason in reasons(case))
    assert used.keys() == set(DEVIATIONS)
    own = [c for c in cases if c.module.dtype not in (torch.bfloat16, torch.float16)]
    own = [c for c in own if not c.poisoned]
    # Of torch's own inputs, only the empty batches in training deviate: one a class and dtype.
    assert sum(bool(reasons(case)) for case in own) == 2 * len(MODULES)


def test_common_nn_holds_no_batch_norm() -> None:
    """torch moved these into `module_db`; should a release bring some back, they belong here."""
    entries = [*module_tests, *get_new_module_tests()]
    assert entries
    assert not [e for e in entries if "BatchNorm" in str(e.get("module_name", e.get("fullname")))]


def test_sync_batch_norm_is_no_entry() -> None:
    """It needs several processes; torch tests it in test/distributed."""
    assert "SyncBatchNorm" not in MODULES


FORBIDDEN = {"skip", "skipif", "xfail", "importorskip", "skipTest"}


@pytest.mark.parametrize("path", sorted(HERE.glob("*.py")), ids=lambda path: path.name)
def test_nothing_is_skipped_in_the_source(path: Path) -> None:
    names = {
        node.attr
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute)
    }
    assert not names & FORBIDDEN
