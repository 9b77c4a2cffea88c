"""The run of the section: one training in one framework, tested as it goes."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from scipy.special import logsumexp

from evenkeel.study._codec import short
from evenkeel.study._training import Training, recorded_steps
from evenkeel.study.sections.frameworks._records import FrameworkRecord
from evenkeel.study.sections.frameworks._trainers import trainer

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.study._samples import Samples
    from evenkeel.study.sections.frameworks._plan import FrameworkConfig

#: Steps whose training loss is kept: after them rounding alone drives equal networks apart.
FIRST: Final = 5


def run(config: FrameworkConfig, samples: Samples) -> FrameworkRecord:
    """Train one network; the batches are the same in every arm of a seed."""
    training = Training(config, samples)
    network = trainer(config, training)
    x_test, y_test = (tensor.cpu().numpy() for tensor in training.test)
    recorded = {step for step in recorded_steps(training.total) if step}
    steps: list[int] = []
    tests: list[tuple[float, float]] = []
    losses: list[float] = []
    for step, (x, y) in enumerate(training.batches(), start=1):
        losses.append(network.update(x.cpu().numpy(), y.cpu().numpy()))
        if step in recorded:
            steps.append(step)
            tests.append(score(network.logits(x_test), y_test))
    return FrameworkRecord(
        config=config,
        steps=tuple(steps),
        test_accuracy=tuple(accuracy for accuracy, _ in tests),
        test_loss=tuple(short(loss) for _, loss in tests),
        losses=tuple(loss if math.isfinite(loss) else None for loss in losses[:FIRST]),
        finite=all(map(math.isfinite, losses)),
    )


def score(logits: NDArray[Any], labels: NDArray[Any]) -> tuple[float, float]:
    """Share of right answers and mean cross entropy, both in float64."""
    wide = logits.astype(np.float64)
    right = (wide.argmax(1) == labels) & np.isfinite(wide).all(1)
    losses = logsumexp(wide, axis=1) - wide[np.arange(len(labels)), labels]
    return float(right.mean()), float(losses.mean())
