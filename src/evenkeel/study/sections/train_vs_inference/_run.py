"""The run of the section: one training, seen through different statistics."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evenkeel.study._training import Training
from evenkeel.study.sections.train_vs_inference._modes import (
    Averages,
    whole_statistics,
    with_batches,
    with_statistics,
)
from evenkeel.study.sections.train_vs_inference._plan import DEFAULT, recorded_steps
from evenkeel.study.sections.train_vs_inference._records import ModeRecord
from evenkeel.study.sections.train_vs_inference._single import batch_of_one

if TYPE_CHECKING:
    from torch import Tensor

    from evenkeel.study._samples import Samples
    from evenkeel.study.sections.train_vs_inference._plan import ModeConfig


def run(config: ModeConfig, samples: Samples) -> ModeRecord:
    """Train one network; measure it with the statistics of batches, averages and all samples."""
    training = Training(config, samples)
    seen = _Seen(training, config)
    recorded = recorded_steps(training.total)
    for step, (x, y) in enumerate(training.batches(), start=1):
        loss = training.update(x, y)
        seen.finite = math.isfinite(loss)
        if seen.finite:
            seen.averages.update()
        if step in recorded or not seen.finite:
            seen.record(step)
        if not seen.finite:
            break
    return seen.finish(config, samples.info.majority)


class _Seen:
    """Test accuracy over the recorded steps, by the statistics that normalize."""

    def __init__(self, training: Training, config: ModeConfig) -> None:
        self.network, self.train = training.network, training.train
        self.averages = Averages(training.network, config.momenta)
        self.size = min(config.batch_size, len(training.train[1]))
        self.test = shuffled(training.test, config.random_seed() + 1)
        self.momenta = config.momenta
        self.finite = True
        self.steps: list[int] = []
        self.batch: list[float] = []
        self.whole: list[float] = []
        self.running: list[list[float]] = [[] for _ in config.momenta]

    def record(self, step: int) -> None:
        """Measure the network as it is now, in all three ways, and leave it as it is."""
        x, y = self.test
        self.steps.append(step)
        self.batch.append(share_right(with_batches(self.network, x, self.size), y))
        for number, row in enumerate(self.running):
            statistics = self.averages.of(number)
            row.append(share_right(with_statistics(self.network, x, statistics), y))
        whole = whole_statistics(self.network, self.train[0])
        self.whole.append(share_right(with_statistics(self.network, x, whole), y))

    def finish(self, config: ModeConfig, majority: float) -> ModeRecord:
        usual = self.averages.of(config.momenta.index(DEFAULT))
        return ModeRecord(
            config=config,
            steps=tuple(self.steps),
            batch=tuple(self.batch),
            running=tuple(map(tuple, self.running)),
            whole=tuple(self.whole),
            majority=majority,
            finite=self.finite,
            single=batch_of_one(self.network, self.test, usual) if self.finite else None,
        )


def shuffled(pairs: tuple[Tensor, Tensor], seed: int) -> tuple[Tensor, Tensor]:
    """Return the samples in random order: a batch of one class would be normalized oddly."""
    order = torch.randperm(len(pairs[1]), generator=torch.Generator().manual_seed(seed))
    order = order.to(pairs[1].device)
    return pairs[0][order], pairs[1][order]


def share_right(logits: Tensor, y: Tensor) -> float:
    """Return the share of right answers; logits that are not finite count as wrong."""
    right = (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)
    return int(right.sum()) / len(y)
