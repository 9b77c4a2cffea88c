"""Batch norm with the activation and the residual addition inside."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Unpack

from torch import Tensor, fx

from evenkeel.nn import _inplace
from evenkeel.nn._base import Extras, NormCore, Own, leaf_call
from evenkeel.spec import Activation

if TYPE_CHECKING:
    from evenkeel.kernels import Moments


class _BatchNormAct(NormCore):
    """Batch norm, plus residual, then activation, as one layer: eq. (5) in docs/math.md.

    Takes the arguments of :class:`BatchNorm2d` and has the same state_dict keys, but is no
    instance of torch's ``_BatchNorm``: torch's converters and fusers, which know nothing of an
    activation inside, would drop it.

    Args:
        activation: a name ("identity", "relu", "leaky_relu", "relu6", "silu", "gelu",
            "hardswish", "elu"), or ``(name, parameter)`` such as ``("leaky_relu", 0.2)``.
        inplace: overwrite the input with the output, and recompute from the output what the
            backward pass needs; for "identity", "leaky_relu" and "elu", without a residual.
            The output is all that is saved, and the next layer saves that anyway: half of what
            norm and activation save otherwise. Nobody else may use the input, or overwrite the
            output. It applies in training where a graph is recorded; when compiling, under
            transforms and checkpoints, and for views the input is left as it is, with the same
            numbers. Gradients are as exact as y has digits, less those that a small weight
            costs (docs/numerics.md, section 10).

    Raises:
        InputError: the activation is unknown, or cannot be undone in place; in place, a residual,
            a leaf that requires grad, or a weight too close to zero; and the errors of
            :class:`BatchNorm2d`.
        TransformError: a second derivative in place.

    Example:
        >>> import torch, evenkeel as ek
        >>> layer = ek.nn.BatchNormAct2d(3, activation="relu")
        >>> x = torch.randn(8, 3, 4, 4)
        >>> layer(x, residual=x).min() >= 0
        tensor(True)
    """

    inplace = False

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        activation: str | tuple[str, float] | Activation = "relu",
        inplace: bool = False,
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.activation = Activation.parse(activation)
        self.inplace = inplace
        if inplace:
            _inplace.check_invertible(self.activation, self._label)
        self._extras(**extras)

    def forward(
        self,
        input: Tensor,
        residual: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """activation(norm(input) + residual); masked positions give 0.

        Args:
            input: ``(N, C, *S)``, floating.
            residual: of the same shape and dtype.
            mask: bool ``(N, *S)``, True = keep.
        """
        if isinstance(input, fx.Proxy):
            return leaf_call(self, input, residual, mask)
        return self._run(input, residual, mask)

    def _check(self, x: Tensor, residual: Tensor | None, mask: Tensor | None) -> Own:
        own = super()._check(x, residual, mask)
        if self.inplace:
            _inplace.check_no_residual(residual, self._label)
        return own

    def _normalize_batch(
        self,
        x: Tensor,
        own: Own,
        residual: Tensor | None,
        mask: Tensor | None,
        activation: Activation,
    ) -> tuple[Tensor, Moments]:
        affine = own[:2]
        if not (self.inplace and _inplace.is_possible(x, *affine)):
            return super()._normalize_batch(x, own, residual, mask, activation)
        return _inplace.normalize_batch(x, *affine, self.eps, activation, mask, self._label)

    def extra_repr(self) -> str:
        """Text of the settings."""
        return super().extra_repr() + (", inplace=True" if self.inplace else "")


class BatchNormAct1d(_BatchNormAct):
    __doc__ = _BatchNormAct.__doc__
    _ranks = (2, 3)


class BatchNormAct2d(_BatchNormAct):
    __doc__ = _BatchNormAct.__doc__
    _ranks = (4,)


class BatchNormAct3d(_BatchNormAct):
    __doc__ = _BatchNormAct.__doc__
    _ranks = (5,)
