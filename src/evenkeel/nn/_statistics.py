"""How a batch enters the running statistics: which batches may, and by which rule.

The commit is its own operation. When torch compiles it is the custom op ``evenkeel::commit``;
the guard against recomputation stands inside it and asks at run time, since a question asked
in Python while tracing would be answered once and for all.
"""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

import torch
from torch import Tensor

from evenkeel.errors import NonFiniteError, NonFiniteWarning, TransformError, explain
from evenkeel.kernels import Moments, select
from evenkeel.nn._torch_state import (
    backward_running,
    dispatch_mode_active,
    has_no_values,
    ordinary,
    transforms_active,
)

if TYPE_CHECKING:
    from evenkeel.nn._checks import Name

Policy = Literal["skip", "propagate", "raise"]
Variance = Literal["unbiased", "biased"]
POLICIES: Final = ("skip", "propagate", "raise")
VARIANCES: Final = ("unbiased", "biased")
_CALLER: Final = 8  # frames from a warning here to the line that called the layer


class Running(NamedTuple):
    """The tensors that a commit writes: statistics ``(C,)``, both counters int64 ``()``."""

    mean: Tensor
    var: Tensor
    batches: Tensor | None
    skipped: Tensor


class Rule(NamedTuple):
    """How a batch enters: eq. (6) with ``momentum`` weighing the new value, or eq. (8) if None."""

    momentum: float | None
    variance: Variance
    nonfinite: Policy
    count_empty: bool = False


def commit(running: Running, batch: Moments, rule: Rule, layer: Name) -> bool:
    """Let one batch enter the running statistics, in place.

    A batch enters if it has at least two values per channel and, unless the policy is
    "propagate", only finite statistics; the decision is one for all channels. Nothing happens
    while a checkpointed forward pass is being recomputed.

    Returns:
        Whether a warning was given; where the statistics stay on a device, nobody knows yet.

    Raises:
        NonFiniteError: the policy is "raise" and a statistic is NaN or Inf.
        TransformError: the statistics cannot be written under the functorch transform.
    """
    if ordinary() and batch.mean.is_cpu and type(batch.mean) is Tensor:
        return _commit_on_host(running, batch, rule, layer)
    with torch.no_grad():
        if torch.compiler.is_compiling() or dispatch_mode_active():
            if rule.nonfinite == "raise":
                raise TransformError(_raise_is_eager(layer))
            count = count_on(batch, batch.mean.device)
            torch.ops.evenkeel.commit(*running, count, batch.mean, batch.var, *rule)
        elif transforms_active():
            _commit_under_transform(running, batch, rule, layer)
        else:
            _commit_on_device(running, batch, rule)
    return False


def updated(running: Running, batch: Moments, rule: Rule) -> Running:
    """The running statistics after a batch, as new tensors; asks the device for nothing."""
    finite = torch.isfinite(batch.mean).all() & torch.isfinite(batch.var).all()
    enough = count_on(batch, batch.mean.device) >= 2
    enters = enough if rule.nonfinite == "propagate" else enough & finite
    counted = enters | ~enough if rule.count_empty else enters
    batches = None if running.batches is None else running.batches + counted
    wide = torch.promote_types(running.mean.dtype, batch.mean.dtype)
    factor = _factor(rule, batches, wide)
    pairs = ((running.mean, batch.mean), (running.var, _stored(batch, rule)))
    mean, var = (
        # In the wider of the two dtypes, so that 16-bit statistics are rounded once.
        torch.where(enters, (old + factor * (new - old)).to(old.dtype), old)
        for old, new in pairs
    )
    left_out = (enough & ~finite).to(running.skipped.device)
    return Running(mean, var, batches, running.skipped + left_out)


def count_on(batch: Moments, device: torch.device) -> Tensor:
    """The count as a tensor on a device, without waiting for it."""
    if isinstance(batch.count, int):
        return torch.full((), batch.count, dtype=torch.int64, device=device)
    return batch.count


def _factor(rule: Rule, batches: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Weight of the new value: momentum, or one over the number of batches, eq. (8)."""
    if rule.momentum is not None:
        return torch.tensor(rule.momentum, dtype=dtype)
    if batches is None:  # torch's own reading of momentum=None without a counter
        return torch.zeros((), dtype=dtype)
    return batches.clamp(min=1).to(dtype).reciprocal()


def _stored(batch: Moments, rule: Rule) -> Tensor:
    """Variance as the layer stores it, eq. (16)."""
    if rule.variance == "biased":
        return batch.var
    if isinstance(batch.count, int):
        return batch.var * (batch.count / max(batch.count - 1, 1))
    return batch.var * (batch.count / (batch.count - 1).clamp(min=1)).to(batch.var.dtype)


def _commit_on_device(running: Running, batch: Moments, rule: Rule) -> None:
    if backward_running():
        return
    for old, new in zip(running, updated(running, batch, rule), strict=True):
        if old is not None and new is not None:
            old.copy_(new)


def _commit_on_host(running: Running, batch: Moments, rule: Rule, layer: Name) -> bool:
    """The same rule where asking for a value costs nothing: one call of the kernels."""
    if backward_running():
        return False
    count = int(batch.count)
    if count < 2:
        if rule.count_empty and running.batches is not None:
            running.batches.add_(1)
        return False
    correction = 1.0 if rule.variance == "biased" else count / (count - 1)
    only_finite = rule.nonfinite != "propagate"
    update = select(batch.mean).update_running
    if update(*running[:3], batch, rule.momentum, correction, only_finite=only_finite):
        return False
    running.skipped.add_(1)
    if rule.nonfinite == "raise":
        raise NonFiniteError(_nonfinite_message(layer, batch))
    if int(running.skipped) == 1:
        warnings.warn(_skipped_message(layer, 1), NonFiniteWarning, stacklevel=_CALLER)
        return True
    return False


def refuse_nonfinite(batch: Moments, layer: Name) -> None:
    """Raise NonFiniteError where a statistic of the batch is NaN or Inf; eager only."""
    if torch.compiler.is_compiling() or transforms_active():
        raise TransformError(_raise_is_eager(layer))
    if not bool(torch.isfinite(batch.mean).all() & torch.isfinite(batch.var).all()):
        raise NonFiniteError(_nonfinite_message(layer, batch))


def _commit_under_transform(running: Running, batch: Moments, rule: Rule, layer: Name) -> None:
    if backward_running():
        return
    # The counter is no buffer, so it is always captured: batches are not counted here.
    own = running._replace(skipped=torch.zeros((), dtype=torch.int64, device=batch.mean.device))
    try:
        for old, new in zip(running[:3], updated(own, batch, rule)[:3], strict=True):
            if old is not None and new is not None:
                old.copy_(new)
    except RuntimeError as error:
        message = explain(
            asked=f"{layer()}: a training-mode forward pass under a torch.func transform",
            got="running statistics that were captured from outside the transform",
            why=f"torch cannot write into a captured tensor there ({str(error).splitlines()[0]})",
            do="call .eval(), set track_running_stats=False, or use evenkeel.nn.functional."
            "batch_norm, which returns the new statistics",
        )
        raise TransformError(message) from error


@torch.library.custom_op(
    "evenkeel::commit",
    mutates_args=("running_mean", "running_var", "batches", "skipped"),
)
def _commit_op(
    running_mean: Tensor,
    running_var: Tensor,
    batches: Tensor | None,
    skipped: Tensor,
    count: Tensor,
    mean: Tensor,
    var: Tensor,
    momentum: float | None,
    variance: str,
    nonfinite: str,
    count_empty: bool,
) -> None:
    batch = Moments(count, mean, torch.zeros_like(mean), var)
    rule = Rule(momentum, variance, nonfinite, count_empty)  # type: ignore[arg-type] - the schema has plain strings
    _commit_on_device(Running(running_mean, running_var, batches, skipped), batch, rule)


@_commit_op.register_fake
def _(*_: object) -> None:
    """Only its inputs change."""


def report_skipped(skipped: Tensor, reported: int, layer: Name) -> int:
    """Warn of batches that a compiled or device commit kept out; returns how many there are."""
    total = 0 if has_no_values(skipped) else int(skipped)
    if total > 0 and reported == 0:
        warnings.warn(_skipped_message(layer, total), NonFiniteWarning, stacklevel=4)
    return total


def _skipped_message(layer: Name, total: int) -> str:
    return explain(
        asked=f"{layer()}: let a training batch enter the running statistics",
        got=f"{total} batch{'es' if total > 1 else ''} with NaN or Inf in the batch statistics",
        why="one such batch would make the running statistics NaN for good",
        do="nothing: it was kept out, and layer.nonfinite_batches counts on (this warning comes "
        'once a layer); look for the cause, or set nonfinite="raise" to stop at the first',
    )


def _nonfinite_message(layer: Name, batch: Moments) -> str:
    finite = torch.isfinite(batch.mean) & torch.isfinite(batch.var)
    channels = (~finite).nonzero().flatten().tolist()
    return explain(
        asked=f'{layer()}: a training batch under nonfinite="raise"',
        got=f"NaN or Inf in the batch statistics of channels {channels[:8]} of {len(finite)}",
        why="the input holds NaN or Inf there, or overflows",
        do="look at the layers before this one; the running statistics were left as they were",
    )


def _raise_is_eager(layer: Name) -> str:
    return explain(
        asked=f'{layer()}: nonfinite="raise" in a compiled or traced training step',
        got="a graph that cannot stop at a value",
        why="raising needs the statistics on the host, a compiled graph keeps them on the device",
        do='use nonfinite="skip", which counts such batches in layer.nonfinite_batches',
    )
