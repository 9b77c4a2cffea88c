"""Drop-in batch-norm layers: instances of torch's classes, with the same state_dict."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

import torch
from torch import Tensor, fx

from evenkeel.nn._base import Extras, NormCore, leaf_call

if TYPE_CHECKING:
    from evenkeel.spec import Activation


class _Plain(NormCore):
    """The forward pass of the layers that end with scale and shift."""

    def forward(
        self,
        input: Tensor,
        mask: Tensor | None = None,
        *,
        residual: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        """Normalize ``(N, C, *S)``, eq. (1) to (5); see the class for modes and errors.

        Args:
            input: ``(N, C, *S)``, floating.
            mask: bool ``(N, *S)``, True = keep. Masked positions enter no statistic, give 0,
                and have gradient 0.
            residual: like ``input``; added in the same pass. It belongs to the call and not to
                the layer, so that nobody who replaces or folds the layer can lose it.
            activation: applied last, in the same pass; likewise.
        """
        if isinstance(input, fx.Proxy):
            return leaf_call(self, input) if mask is None else leaf_call(self, input, mask)
        return self._run(input, residual, mask, activation)


class _BatchNorm(_Plain):
    """Arguments shared by the 1d, 2d and 3d layers."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self._extras(**extras)


class _Lazy(_Plain):
    """A layer that reads its number of channels off the first input."""

    def __init__(
        self,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(eps, momentum, affine, track_running_stats, device, dtype)  # type: ignore[arg-type] - the lazy base of torch comes next
        self._extras(**extras)

    def initialize_parameters(self, input: Tensor) -> None:
        """Make the tensors for the channels of ``input``, or take those that were loaded."""
        super().initialize_parameters(input)  # type: ignore[misc] - torch's lazy base has it
        held = self.weight if self.affine else self.running_mean
        if self.num_features == 0 and held is not None:  # load_state_dict made the tensors
            self.num_features = held.shape[0]


_DOC = """Batch normalization of {layout} input, a drop-in for ``torch.nn.{name}``.

    Training mode normalizes each channel with its own mean and biased variance over the batch,
    eq. (1) to (5) in docs/math.md, and lets both enter the running statistics; evaluation mode
    normalizes with the running statistics. Exact at any mean/std up to 1e6, where torch loses
    3 to 6 digits.

    It differs from torch in three documented points, which :func:`strict_torch` switches off:
    a batch with NaN or Inf does not enter the running statistics; an empty batch changes
    nothing, not the counter either; the statistics stay float32 under ``.half()`` and
    ``.to(torch.bfloat16)``.

    Args:
        num_features: number of channels C.
        eps: added to the variance, under the root.
        momentum: weight of the *new* value in the running statistics, eq. (6) (Keras and Flax
            weigh the old one: their 0.99 is 0.01 here); None for the average over all batches,
            eq. (8).
        affine: whether the layer has weight (gamma) and bias (beta), each ``(C,)``.
        track_running_stats: whether it keeps running statistics; without them evaluation mode
            uses the batch, too.
        device: device of the parameters and statistics.
        dtype: dtype of the parameters; statistics are float32, or float64 for float64.
        bias: False leaves out beta alone.
        variance: which estimate of the variance the running statistics hold, "unbiased" as
            in torch, or "biased" as in Keras and Flax; eq. (16). Normalizing in training uses
            the biased one in both cases.
        weight_init: initial gamma, a number or a callable that fills the tensor in place.
        bias_init: initial beta, likewise.
        nonfinite: what a batch with NaN or Inf in its statistics does: "skip" (kept out, with
            one warning per layer and counted in ``nonfinite_batches``), "propagate" (enters, as
            in torch), "raise" (NonFiniteError; eager mode only).

    Raises:
        ShapeError: wrong rank, or one value per channel in training (a ValueError, as in torch).
        ChannelError: wrong number of channels (a RuntimeError, as in torch).
        DTypeError: an integer or complex input, or a mix of dtypes that torch refuses, too.

    Shape:
        input {layout}; output the same; ``mask`` bool {mask}.

    Source:
        Ioffe and Szegedy 2015, https://arxiv.org/abs/1502.03167

    Example:
        >>> import torch, evenkeel as ek
        >>> layer = ek.nn.{name}(3)
        >>> layer(torch.randn({example})).shape
        torch.Size([{example}])
    """


class BatchNorm1d(_BatchNorm, torch.nn.BatchNorm1d):
    __doc__ = _DOC.format(
        name="BatchNorm1d", layout="(N, C) or (N, C, L)", mask="(N,) or (N, L)", example="8, 3"
    )
    _ranks = (2, 3)


class BatchNorm2d(_BatchNorm, torch.nn.BatchNorm2d):
    __doc__ = _DOC.format(
        name="BatchNorm2d", layout="(N, C, H, W)", mask="(N, H, W)", example="8, 3, 4, 4"
    )
    _ranks = (4,)


class BatchNorm3d(_BatchNorm, torch.nn.BatchNorm3d):
    __doc__ = _DOC.format(
        name="BatchNorm3d", layout="(N, C, D, H, W)", mask="(N, D, H, W)", example="8, 3, 2, 4, 4"
    )
    _ranks = (5,)


_LAZY_DOC = """:class:`{name}` that reads ``num_features`` off its first input, then becomes one.

    A drop-in for ``torch.nn.Lazy{name}``; takes the arguments of :class:`{name}` except
    ``num_features``.
    """


class LazyBatchNorm1d(_Lazy, torch.nn.LazyBatchNorm1d):
    __doc__ = _LAZY_DOC.format(name="BatchNorm1d")
    cls_to_become = BatchNorm1d
    _ranks = (2, 3)


class LazyBatchNorm2d(_Lazy, torch.nn.LazyBatchNorm2d):
    __doc__ = _LAZY_DOC.format(name="BatchNorm2d")
    cls_to_become = BatchNorm2d
    _ranks = (4,)


class LazyBatchNorm3d(_Lazy, torch.nn.LazyBatchNorm3d):
    __doc__ = _LAZY_DOC.format(name="BatchNorm3d")
    cls_to_become = BatchNorm3d
    _ranks = (5,)
