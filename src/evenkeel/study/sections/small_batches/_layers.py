"""Batch norm with other statistics than the batch's, in a few lines of evenkeel's public names."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final

import torch
from torch import nn

from evenkeel.nn import FrozenBatchNorm
from evenkeel.nn.functional import batch_norm
from evenkeel.study._network import norm_layers

if TYPE_CHECKING:
    from evenkeel.nn import BatchNorm1d

#: Samples per batch when population statistics are estimated.
_CHUNK: Final = 256


class GroupedBatchNorm(nn.Module):
    """Batch norm whose statistics in training are those of consecutive groups of the batch.

    Known as ghost batch norm. Each group of each channel becomes a channel of its own, so one
    call of batch norm serves all groups. The running statistics take in the mean over the groups
    of the group means and of the unbiased group variances.

    Args:
        layer: whose parameters, running statistics and settings are used, and updated.
        group: samples per group; the batch size has to be a multiple of it.
    """

    def __init__(self, layer: BatchNorm1d, group: int) -> None:
        super().__init__()
        self.layer = layer
        self.group = group

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Normalize ``(N, C)``."""
        layer = self.layer
        if not self.training:
            return layer(x)
        groups, width = len(x) // self.group, x.shape[1]
        assert layer.running_mean is not None  # noqa: S101 - the study's layers all track
        assert layer.running_var is not None  # noqa: S101 - as above
        done = batch_norm(
            x.view(groups, self.group, width).transpose(0, 1).reshape(self.group, -1),
            layer.running_mean.repeat(groups),
            layer.running_var.repeat(groups),
            layer.weight.repeat(groups),
            layer.bias.repeat(groups),
            training=True,
            momentum=layer.momentum or 0.0,
            eps=layer.eps,
        )
        assert done.running_mean is not None  # noqa: S101 - it was given
        assert done.running_var is not None  # noqa: S101 - it was given
        layer.running_mean.copy_(done.running_mean.view(groups, width).mean(dim=0))
        layer.running_var.copy_(done.running_var.view(groups, width).mean(dim=0))
        return done.output.view(self.group, groups, width).transpose(0, 1).reshape(x.shape)


def group_statistics(network: nn.Sequential, group: int) -> None:
    """Let every batch-norm layer of a network take its statistics over groups."""
    for name, layer in norm_layers(network).items():
        setattr(network, name, GroupedBatchNorm(layer, group))


def ungroup(network: nn.Sequential) -> None:
    """Undo :func:`group_statistics`."""
    for name, layer in tuple(network.named_children()):
        if isinstance(layer, GroupedBatchNorm):
            setattr(network, name, layer.layer)


def freeze(network: nn.Sequential, x: torch.Tensor) -> None:
    """Fix every batch-norm layer: population statistics over ``x``, scale and offset as they are.

    Scale and offset are fixed, too, as in detectors that are trained on one or two images.
    """
    layers = norm_layers(recalibrated(network, x))
    for name, layer in layers.items():
        setattr(network, name, FrozenBatchNorm.from_batch_norm(layer))


@torch.no_grad()
def recalibrated(network: nn.Sequential, x: torch.Tensor) -> nn.Sequential:
    """Return a copy whose running statistics are the population's, estimated over ``x``.

    The cumulative average (``momentum=None``) over batches of at least 256, in which every layer
    normalizes with the batch, as in training.
    """
    network = copy.deepcopy(network).train()
    for layer in norm_layers(network).values():
        layer.reset_running_stats()
        layer.momentum = None
    for batch in x.tensor_split(max(1, len(x) // _CHUNK)):
        network(batch)
    return network
