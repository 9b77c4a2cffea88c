"""Batch norm as a pure function: nothing is written, new statistics are returned."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

from evenkeel.errors import InputError, explain
from evenkeel.nn import _checks
from evenkeel.nn._composite import normalize_running
from evenkeel.nn._statistics import (
    POLICIES,
    VARIANCES,
    Policy,
    Rule,
    Running,
    Variance,
    refuse_nonfinite,
    updated,
)
from evenkeel.nn._strict import is_strict
from evenkeel.nn.ops import normalize_batch
from evenkeel.spec import Activation

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["BatchNormResult", "batch_norm"]


class BatchNormResult(NamedTuple):
    """Output and new running statistics; the statistics are None where none were given."""

    output: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    variance: Variance = "unbiased",
    nonfinite: Policy = "skip",
    activation: str | tuple[str, float] | Activation | None = None,
    residual: Tensor | None = None,
    mask: Tensor | None = None,
) -> BatchNormResult:
    """Normalize, and return the output with the new running statistics, eq. (1) to (6).

    The positional arguments are those of ``torch.nn.functional.batch_norm``, which writes into
    the running statistics; this form does not, and so works under ``torch.func.grad``,
    ``vmap``, ``jvp`` and ``hessian``.

    Args:
        input: ``(N, C, *S)``, floating.
        running_mean: ``(C,)`` or None.
        running_var: ``(C,)`` or None.
        weight: gamma ``(C,)`` or None for 1.
        bias: beta ``(C,)`` or None for 0.
        training: normalize with the batch (True) or with the running statistics.
        momentum: weight of the *new* value, eq. (6); ``1 / t`` at the t-th batch gives the
            average over all batches, eq. (8).
        eps: added to the variance, under the root.
        variance: the estimate that the running variance holds, eq. (16).
        nonfinite: "skip" returns the old statistics after a batch with NaN or Inf; "propagate"
            lets it in; "raise" raises (not under a transform or a compiler).
        activation: as for :class:`evenkeel.nn.BatchNormAct2d`.
        residual: like ``input``; added before the activation.
        mask: bool ``(N, *S)``, True = keep.

    Raises:
        InputError: ``training=False`` without running statistics, or an unknown setting.
        ShapeError, ChannelError, DTypeError: as :class:`evenkeel.nn.BatchNorm2d` raises them.

    Example:
        >>> import torch
        >>> from evenkeel.nn.functional import batch_norm
        >>> x = torch.tensor([[0.0], [2.0]])
        >>> batch_norm(x, torch.zeros(1), torch.ones(1), training=True).running_mean
        tensor([0.1000])
    """
    _checks.check_tensor(input, "input", _name)
    if input.dim() == 1 and input.numel() == 0:  # as torch, which lets an empty vector through
        return BatchNormResult(input.clone(), running_mean, running_var)
    _checks.check_rank(input, (2, 3, 4, 5), _name)
    _checks.check_dtype(input, (weight, bias), _name)
    _checks.check_channels(input, (running_mean, running_var, weight, bias), _name)
    _checks.check_residual(input, residual, _name)
    _checks.check_mask(input, mask, _name)
    _checks.check_choice("variance", variance, VARIANCES, _name)
    _checks.check_choice("nonfinite", nonfinite, POLICIES, _name)
    how = Activation.parse(activation)
    policy = "propagate" if is_strict() else nonfinite
    if momentum is None:  # pyright: ignore[reportUnnecessaryComparison] - as a layer would say it
        raise InputError(_needs_momentum())
    if not training:
        if running_mean is None or running_var is None:
            raise InputError(_needs_statistics())
        statistics = running_mean, running_var
        y = normalize_running(input, *statistics, weight, bias, eps, how, residual, mask)
        return BatchNormResult(y, running_mean, running_var)
    _checks.check_eps(eps, _name)
    _checks.check_enough_values(input, _name)
    y, moments = normalize_batch(input, weight, bias, eps, how, residual, mask)
    if policy == "raise":
        refuse_nonfinite(moments, _name)
    if running_mean is None or running_var is None:
        return BatchNormResult(y, running_mean, running_var)
    with torch.no_grad():
        uncounted = torch.zeros((), dtype=torch.int64, device=running_mean.device)
        running = Running(running_mean, running_var, None, uncounted)
        new = updated(running, moments, Rule(momentum, variance, policy))
    return BatchNormResult(y, new.mean, new.var)


def _name() -> str:
    return "functional.batch_norm"


def _needs_momentum() -> str:
    return explain(
        asked="functional.batch_norm with momentum=None",
        got="no number of batches to average over",
        why="a pure function has no counter",
        do="pass momentum=1 / t at the t-th batch for the average over all batches",
    )


def _needs_statistics() -> str:
    return explain(
        asked="functional.batch_norm with training=False",
        got="running_mean or running_var of None",
        why="inference normalizes with the running statistics",
        do="pass both, or training=True to normalize with the batch",
    )
