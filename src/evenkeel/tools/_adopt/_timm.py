"""The forward pass of timm's ``BatchNormAct2d``, which has its activation inside."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, fx

from evenkeel.nn._base import NormCore, leaf_call
from evenkeel.spec import IDENTITY, Activation
from evenkeel.tools._adopt._activations import activation_of, does_nothing

if TYPE_CHECKING:
    from torch import nn


class NormAct(NormCore):
    """A mixin over timm's class: norm, dropout and activation, in one pass where that can be."""

    _ranks = (4,)
    drop: nn.Module
    act: nn.Module

    def forward(
        self,
        x: Tensor,
        *,
        residual: Tensor | None = None,
        activation: Activation | None = None,
    ) -> Tensor:
        """Residual and activation come from a caller who knows that none is inside."""
        if isinstance(x, fx.Proxy):
            return leaf_call(self, x)
        how = self.activation_inside()
        if how is not None:
            return self._run(x, residual, None, activation or how)
        return self.act(self.drop(self._run(x, None, None)))

    def activation_inside(self) -> Activation | None:
        """The activation that runs in one pass with the norm; None if one after the other."""
        if not does_nothing(self.drop):
            return None
        return IDENTITY if does_nothing(self.act) else activation_of(self.act)
