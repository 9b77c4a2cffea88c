"""What is run, as pure data: one :class:`RunConfig` per training run."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from typing import Literal


@dataclass(frozen=True, slots=True, kw_only=True)
class RunConfig:
    """Everything that decides the result of one training run, apart from the data.

    Args:
        section: name of the section that asked for the run.
        batch_norm: batch norm between each linear layer and its ReLU, or not.
        optimizer: ``sgd`` (no momentum, no weight decay) or ``adam`` (torch's defaults).
        rate: learning rate, constant over the run.
        seed: repetition number, from 0 on.
        hidden: widths of the hidden layers.
        batch_size: samples per step; capped at the size of the training set.
        epochs: passes over the training set.
        max_steps: end after this many steps, if that comes before ``epochs``.
        target: test accuracy whose first step is noted.
    """

    section: str
    batch_norm: bool
    optimizer: Literal["sgd", "adam"]
    rate: float
    seed: int
    hidden: tuple[int, ...] = (256, 128, 64)
    batch_size: int = 64
    epochs: int = 15
    max_steps: int = 600
    target: float = 0.9

    def random_seed(self) -> int:
        """Return the seed of the run's generators: 63 bits that depend on every field."""
        text = json.dumps(asdict(self), sort_keys=True)
        return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


@dataclass(frozen=True, slots=True)
class Scale:
    """How large a study is: the repetition numbers, and whether a coarse look is enough."""

    seeds: tuple[int, ...]
    quick: bool
