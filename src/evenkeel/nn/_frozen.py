"""Batch norm whose statistics and affine parameters are constants."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, fx

from evenkeel.errors import InputError, explain
from evenkeel.nn._base import NormCore, leaf_call

if TYPE_CHECKING:
    from typing import Self


class FrozenBatchNorm(NormCore):
    """Batch norm with everything fixed: running statistics in both modes, no parameters.

    Normalizes with the running statistics, eq. (3) and (5), whatever ``.train()`` says; weight
    and bias are buffers, so that no optimizer and no weight decay touches them. The state_dict
    keys are those of a batch-norm layer, so either loads the other's checkpoint. It is no
    instance of torch's ``_BatchNorm``, so converters leave it alone.

    Args:
        num_features: number of channels C.
        eps: added to the variance, under the root (1e-5 as in torch and torchvision).
        affine: whether there are weight and bias.
        device: device of the buffers.
        dtype: dtype of weight and bias; statistics are float32, or float64 for float64.

    Shape:
        input ``(N, C, *S)`` with any number of spatial dimensions up to 3; output the same.

    Example:
        >>> import torch, evenkeel as ek
        >>> trained = ek.nn.BatchNorm2d(3)
        >>> frozen = ek.nn.FrozenBatchNorm.from_batch_norm(trained)
        >>> len(list(frozen.parameters()))
        0
    """

    _ranks = (2, 3, 4, 5)

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        *,
        affine: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(num_features, eps, 0.0, affine, True, device, dtype)
        self._extras()
        for name in ("weight", "bias"):
            parameter = self._parameters.pop(name)
            self.register_buffer(name, None if parameter is None else parameter.detach())

    @classmethod
    def from_batch_norm(cls, layer: torch.nn.Module) -> Self:
        """A frozen copy of a batch-norm layer that has running statistics.

        Raises:
            InputError: the layer has none.
        """
        state = layer.state_dict()
        if state.get("running_mean") is None:
            raise InputError(_nothing_to_freeze(layer))
        mean = state["running_mean"]
        dtype = state["weight"].dtype if "weight" in state else mean.dtype
        affine = "weight" in state
        eps: Any = layer.eps
        frozen = cls(mean.shape[0], eps, affine=affine, device=mean.device, dtype=dtype)
        frozen.load_state_dict(state, strict="bias" in state or not affine)
        return frozen.train(layer.training)

    def forward(self, input: Tensor, mask: Tensor | None = None) -> Tensor:
        """Normalize ``(N, C, *S)`` with the fixed statistics; masked positions give 0."""
        if isinstance(input, fx.Proxy):
            return leaf_call(self, input) if mask is None else leaf_call(self, input, mask)
        own = self._check(input, None, mask)
        return self._with_running_statistics(input, own, None, mask, self.activation)


def _nothing_to_freeze(layer: torch.nn.Module) -> str:
    return explain(
        asked="FrozenBatchNorm.from_batch_norm",
        got=f"{layer}, without running statistics",
        why="a frozen layer normalizes with the running statistics",
        do="pass a trained batch-norm layer with track_running_stats=True",
    )
