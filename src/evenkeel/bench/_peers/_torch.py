"""Torch: the layer, the sum and the activation in place, eagerly or through torch.compile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from evenkeel.bench._peers._tensors import activation_layer, stepper, torch_layer

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor

    from evenkeel.bench._cases import Case


def prepare(case: Case, variant: str) -> Callable[[], None]:
    """One step of the case."""
    norm, activation = torch_layer(case), activation_layer(case)

    def call(x: Tensor, residual: Tensor | None) -> Tensor:
        y = norm(x)
        if residual is not None:
            y += residual
        return activation(y)

    if variant == "compiled":
        torch.compiler.reset()
        return stepper(case, torch.compile(call, dynamic=False))
    return stepper(case, call)
