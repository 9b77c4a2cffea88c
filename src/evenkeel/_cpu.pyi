"""
Batch-norm kernels for the CPU, called by evenkeel.kernels._providers._cpu alone.
"""

from collections.abc import Sequence


def isas() -> list[str]:
    """Instruction sets that can run here, best first."""

def isa() -> str:
    """The instruction set in use."""

def select(isa: str) -> bool:
    """Use an instruction set; False when it is not available."""

def moments(dtype: int, shape: Sequence[int], x: Sequence[int], mask: Sequence[int] | None, out: Sequence[int], threads: int) -> None: ...

def normalize(dtype: int, shape: Sequence[int], x: Sequence[int], y: Sequence[int], norm: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, float, int, float], residual: Sequence[int] | None, mask: Sequence[int] | None, threads: int) -> None: ...

def backward_reduce(dtype: int, shape: Sequence[int], dy: Sequence[int], x: Sequence[int], norm: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, float, int, float], residual: Sequence[int] | None, mask: Sequence[int] | None, out: Sequence[int], threads: int) -> None: ...

def backward_input(dtype: int, shape: Sequence[int], dy: Sequence[int], x: Sequence[int], norm: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, float, int, float], sums: Sequence[Sequence[int]] | None, count: int, residual: Sequence[int] | None, mask: Sequence[int] | None, dx: Sequence[int], dresidual: Sequence[int] | None, threads: int) -> None: ...

def forward(dtype: int, shape: Sequence[int], x: Sequence[int], y: Sequence[int], norm: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, float, int, float], residual: Sequence[int] | None, mask: Sequence[int] | None, threads: int) -> None: ...

def backward(dtype: int, shape: Sequence[int], dy: Sequence[int], x: Sequence[int], norm: tuple[Sequence[int], Sequence[int], Sequence[int], Sequence[int] | None, Sequence[int] | None, float, int, float], count: int, residual: Sequence[int] | None, mask: Sequence[int] | None, out: Sequence[int], dx: Sequence[int], dresidual: Sequence[int] | None, threads: int) -> None: ...
