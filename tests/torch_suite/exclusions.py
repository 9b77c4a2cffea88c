"""What is excluded from torch's own tests of batch normalization, and why: nothing else.

An excluded case is a GPU-only one, or one of the three deviations from torch that evenkeel
documents. A deviating case has to differ outside of `evenkeel.nn.strict_torch()`, else it
would not be excluded, and has to pass inside.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from ._samples import HALF

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._samples import StateCase

GPU: Final = "GPU-only: torch runs it on CUDA devices alone"
NONFINITE: Final = "deviation: a non-finite batch does not enter the running statistics"
EMPTY: Final = "deviation: an empty batch changes nothing, not the counter either"
FLOAT32: Final = "deviation: statistics stay float32 in a 16-bit layer"
DEVIATIONS: Final = (NONFINITE, EMPTY, FLOAT32)

#: Entries and tests that torch itself runs on GPUs alone.
GPU_ONLY: Final = {
    "op_db: nn.functional.batch_norm.without_cudnn": GPU,
    "module_db: test_multiple_device_transfer": GPU,
    "module_db: test_cpu_gpu_parity": GPU,
}

#: The tests of TestModule in PyTorch's test/test_modules.py, by name.
TORCH_MODULE_TESTS: Final = (
    "test_forward",
    "test_factory_kwargs",
    "test_multiple_device_transfer",
    "test_repr",
    "test_save_load",
    "test_pickle",
    "test_check_inplace",
    "test_non_contiguous_tensors",
    "test_grad",
    "test_gradgrad",
    "test_cpu_gpu_parity",
    "test_memory_format",
    "test_if_train_and_eval_modes_differ",
    "test_device_ctx_init",
    "test_to",
    "test_to_empty",
    "test_errors",
)


@dataclass(frozen=True)
class Exclusion:
    """Cases of test_state_after_training that deviate by design."""

    reason: str
    applies: Callable[[StateCase], bool]


def _tracks(case: StateCase) -> bool:
    return "not_tracking_stats" not in case.module.desc


EXCLUSIONS: Final = (
    Exclusion(NONFINITE, lambda case: case.poisoned and case.module.training and _tracks(case)),
    Exclusion(EMPTY, lambda case: case.module.desc == "zero_batch" and case.module.training),
    Exclusion(FLOAT32, lambda case: case.module.dtype in HALF and _tracks(case)),
)


def reasons(case: StateCase) -> list[str]:
    """Why a case is excluded; empty where it has to agree with torch as it is."""
    return [exclusion.reason for exclusion in EXCLUSIONS if exclusion.applies(case)]
