"""The network of the study: linear layers with ReLU, with or without batch normalization."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import Final

import torch
from torch import nn

from evenkeel.nn import BatchNorm1d

#: Said in the report, so that nobody has to guess how strong the baseline is.
INITIALISATION: Final = (
    "He: weights normal with variance 2 / inputs (1 / inputs in the last layer), biases zero; "
    "gamma 1, beta 0"
)


def build_network(
    inputs: int,
    classes: int,
    *,
    hidden: tuple[int, ...] = (256, 128, 64),
    batch_norm: bool = True,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Build ``inputs -> hidden... -> classes`` with batch norm between linear and ReLU.

    The weights are drawn in one order whether or not batch norm is there. A linear layer before
    batch norm has no bias, since subtracting the mean would remove it.

    Args:
        inputs: features per sample.
        classes: outputs of the last layer (logits).
        hidden: widths of the hidden layers.
        batch_norm: put :class:`evenkeel.nn.BatchNorm1d` before each ReLU.
        generator: source of the initial weights.

    Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (fan_in, width) in enumerate(pairwise((inputs, *hidden)), start=1):
        layers[f"linear{number}"] = _linear(fan_in, width, "relu", generator, bias=not batch_norm)
        if batch_norm:
            layers[f"norm{number}"] = BatchNorm1d(width)
        layers[f"relu{number}"] = nn.ReLU()
    layers["output"] = _linear(hidden[-1], classes, "linear", generator, bias=True)
    return nn.Sequential(layers)


def norm_layers(network: nn.Sequential) -> dict[str, nn.Module]:
    """Return the batch-norm layers by name, from the input on."""
    return {
        name: layer for name, layer in network.named_children() if isinstance(layer, BatchNorm1d)
    }


def _linear(
    fan_in: int, width: int, follows: str, generator: torch.Generator | None, *, bias: bool
) -> nn.Linear:
    # skip_init: torch's own draw would take numbers from the global generator.
    layer = nn.utils.skip_init(nn.Linear, fan_in, width, bias=bias)
    assert isinstance(layer, nn.Linear)  # noqa: S101 - narrows the type that skip_init widens
    nn.init.kaiming_normal_(layer.weight, nonlinearity=follows, generator=generator)  # pyright: ignore[reportArgumentType] - torch types the name as a Literal
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
