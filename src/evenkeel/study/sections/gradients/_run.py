"""One network: the gradient of every layer at the start and while it trains."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import cross_entropy

from evenkeel.study._codec import short
from evenkeel.study._network import linear_layers
from evenkeel.study._plan import RunConfig  # noqa: TC001 - read from JSON by its types
from evenkeel.study._records import Values  # noqa: TC001 - read from JSON by its types
from evenkeel.study._training import Training, recorded_steps
from evenkeel.study.sections.gradients._plan import START_BATCHES

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from torch import nn

    from evenkeel.study._samples import Pairs, Samples


@dataclass(frozen=True, slots=True, kw_only=True)
class GradientRecord:
    """The size of the gradients of one run.

    A layer's gradient is the root mean square, over its weights, of the derivative of the loss.

    Args:
        config: of the run.
        start: geometric mean over a few batches at the initial weights, for each hidden layer
            from the input on; 0 where it vanished entirely, None where it was not finite.
        training: the same over the recorded steps.
        steps: the recorded steps; a gradient belongs to the update that made the step.
        first: the gradient of the first hidden layer at each of them.
        last: the gradient of the last hidden layer.
        train_loss: mean over the batches since the previous recorded step.
        chance_loss: of the best constant prediction: the entropy of the training labels.
        finite: every loss was finite.
    """

    config: RunConfig
    start: Values
    training: Values
    steps: tuple[int, ...]
    first: Values
    last: Values
    train_loss: Values
    chance_loss: float
    finite: bool


def run(config: RunConfig, samples: Samples) -> GradientRecord:
    """Train one network and note the gradients that its updates use anyway."""
    training = Training(config, samples)
    start = _start(training)
    steps: list[int] = []
    sizes: list[list[float]] = []
    losses: list[float] = []
    window: list[float] = []
    finite = True
    recorded = set(recorded_steps(training.total))
    for step, (x, y) in enumerate(training.batches(), start=1):
        window.append(training.update(x, y))
        finite = math.isfinite(window[-1])
        if not finite:
            break
        if step in recorded:
            steps.append(step)
            sizes.append(gradient_sizes(training.network))
            losses.append(math.fsum(window) / len(window))
            window.clear()
    return GradientRecord(
        config=config,
        start=start,
        training=_over(sizes) if sizes else (None,) * len(start),
        steps=tuple(steps),
        first=tuple(short(row[0]) for row in sizes),
        last=tuple(short(row[-1]) for row in sizes),
        train_loss=tuple(short(loss) for loss in losses),
        chance_loss=_entropy(training.train[1]),
        finite=finite,
    )


def gradient_sizes(network: nn.Sequential) -> list[float]:
    """Return the root mean square gradient of each hidden linear layer's weights.

    In float64: squares of vanished gradients are below the range of float32.
    """
    hidden = list(linear_layers(network).values())[:-1]
    gradients = [layer.weight.grad for layer in hidden]
    return [
        g.double().square().mean().sqrt().item() if g is not None else math.nan for g in gradients
    ]


def _start(training: Training) -> Values:
    """Measure at the initial weights, on a copy: batch norm would count the batches."""
    network = copy.deepcopy(training.network)
    sizes: list[list[float]] = []
    for x, y in _batches(training):
        network.zero_grad()
        cross_entropy(network(x), y).backward()
        sizes.append(gradient_sizes(network))
    return _over(sizes)


def _batches(training: Training) -> Iterator[Pairs]:
    """Draw batches with a generator of their own, so that training sees the same as without."""
    x, y = training.train
    generator = torch.Generator().manual_seed(training.config.random_seed() + 1)
    order = torch.randperm(len(y), generator=generator).to(y.device)
    size = min(training.config.batch_size, len(y))
    for chosen in order.split(size)[:START_BATCHES]:
        if len(chosen) == size:
            yield x[chosen], y[chosen]


def _over(sizes: Sequence[Sequence[float]]) -> Values:
    """Return the geometric mean of each layer."""
    return tuple(short(_geometric_mean(column)) for column in zip(*sizes, strict=True))


def _geometric_mean(values: Sequence[float]) -> float:
    if not all(map(math.isfinite, values)):
        return math.nan
    if min(values) == 0:
        return 0.0
    return math.exp(math.fsum(map(math.log, values)) / len(values))


def _entropy(labels: torch.Tensor) -> float:
    shares = labels.bincount().double() / len(labels)
    return round(torch.special.entr(shares).sum().item(), 6)
