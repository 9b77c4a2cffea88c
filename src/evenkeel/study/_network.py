"""The networks of the study: linear layers with activations, with or without batch norm."""

from __future__ import annotations

from collections import OrderedDict
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from evenkeel.nn import BatchNorm1d

if TYPE_CHECKING:
    from evenkeel.study._plan import Activation

#: Said in the report, so that nobody has to guess how strong the baseline is.
INITIALISATION: Final = (
    "He for ReLU: weights normal with variance 2 / inputs; Glorot for tanh and sigmoid: variance "
    "2 / (inputs + outputs); last layer: variance 1 / inputs; biases zero"
)
_ACTIVATIONS: Final = {"relu": nn.ReLU, "tanh": nn.Tanh, "sigmoid": nn.Sigmoid}


def build_network(
    inputs: int,
    classes: int,
    *,
    hidden: tuple[int, ...] = (256, 128, 64),
    batch_norm: bool = True,
    activation: Activation = "relu",
    momentum: float = 0.1,
    gamma: float = 1.0,
    beta: float = 0.0,
    dropout: float = 0.0,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Build ``inputs -> hidden... -> classes`` with batch norm between linear and activation.

    The weights are drawn in one order whether or not batch norm is there. A linear layer before
    batch norm has no bias, since subtracting the mean would remove it.

    Args:
        inputs: features per sample.
        classes: outputs of the last layer (logits).
        hidden: widths of the hidden layers.
        batch_norm: put :class:`evenkeel.nn.BatchNorm1d` before each activation.
        activation: ``relu``, ``tanh`` or ``sigmoid``.
        momentum: of the running averages; weighs the new batch.
        gamma: initial scale of batch norm.
        beta: initial offset of batch norm.
        dropout: probability of dropping a unit after each activation; 0 for no such layers.
        generator: source of the initial weights.

    Source: He et al. 2015, "Delving Deep into Rectifiers", eq. 10; Glorot and Bengio 2010,
    "Understanding the difficulty of training deep feedforward neural networks", eq. 12.
    """
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, (fan_in, width) in enumerate(pairwise((inputs, *hidden)), start=1):
        layers[f"linear{number}"] = _linear(
            fan_in, width, activation, generator, bias=not batch_norm
        )
        if batch_norm:
            layers[f"norm{number}"] = BatchNorm1d(
                width, momentum=momentum, weight_init=gamma, bias_init=beta
            )
        layers[f"{activation}{number}"] = _ACTIVATIONS[activation]()
        if dropout:
            layers[f"dropout{number}"] = nn.Dropout(dropout)
    layers["output"] = _linear(hidden[-1], classes, "linear", generator, bias=True)
    return nn.Sequential(layers)


def norm_layers(network: nn.Sequential) -> dict[str, BatchNorm1d]:
    """Return the batch-norm layers by name, from the input on."""
    named = network.named_children()
    return {name: layer for name, layer in named if isinstance(layer, BatchNorm1d)}


def linear_layers(network: nn.Sequential) -> dict[str, nn.Linear]:
    """Return the linear layers by name, from the input on; the last is the output."""
    named = network.named_children()
    return {name: layer for name, layer in named if isinstance(layer, nn.Linear)}


def _linear(
    fan_in: int, width: int, follows: str, generator: torch.Generator | None, *, bias: bool
) -> nn.Linear:
    # skip_init: torch's own draw would take numbers from the global generator.
    layer = nn.utils.skip_init(nn.Linear, fan_in, width, bias=bias)
    assert isinstance(layer, nn.Linear)  # noqa: S101 - narrows the type that skip_init widens
    if follows in {"tanh", "sigmoid"}:
        nn.init.xavier_normal_(layer.weight, generator=generator)
    else:
        nn.init.kaiming_normal_(layer.weight, nonlinearity=follows, generator=generator)  # pyright: ignore[reportArgumentType] - torch types the name as a Literal
    if bias:
        nn.init.zeros_(layer.bias)
    return layer
