"""One run: train, then predict with each kind of statistics, and measure their noise."""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias

import numpy as np
import torch

from evenkeel.reference import moments
from evenkeel.study._codec import short
from evenkeel.study._network import norm_layers
from evenkeel.study._training import Training, accuracy, recorded_steps
from evenkeel.study.sections.small_batches._layers import (
    freeze,
    group_statistics,
    recalibrated,
    ungroup,
)
from evenkeel.study.sections.small_batches._plan import FULL, REFERENCE, WARM_UP, Config

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import nn

    from evenkeel.study._samples import Pairs, Samples

#: Statistics in inference: running averages, population statistics, or each batch's own.
Inference: TypeAlias = Literal["running", "recalibrated", "own"]
#: Training samples on which accuracy is measured, at most.
_MOST: Final = 512
#: Random batches from which the noise of the statistics is measured.
_DRAWS: Final = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """Accuracy at the end of a run, on up to 512 training samples and on the test samples."""

    train: float
    test: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Noise:
    """How far the statistics of random batches are from those of the whole training set.

    Args:
        layer: batch-norm layer whose input is looked at.
        batch_size: of the random batches, drawn with replacement.
        mean: root mean square, over batches and channels, of the error of the batch mean in
            standard deviations of the channel; None if not finite.
        variance: likewise, of the relative error of the unbiased batch variance.
    """

    layer: str
    batch_size: int
    mean: float | None
    variance: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The measurements of one run.

    Args:
        config: of the run.
        steps: at which test accuracy was recorded.
        test_accuracy: in inference mode, at each of these steps.
        finite: every loss was finite.
        scores: at the end, by the statistics in inference; without batch norm and with frozen
            statistics there is only "running", the ordinary inference mode.
        noise: of the batch statistics, in runs with batch norm at a batch size of 64.
    """

    config: Config
    steps: tuple[int, ...]
    test_accuracy: tuple[float, ...]
    finite: bool
    scores: dict[Inference, Score]
    noise: tuple[Noise, ...]


def run(config: Config, samples: Samples) -> Record:
    """Train one network and look at it with each kind of statistics."""
    training = Training(config, samples)
    if config.group is not None:
        group_statistics(training.network, _group(config, training))
    curve, finite = _trained(training)
    ungroup(training.network)
    ordinary = config.batch_norm and config.statistics == "batch"
    return Record(
        config=config,
        steps=tuple(curve),
        test_accuracy=tuple(curve.values()),
        finite=finite,
        scores=_scores(training),
        noise=_noise(training) if ordinary and config.batch_size == REFERENCE else (),
    )


def _group(config: Config, training: Training) -> int:
    return min(config.group or config.batch_size, len(training.train[1]))


def _trained(training: Training) -> tuple[dict[int, float], bool]:
    """Train; return test accuracy by step, and whether every loss was finite."""
    config, network = training.config, training.network
    assert isinstance(config, Config)  # noqa: S101 - Training keeps the configuration it was given
    curve = {0: accuracy(network, training.test)}
    recorded = set(recorded_steps(training.total))
    multiple = _group(config, training)
    for step, (x, y) in enumerate(training.batches(), start=1):
        if config.statistics == "frozen" and step == round(WARM_UP * training.total) + 1:
            freeze(network, training.train[0])
        whole = len(y) - len(y) % multiple  # a training set of less than a batch, in groups
        loss = training.update(x[:whole], y[:whole])
        if step in recorded or not math.isfinite(loss):
            curve[step] = accuracy(network, training.test)
        if not math.isfinite(loss):
            return curve, False
    return curve, True


def _scores(training: Training) -> dict[Inference, Score]:
    """Return the accuracy with each kind of statistics that the network has."""
    x, y = training.train
    few = torch.linspace(0, len(y) - 1, min(len(y), _MOST), device=y.device).long()
    pairs, network = ((x[few], y[few]), training.test), training.network
    scores: dict[Inference, Score] = {"running": _score(*(accuracy(network, p) for p in pairs))}
    if norm_layers(network):
        better = recalibrated(network, x)
        scores["recalibrated"] = _score(*(accuracy(better, p) for p in pairs))
        scores["own"] = _score(*(own_accuracy(training, p) for p in pairs))
    return scores


def _score(train: float, test: float) -> Score:
    return Score(train=train, test=test)


@torch.no_grad()
def own_accuracy(training: Training, pairs: Pairs) -> float:
    """Return the accuracy when random batches are normalized with their own statistics.

    The batches are as large as in training; an incomplete last one is left out.
    """
    network = copy.deepcopy(training.network).train()  # the running statistics change
    batches = list(_batches(pairs, training.config.batch_size, _generator(training)))
    right = 0
    for x, y in batches:
        logits = network(x)
        right += int(((logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)).sum())
    return right / sum(len(y) for _, y in batches)


def _batches(pairs: Pairs, size: int, generator: torch.Generator) -> Iterator[Pairs]:
    x, y = pairs
    size = min(size, len(y))
    order = torch.randperm(len(y), generator=generator).to(y.device)
    for chosen in order[: len(y) - len(y) % size].split(size):
        yield x[chosen], y[chosen]


def _generator(training: Training) -> torch.Generator:
    return torch.Generator().manual_seed(training.config.random_seed() + 1)


@torch.no_grad()
def _noise(training: Training) -> tuple[Noise, ...]:
    """Measure the noise at the input of every batch-norm layer of the trained network."""
    inputs = _norm_inputs(training.network, training.train[0])
    generator = _generator(training)
    return tuple(
        noise_of(values, name, size, generator)
        for name, values in inputs.items()
        for size in FULL.sizes
    )


def _norm_inputs(network: nn.Sequential, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what enters each batch-norm layer in inference mode, ``(N, C)``."""
    inputs: dict[str, torch.Tensor] = {}
    for name, layer in network.eval().named_children():
        if name in norm_layers(network):
            inputs[name] = x
        x = layer(x)
    return inputs


def noise_of(
    values: torch.Tensor, layer: str, batch_size: int, generator: torch.Generator
) -> Noise:
    """Compare the statistics of random batches of ``values`` (N, C) with those of all of them."""
    whole = moments(values.cpu().numpy()[:, :, np.newaxis])
    chosen = torch.randint(len(values), (batch_size, _DRAWS), generator=generator)
    drawn = values[chosen.to(values.device)].flatten(1).cpu().numpy()  # a channel for each draw
    batch = moments(drawn[:, :, np.newaxis])
    mean, variance = (v.reshape(_DRAWS, -1) for v in (batch.mean, batch.m2 / (batch_size - 1)))
    varied = whole.var > 0
    scale = whole.var[varied]
    of_mean = (mean - whole.mean)[:, varied] / np.sqrt(scale)
    of_variance = variance[:, varied] / scale - 1
    return Noise(
        layer=layer,
        batch_size=batch_size,
        mean=_root_mean_square(of_mean),
        variance=_root_mean_square(of_variance),
    )


def _root_mean_square(values: np.ndarray) -> float | None:
    return short(float(np.sqrt(np.mean(np.square(values))))) if values.size else None
