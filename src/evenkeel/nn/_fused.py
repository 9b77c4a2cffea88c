"""Batch norm with the activation and the residual addition inside."""

from __future__ import annotations

from typing import Any, Unpack

from torch import Tensor, fx

from evenkeel.nn._base import Extras, NormCore, leaf_call
from evenkeel.spec import Activation


class _BatchNormAct(NormCore):
    """Batch norm, plus residual, then activation, as one layer: eq. (5) in docs/math.md.

    Takes the arguments of :class:`BatchNorm2d` and has the same state_dict keys, but is no
    instance of torch's ``_BatchNorm``: torch's converters and fusers, which know nothing of an
    activation inside, would drop it.

    Args:
        activation: a name ("identity", "relu", "leaky_relu", "relu6", "silu", "gelu",
            "hardswish"), or ``(name, parameter)`` such as ``("leaky_relu", 0.2)``.

    Raises:
        InputError: the activation is unknown; and the errors of :class:`BatchNorm2d`.

    Example:
        >>> import torch, evenkeel as ek
        >>> layer = ek.nn.BatchNormAct2d(3, activation="relu")
        >>> x = torch.randn(8, 3, 4, 4)
        >>> layer(x, residual=x).min() >= 0
        tensor(True)
    """

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
        **extras: Unpack[Extras],
    ) -> None:
        super().__init__(num_features, eps, momentum, affine, track_running_stats, device, dtype)
        self.activation = Activation.parse(activation)
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


class BatchNormAct1d(_BatchNormAct):
    __doc__ = _BatchNormAct.__doc__
    _ranks = (2, 3)


class BatchNormAct2d(_BatchNormAct):
    __doc__ = _BatchNormAct.__doc__
    _ranks = (4,)


class BatchNormAct3d(_BatchNormAct):
    __doc__ = _BatchNormAct.__doc__
    _ranks = (5,)
