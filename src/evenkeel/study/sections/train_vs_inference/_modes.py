"""One network under different statistics, without a trace in it: nothing here changes a layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

import torch

from evenkeel.nn import BatchNorm1d
from evenkeel.nn.functional import batch_norm
from evenkeel.study._network import norm_layers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from torch import Tensor, nn

#: Mean and variance of each batch-norm layer, by its name.
Statistics: TypeAlias = "dict[str, tuple[Tensor, Tensor]]"


def through(
    network: nn.Sequential, x: Tensor, normalize: Callable[[str, BatchNorm1d, Tensor], Tensor]
) -> Tensor:
    """Return the logits with something else in the place of every batch-norm layer."""
    for name, layer in network.named_children():
        x = normalize(name, layer, x) if isinstance(layer, BatchNorm1d) else layer(x)
    return x


@torch.no_grad()
def with_statistics(network: nn.Sequential, x: Tensor, statistics: Statistics) -> Tensor:
    """Return the logits as in inference, normalized with given statistics."""

    def normalize(name: str, layer: BatchNorm1d, z: Tensor) -> Tensor:
        return batch_norm(z, *statistics[name], layer.weight, layer.bias, eps=layer.eps).output

    return through(network, x, normalize)


@torch.no_grad()
def with_batches(network: nn.Sequential, x: Tensor, size: int) -> Tensor:
    """Return the logits as in training: each batch of ``size`` is normalized with its own.

    All batches go through the network at once; to batch norm they are channels side by side.
    The last batch is filled up with the first samples, whose logits there are dropped.
    """
    count = -(-len(x) // size)
    filled = x[torch.arange(count * size, device=x.device) % len(x)]

    def normalize(_: str, layer: BatchNorm1d, z: Tensor) -> Tensor:
        beside = z.view(count, size, -1).transpose(0, 1).reshape(size, -1)
        gamma, beta = layer.weight.repeat(count), layer.bias.repeat(count)
        y = batch_norm(beside, weight=gamma, bias=beta, training=True, eps=layer.eps).output
        return y.view(size, count, -1).transpose(0, 1).reshape(count * size, -1)

    return through(network, filled, normalize)[: len(x)]


@torch.no_grad()
def whole_statistics(network: nn.Sequential, x: Tensor) -> Statistics:
    """Return what each layer would store of all samples in one batch: mean, unbiased variance."""
    found: Statistics = {}

    def normalize(name: str, layer: BatchNorm1d, z: Tensor) -> Tensor:
        start = torch.zeros_like(layer.weight), torch.ones_like(layer.weight)
        y, mean, var = batch_norm(
            z, *start, layer.weight, layer.bias, training=True, momentum=1.0, eps=layer.eps
        )
        assert mean is not None  # noqa: S101 - given running statistics come back
        assert var is not None  # noqa: S101 - likewise
        found[name] = mean, var
        return y

    through(network, x, normalize)
    return found


class Averages:
    """Running averages of one training under several momenta at once, eq. (6).

    The averages have no influence on training, so one training serves all momenta. The layers
    have to have momentum 1: what they hold after a step is the batch's mean and unbiased variance.
    """

    def __init__(self, network: nn.Sequential, momenta: Sequence[float]) -> None:
        self.layers = norm_layers(network)
        start = self._held()
        self.rows = start.repeat(len(momenta), 1)
        self.weights = torch.tensor(momenta, device=start.device)[:, None]

    @torch.no_grad()
    def update(self) -> None:
        """Let the batch that the layers have just seen enter all averages."""
        self.rows.lerp_(self._held(), self.weights)

    def of(self, number: int) -> Statistics:
        """Return the averages under one of the momenta, cut up by layers."""
        channels = [layer.num_features for layer in self.layers.values() for _ in range(2)]
        parts = self.rows[number].split(channels)
        return dict(zip(self.layers, zip(parts[::2], parts[1::2], strict=True), strict=True))

    def _held(self) -> Tensor:
        kept = [(layer.running_mean, layer.running_var) for layer in self.layers.values()]
        return torch.cat([part for pair in kept for part in pair if part is not None])
