"""One network on its way: what every section's measurements hang on."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from evenkeel.study._network import build_network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.study._plan import RunConfig
    from evenkeel.study._samples import Pairs, Samples

#: Values are recorded every 5 steps up to step 100, then 20 times over the rest of the run.
_EARLY: Final = range(5, 101, 5)
_LATER: Final = 20
_OPTIMIZERS: Final = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam}


class Training:
    """A network, its optimizer and its batches, all drawn from one generator.

    A section loops over ``batches`` and calls ``update`` for each, measuring what it likes in
    between; nothing that it measures may draw from ``generator``.

    Args:
        config: of the run.
        samples: to train and to test on, on the device where the network will be.
        network: to train instead of the one that ``config`` describes.
    """

    def __init__(
        self, config: RunConfig, samples: Samples, network: nn.Sequential | None = None
    ) -> None:
        self.config = config
        self.generator = torch.Generator().manual_seed(config.random_seed())
        drawn = build_network(
            samples.features,
            samples.classes,
            hidden=config.hidden,
            batch_norm=config.batch_norm,
            activation=config.activation,
            momentum=config.momentum,
            gamma=config.gamma,
            beta=config.beta,
            dropout=config.dropout,
            generator=self.generator,
        )
        self.network = (network or drawn).to(samples.device)
        self.train, self.test = _drawn(samples.train, config.samples, self.generator), samples.test
        kind = _OPTIMIZERS[config.optimizer]
        self.optimizer = kind(self.network.parameters(), lr=config.rate, fused=True)
        # Dropout is the only layer that draws from torch's own generator.
        torch.manual_seed(config.random_seed())

    @property
    def total(self) -> int:
        """Number of optimizer steps; the incomplete last batch of an epoch is left out."""
        return total_steps(self.config, len(self.train[1]))

    def batches(self, total: int | None = None) -> Iterator[Pairs]:
        """Yield ``total`` shuffled batches; a list of indices picks a whole batch at once."""
        data = TensorDataset(*self.train)
        size = min(self.config.batch_size, len(data))
        order = BatchSampler(RandomSampler(data, generator=self.generator), size, drop_last=True)
        loader = DataLoader(data, sampler=order, batch_size=None, generator=self.generator)
        left = self.total if total is None else total
        while left > 0:
            for _, batch in zip(range(left), loader, strict=False):
                yield batch[0], batch[1]
                left -= 1

    def update(self, x: torch.Tensor, y: torch.Tensor) -> float:
        """Make one optimizer step and return the loss before it; none if that is not finite."""
        loss = cross_entropy(self.network(x), y)
        value = loss.item()
        if math.isfinite(value):
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        return value


def total_steps(config: RunConfig, samples: int) -> int:
    """Return the number of optimizer steps of a run on so many training samples."""
    return min(config.max_steps, config.epochs * (samples // min(config.batch_size, samples)))


def recorded_steps(total: int) -> tuple[int, ...]:
    """Return the steps at which values are recorded, from 0 to ``total``."""
    later = (round(k * total / _LATER) for k in range(_LATER + 1))
    early = (step for step in _EARLY if step <= total)
    return tuple(sorted({*early, *(s for s in later if s > _EARLY[-1] or s in {0, total})}))


@torch.no_grad()
def accuracy(network: nn.Module, pairs: Pairs) -> float:
    """Return the share of right answers in inference mode; not finite counts as wrong."""
    was_training = network.training
    logits = network.eval()(pairs[0])
    network.train(was_training)
    right = (logits.argmax(dim=1) == pairs[1]) & logits.isfinite().all(dim=1)
    return int(right.sum()) / len(pairs[1])


def _drawn(pairs: Pairs, count: int | None, generator: torch.Generator) -> Pairs:
    """Return ``count`` of the pairs at random, or all of them."""
    if count is None or count >= len(pairs[1]):
        return pairs
    chosen = torch.randperm(len(pairs[1]), generator=generator)[:count].to(pairs[1].device)
    return pairs[0][chosen], pairs[1][chosen]
