"""The three measurements; all on copies, so that training never notices."""

from __future__ import annotations

import copy
import math
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import torch
from torch import nn
from torch.nn.functional import cross_entropy

from evenkeel.study.sections.covariate_shift._plan import SIZES

if TYPE_CHECKING:
    from torch import Tensor

#: Mean and standard deviation of every unit of one layer's input, each (units,), in float64.
Moments: TypeAlias = "tuple[Tensor, Tensor]"


class Change(NamedTuple):
    """How the gradient of a layer's weights changes when the layers below are updated.

    ``relative`` is the L2 norm of the difference over that of the gradient, ``cosine`` of the
    angle between old and new gradient; NaN where the layer has no gradient.
    """

    relative: float
    cosine: float


class Smoothness(NamedTuple):
    """How loss and gradient vary on the way along the gradient.

    ``range`` is the largest loss minus the smallest; ``change`` the largest change of the
    gradient over its norm; ``beta`` the largest change of the gradient over the distance moved.
    """

    range: float
    change: float
    beta: float


@torch.no_grad()
def input_moments(network: nn.Sequential, x: Tensor) -> list[Moments]:
    """Return the moments of what each linear layer after the first gets for the probe ``x``.

    The copy stays in training mode: the layers see what batch norm gives them in training.
    """
    moments: list[Moments] = []
    for position, layer in enumerate(copy.deepcopy(network).children()):
        if isinstance(layer, nn.Linear) and position:
            seen = x.double()
            moments.append((seen.mean(dim=0), seen.std(dim=0, correction=0)))
        x = layer(x)
    return moments


def drift(before: Moments, after: Moments) -> float:
    """Return how far the units' distributions moved, in units of their spread before.

    The root of the sum over the units of (change of mean)^2 + (change of deviation)^2, over the
    root of the sum of their variances. The numerator is the 2-Wasserstein distance of two normal
    distributions with independent units. NaN if no unit varied before.
    """
    moved = sum(((b - a).square().sum() for a, b in zip(before, after, strict=True)))
    spread = before[1].square().sum()
    return float(torch.as_tensor(moved / spread).sqrt()) if spread > 0 else math.nan


class Snapshot:
    """A copy of a network at one step with the loss and the gradients of one batch.

    Args:
        network: in training mode; the copy keeps its noise, if it has any.
        x: inputs of the batch.
        y: labels.
    """

    def __init__(self, network: nn.Sequential, x: Tensor, y: Tensor) -> None:
        self.network = copy.deepcopy(network)
        self.batch = x, y
        self.parameters = list(self.network.parameters())
        self.values = [parameter.detach().clone() for parameter in self.parameters]
        loss = self._loss()
        self.loss = loss.item()
        self.gradients = torch.autograd.grad(loss, self.parameters)
        self.norm = _norm(self.gradients)

    def gradient_changes(self, rate: float) -> list[Change]:
        """Update the layers from the input on, and look at each next layer's gradient.

        Definition 2.1 of Santurkar et al. 2018 for SGD: the gradient of layer i with the layers
        below i as they are after the update and all others as before, on the same batch. A
        batch-norm layer belongs to the linear layer before it; the gradient is that of the
        weights.
        """
        gradients = dict(zip(map(id, self.parameters), self.gradients, strict=True))
        changes: list[Change] = []
        for position, layer in enumerate(self.network.children()):
            if isinstance(layer, nn.Linear) and position:
                (new,) = torch.autograd.grad(self._loss(), [layer.weight])
                changes.append(_change(gradients[id(layer.weight)], new))
            with torch.no_grad():
                for parameter in layer.parameters():
                    parameter.sub_(gradients[id(parameter)], alpha=rate)
        self._move(0.0)
        return changes

    def smoothness(self) -> Smoothness:
        """Step along the negative gradient and look at loss and gradient there."""
        losses, changes, betas = [self.loss], list[float](), list[float]()
        for size in SIZES:
            self._move(size)
            loss = self._loss()
            there = torch.autograd.grad(loss, self.parameters)
            change = _norm([b - a for a, b in zip(self.gradients, there, strict=True)])
            losses.append(loss.item())
            changes.append(_ratio(change, self.norm))
            betas.append(_ratio(change, size * self.norm))
        self._move(0.0)
        return Smoothness(_most(losses) - min(losses), _most(changes), _most(betas))

    @torch.no_grad()
    def _move(self, size: float) -> None:
        """Put the copy so far along the negative gradient."""
        for parameter, value, gradient in zip(
            self.parameters, self.values, self.gradients, strict=True
        ):
            parameter.copy_(value - size * gradient)

    def _loss(self) -> Tensor:
        x, y = self.batch
        return cross_entropy(self.network(x), y)


def _change(old: Tensor, new: Tensor) -> Change:
    old, new = old.double().flatten(), new.double().flatten()
    size, there = float(old.norm()), float(new.norm())
    cosine = _ratio(float(old.dot(new)), size * there)
    return Change(_ratio(float((new - old).norm()), size), cosine)


def _norm(tensors: list[Tensor] | tuple[Tensor, ...]) -> float:
    return math.sqrt(math.fsum(float(tensor.double().square().sum()) for tensor in tensors))


def _ratio(value: float, unit: float) -> float:
    return value / unit if unit else math.nan


def _most(values: list[float]) -> float:
    """Return the largest value, NaN if any is: the built-in ``max`` depends on their order."""
    return math.nan if any(map(math.isnan, values)) else max(values)
