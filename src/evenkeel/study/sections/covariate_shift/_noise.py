"""Batch norm whose outputs are made to shift: random scale and offset, new at every step."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from evenkeel.study._network import norm_layers

if TYPE_CHECKING:
    from torch import Tensor

#: The scale of a unit is uniform in 1 +- this, its offset in 0 +- this.
REACH: Final = 0.5


class Noise(nn.Module):
    """Multiply and shift every unit; in inference mode, where the mean of both counts, do nothing.

    Args:
        units: number of features of the input (N, units).
    """

    scale: Tensor
    offset: Tensor

    def __init__(self, units: int) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(units), persistent=False)
        self.register_buffer("offset", torch.zeros(units), persistent=False)

    def redraw(self, generator: torch.Generator) -> None:
        """Take a new scale and a new offset for each unit."""
        drawn = torch.rand(2, len(self.scale), generator=generator) * 2 * REACH - REACH
        self.scale.copy_(1 + drawn[0])
        self.offset.copy_(drawn[1])

    def forward(self, x: Tensor) -> Tensor:
        """Return ``x`` (N, units) with every unit scaled and shifted."""
        return x * self.scale + self.offset if self.training else x


def add_noise(network: nn.Sequential) -> nn.Sequential:
    """Return the same layers with noise after each batch-norm layer."""
    norms = norm_layers(network)
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for name, layer in network.named_children():
        layers[name] = layer
        if name in norms:
            noise = Noise(norms[name].num_features)
            layers[name.replace("norm", "noise")] = noise.to(norms[name].weight.device)
    return nn.Sequential(layers)


def redraw(network: nn.Sequential, generator: torch.Generator) -> None:
    """Draw all noise anew."""
    for layer in network.children():
        if isinstance(layer, Noise):
            layer.redraw(generator)
