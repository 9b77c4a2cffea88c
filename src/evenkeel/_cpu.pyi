"""
Batch-norm kernels for the CPU, called by evenkeel.kernels._providers._cpu alone.
"""



def isas() -> list[str]:
    """Instruction sets that can run here, best first."""

def isa() -> str:
    """The instruction set in use."""

def select(isa: str) -> bool:
    """Use an instruction set; False when it is not available."""

def use_exchange(capsule: object | None) -> bool:
    """Read tensors through DLPack's C interface, or by attributes (None)."""

def moments(x: object, mask: object | None, copied: bool, threads: int) -> tuple[object, ...]: ...

def normalize(x: object, norm: tuple[object, ...], activation: int, parameter: float, residual: object | None, mask: object | None, copied: bool, threads: int) -> tuple[object, ...]: ...

def backward_reduce(dy: object, x: object, norm: tuple[object, ...], activation: int, parameter: float, residual: object | None, mask: object | None, copied: bool, threads: int) -> tuple[object, ...]: ...

def backward_input(dy: object, x: object, norm: tuple[object, ...], activation: int, parameter: float, residual: object | None, mask: object | None, dz: object | None, dz_xhat: object | None, count: int, copied: bool, threads: int) -> tuple[object, ...]: ...

def forward(x: object, weight: object | None, bias: object | None, eps: float, activation: int, parameter: float, residual: object | None, mask: object | None, out: object | None, copied: bool, threads: int) -> tuple[object, ...]: ...

def backward(dy: object, x: object, norm: tuple[object, ...], activation: int, parameter: float, residual: object | None, mask: object | None, count: int | None, copied: bool, threads: int) -> tuple[object, ...]: ...

def train(x: object, weight: object | None, bias: object | None, eps: float, activation: int, parameter: float, residual: object | None, running_mean: object | None, running_var: object | None, batches: object | None, biased: bool, momentum: float | None, only_finite: bool, threads: int) -> tuple[object, ...]:
    """
    A training step in float32: y, (mean, mean_lo, var) in one, whether the batch entered.
    """

def enter(running_mean: object, running_var: object, batches: object | None, mean: object, var: object, correction: float, momentum: float | None, only_finite: bool) -> bool:
    """
    Move running statistics towards those of a batch; False where it holds NaN or Inf.
    """
