"""The tensors of a case for the peers that run on torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evenkeel.bench._cases import Case

_DTYPES: Final = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_FORMATS: Final = {4: torch.channels_last, 5: torch.channels_last_3d}
_FRESH: Final[dict[str, Callable[[], nn.Module]]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "relu6": lambda: nn.ReLU6(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(inplace=True),
    "silu": lambda: nn.SiLU(inplace=True),
    "gelu": nn.GELU,
    "hardswish": lambda: nn.Hardswish(inplace=True),
    "elu": lambda: nn.ELU(inplace=True),
}


@dataclass(frozen=True, slots=True)
class Tensors:
    """Inputs and the gradient of the output."""

    x: Tensor
    dy: Tensor
    residual: Tensor | None


def tensors_of(case: Case) -> Tensors:
    """Random values with the case's shape, layout and dtype."""
    torch.manual_seed(0)
    trained = case.mode == "forward+backward"

    def fresh() -> Tensor:
        x = torch.randn(case.shape).to(_DTYPES[case.dtype])
        if case.layout == "last" and x.dim() in _FORMATS:
            return x.to(memory_format=_FORMATS[x.dim()])
        return x.transpose(1, 2).contiguous().transpose(1, 2) if _is_last(case) else x

    residual = fresh().requires_grad_(trained) if case.residual else None
    return Tensors(fresh().requires_grad_(trained), fresh(), residual)


def _is_last(case: Case) -> bool:
    return case.layout == "last" and len(case.shape) == 3


def torch_layer(case: Case) -> nn.Module:
    """Torch's own layer for the rank of the shape."""
    kind: Any = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
    return kind[len(case.shape)](case.shape[1])


def activation_layer(case: Case) -> nn.Module:
    """Torch's own activation, in place where torch can, as users write it."""
    return nn.Identity() if case.activation == "identity" else _FRESH[case.activation]()


def stepper(case: Case, call: Callable[[Tensor, Tensor | None], Tensor]) -> Callable[[], None]:
    """Run ``call`` on fixed inputs, forward and, where the case has it, backward."""
    data = tensors_of(case)

    def forward() -> None:
        with torch.no_grad():
            call(data.x, data.residual)

    def both() -> None:
        data.x.grad = None
        if data.residual is not None:
            data.residual.grad = None
        call(data.x, data.residual).backward(data.dy)

    return forward if case.mode == "forward" else both
