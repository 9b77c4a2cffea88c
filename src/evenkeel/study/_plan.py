"""What is run, as pure data: one :class:`RunConfig` per training run."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Literal, TypeAlias

Optimizer: TypeAlias = Literal["sgd", "adam"]
Activation: TypeAlias = Literal["relu", "tanh", "sigmoid"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of one run, apart from the data.

    A section that varies something else adds fields in a subclass of its own.

    Args:
        section: name of the section that asked for the run.
        seed: repetition number, from 0 on.
        batch_norm: batch norm between each linear layer and its activation, or not.
        optimizer: ``sgd`` (no momentum, no weight decay) or ``adam`` (torch's defaults).
        rate: learning rate, constant over the run.
        hidden: widths of the hidden layers.
        activation: between the layers.
        momentum: of the running averages; weighs the new batch, as in torch.
        gamma: initial scale of every batch-norm layer.
        beta: initial offset of every batch-norm layer.
        dropout: share of units dropped after each activation.
        samples: size of the training set, drawn at random; None for all.
        batch_size: samples per step; capped at the size of the training set.
        epochs: passes over the training set.
        max_steps: end after this many steps, if that comes before ``epochs``.
        target: test accuracy whose first step is noted.
    """

    section: str
    seed: int
    batch_norm: bool = True
    optimizer: Optimizer = "sgd"
    rate: float = 0.1
    hidden: tuple[int, ...] = (256, 128, 64)
    activation: Activation = "relu"
    momentum: float = 0.1
    gamma: float = 1.0
    beta: float = 0.0
    dropout: float = 0.0
    samples: int | None = None
    batch_size: int = 64
    epochs: int = 15
    max_steps: int = 600
    target: float = 0.9

    def random_seed(self) -> int:
        """Return the seed of the run's generators, from the section and the repetition alone.

        So the runs of one repetition share initial weights, training set and order of batches as
        far as they can (common random numbers): their differences are due to what was changed.
        """
        text = f"{self.section}/{self.seed}"
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a study is: the repetition numbers, and whether a coarse look is enough."""

    seeds: tuple[int, ...]
    quick: bool
