"""One run: train on a small set, and compare training and test samples on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

import torch
from torch.nn.functional import cross_entropy

from evenkeel.study._codec import short
from evenkeel.study._plan import RunConfig  # noqa: TC001 - read from JSON by its types
from evenkeel.study._records import Values  # noqa: TC001 - read from JSON by its types
from evenkeel.study._training import Training

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.study._samples import Pairs, Samples

#: Values are recorded at step 0 and this many times over the run.
RECORDED: Final = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The measurements of one run, all in inference mode; lists belong to ``steps``.

    Args:
        config: of the run.
        samples: size of the training set; less than ``config.samples`` if there are no more.
        steps: at which the rest was recorded.
        train_accuracy: on the training set.
        test_accuracy: on the test samples; a prediction that is not finite counts as wrong.
        train_loss: mean cross-entropy; None where it is not finite.
        test_loss: likewise.
        finite: every loss was finite.
    """

    config: RunConfig
    samples: int
    steps: tuple[int, ...]
    train_accuracy: tuple[float, ...]
    test_accuracy: tuple[float, ...]
    train_loss: Values
    test_loss: Values
    finite: bool


@dataclass(slots=True)
class _Curve:
    """Accuracy and loss on one set of samples."""

    pairs: Pairs
    accuracy: list[float] = field(default_factory=list[float])
    loss: list[float | None] = field(default_factory=list["float | None"])

    @torch.no_grad()
    def record(self, network: nn.Module) -> None:
        x, y = self.pairs
        logits = network(x)
        right = (logits.argmax(dim=1) == y) & logits.isfinite().all(dim=1)
        self.accuracy.append(int(right.sum()) / len(y))
        self.loss.append(short(cross_entropy(logits, y).item()))


def run(config: RunConfig, samples: Samples) -> Record:
    """Train one network and record accuracy and loss on both sets."""
    training = Training(config, samples)
    curves = train, test = _Curve(training.train), _Curve(training.test)
    wanted = {round(k * training.total / RECORDED) for k in range(RECORDED + 1)}
    steps: list[int] = []

    def record(step: int) -> None:
        steps.append(step)
        training.network.eval()
        for curve in curves:
            curve.record(training.network)
        training.network.train()

    record(0)
    finite = True
    for step, (x, y) in enumerate(training.batches(), start=1):
        finite = math.isfinite(training.update(x, y))
        if step in wanted or not finite:
            record(step)
        if not finite:
            break
    return Record(
        config=config,
        samples=len(training.train[1]),
        steps=tuple(steps),
        train_accuracy=tuple(train.accuracy),
        test_accuracy=tuple(test.accuracy),
        train_loss=tuple(train.loss),
        test_loss=tuple(test.loss),
        finite=finite,
    )
