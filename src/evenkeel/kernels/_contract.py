"""The contract between the layers and the kernels: eight verbs, most on the canonical view.

Batch normalization is cut where the network cuts it. Five verbs stand between the
collective calls of a synchronized layer (only :class:`Moments` and :class:`Sums` ever
travel); two fused verbs, ``forward`` and ``backward``, serve the local case and must equal
the composition of the five; they take the layer's own ``(N, C, *S)``, a mask ``(N, *S)``, and
give results of that shape. The eighth, ``update_running``, ends a training step.

Conventions that hold for every verb:

* ``x``, ``dy`` and ``residual`` are torch tensors on the canonical view ``(N, C, S)``, of one
  floating dtype (float16, bfloat16, float32, float64), on one device, with any strides,
  possibly of size zero. Nothing is written into them, but for ``out`` of ``forward``.
* A result of shape ``(N, C, S)`` is a new tensor ``torch.empty_like(x)``: the same dtype and,
  for dense inputs, the same strides.
* The *accumulation dtype* is float64 for float64 inputs and float32 for all others. All
  per-channel results have it, on ``x``'s device.
* ``weight`` (gamma) and ``bias`` (beta) are ``(C,)`` in any floating dtype, or None for 1 and 0.
* ``mask`` is bool ``(N, S)``, True = keep, or None. Positions that are not kept enter no sum,
  and are 0 in every ``(N, C, S)`` result, whatever ``x`` holds there (NaN too).
* ``count`` is the number of kept values per channel: an int, or a 0-d int64 tensor where
  reading it would make the host wait. A count of 0 gives mean 0, variance 0.
* NaN or Inf in a channel of ``x`` makes that channel's statistics, output and dx NaN or Inf, and
  touches no other channel. Its sums and d residual, which may not depend on ``x``, are left open.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple, Protocol

from evenkeel.spec import IDENTITY, Activation

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor


#: Element types of the contract, by torch's names.
FLOATS: Final = ("float16", "bfloat16", "float32", "float64")


class Moments(NamedTuple):
    """Count, mean and biased variance of each channel, eq. (1) and (2).

    The mean is the unevaluated sum ``mean + mean_lo`` of two numbers of the accumulation
    dtype: ``mean`` is the float nearest to it, ``mean_lo`` the rest. Subtracting the two parts
    one after the other loses nothing even where mean/std is 1e6.
    """

    count: int | Tensor  # pyright: ignore[reportIncompatibleMethodOverride] - not tuple.count
    mean: Tensor
    mean_lo: Tensor
    var: Tensor


class Norm(NamedTuple):
    """What is applied to each element: activation((x - mean) inv_std weight + bias + residual).

    ``mean``, ``mean_lo`` and ``var`` are of the accumulation dtype; ``inv_std`` is
    1 / sqrt(var + eps), eq. (3).
    """

    mean: Tensor
    mean_lo: Tensor
    var: Tensor
    weight: Tensor | None
    bias: Tensor | None
    eps: float
    activation: Activation = IDENTITY


class Sums(NamedTuple):
    """The two sums of the backward pass over the kept values, each ``(C,)``, eq. (9).

    ``dz`` is the gradient of bias, ``dz_xhat`` that of weight, where dz is dy times the
    derivative of the activation, and xhat the normalized input before scale and shift.
    """

    dz: Tensor
    dz_xhat: Tensor


@dataclass(frozen=True, slots=True)
class Problem:
    """What a provider must know to say whether it can serve."""

    device: str
    dtype: str
    shape: tuple[int, ...] = ()


class Provider(Protocol):
    """One implementation of the eight verbs.

    ``name`` is what ``EVENKEEL_KERNELS`` and ``kernels.use`` take.
    """

    name: str

    def reasons_against(self, problem: Problem) -> list[str]:
        """Why this provider cannot serve ``problem``; empty when it can."""
        ...

    def moments(self, x: Tensor, mask: Tensor | None = None) -> Moments:
        """Mean and biased variance of each channel over N and S, eq. (1) and (2)."""
        ...

    def merge(self, parts: Sequence[Moments]) -> Moments:
        """Moments of the union of disjoint parts, eq. (4); parts of count 0 change nothing."""
        ...

    def normalize(
        self, x: Tensor, norm: Norm, residual: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Output y, eq. (3) and (5); serves training and inference alike."""
        ...

    def backward_reduce(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Sums:
        """The two sums over dz = dy * activation'(z), eq. (9)."""
        ...

    def backward_input(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        sums: Sums | None,
        count: int | Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> tuple[Tensor, Tensor | None]:
        """Gradients of x, eq. (10), and of the residual (None without one).

        ``sums=None`` means that mean and variance are constants (inference), eq. (11).
        """
        ...

    def forward(
        self,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        eps: float,
        activation: Activation = IDENTITY,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        out: Tensor | None = None,
    ) -> tuple[Tensor, Moments]:
        """``moments`` and ``normalize`` in one.

        With ``out``, a dense tensor like ``x`` or ``x`` itself, y is written there and is ``out``.
        """
        ...

    def backward(
        self,
        dy: Tensor,
        x: Tensor,
        norm: Norm,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
        *,
        undo: bool = False,
    ) -> tuple[Tensor, Sums, Tensor | None]:
        """``backward_reduce`` and ``backward_input`` in one: dx, the sums, d residual.

        With ``undo``, ``x`` holds the output of ``norm.activation``, which is the identity or a
        leaky ReLU of positive slope, without a residual. Its argument z then stands everywhere
        for x, and is where dz is taken; ``norm.bias`` is not used.
        """
        ...

    def update_running(
        self,
        running_mean: Tensor,
        running_var: Tensor,
        batches: Tensor | None,
        moments: Moments,
        momentum: float | None,
        correction: float,
        *,
        only_finite: bool,
    ) -> bool:
        """Let a batch enter running statistics on the CPU, in place: eq. (6), or (8) for None.

        ``momentum`` weighs the new value; ``batches``, an int64 counter, goes up by one first;
        ``correction`` times the batch's variance is the estimate that is stored, eq. (16). With
        ``only_finite`` a batch with NaN or Inf in its statistics changes nothing. The running
        statistics may have any floating dtype; each is rounded once.

        Returns:
            Whether the batch has entered.
        """
        ...
