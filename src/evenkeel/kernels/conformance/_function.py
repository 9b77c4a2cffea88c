"""Judge any differentiable batch norm, whatever framework's arithmetic stands behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evenkeel.kernels.conformance._law import law_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray
    from torch import Tensor

    from evenkeel.kernels.conformance._cases import Case


def check_function(
    function: Callable[[Tensor, Tensor | None, Tensor | None, float], Tensor], case: Case
) -> dict[str, float]:
    """Error over bound of output and gradients in training mode; above 1 the bound is broken.

    Args:
        function: ``f(x, weight, bias, eps) -> y``, batch statistics, differentiable by torch;
            ``x`` is the canonical view (N, C, S), ``weight`` and ``bias`` are (C,) or None.
        case: a case without mask, residual and activation.

    Returns:
        Largest ratio of error to bound under ``"y"``, ``"dx"``, ``"dweight"``, ``"dbias"``;
        infinite where a result is NaN and the law is not.
    """
    law = law_of(case)
    inputs = law.inputs
    x = inputs.x.detach().clone().requires_grad_()
    weight, bias = (
        None if t is None else t.detach().clone().requires_grad_()
        for t in (inputs.weight, inputs.bias)
    )
    y = function(x, weight, bias, inputs.eps)
    leaves = {n: t for n, t in (("dx", x), ("dweight", weight), ("dbias", bias)) if t is not None}
    gradients = torch.autograd.grad(y, list(leaves.values()), law.dy_tensor)
    results = {"y": y.detach(), **dict(zip(leaves, gradients, strict=True))}
    with np.errstate(all="ignore"):
        want = {
            "y": (law.y, law.y_bound),
            "dx": (law.training_gradients[0], law.training_dx_bound),
            "dweight": (law.sums.dz_xhat, law.dz_xhat_sum_bound),
            "dbias": (law.sums.dz, law.dz_sum_bound),
        }
        return {name: _ratio(results[name], *want[name]) for name in results}


def _ratio(got: Tensor, want: NDArray[Any], bound: NDArray[Any]) -> float:
    error = np.abs(got.double().numpy() - want)
    error = np.where(np.isnan(error), np.inf, error)
    ratio = np.where(error == 0, 0.0, error / bound)
    return float(ratio.max(initial=0.0))
