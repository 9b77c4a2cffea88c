"""The standard run: train, and record accuracy and loss on the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch

from evenkeel.study._codec import short
from evenkeel.study._data import MAX_TEST
from evenkeel.study._execute import isolated
from evenkeel.study._records import RunRecord, judge
from evenkeel.study._samples import Samples
from evenkeel.study._training import Training, accuracy, recorded_steps

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.study._data import Dataset
    from evenkeel.study._plan import RunConfig


def train(config: RunConfig, data: Dataset, device: str = "cpu") -> RunRecord:
    """Train one network and return what was measured; same arguments, same bits on a CPU."""
    with isolated():
        return run_network(config, Samples.load(data, device))[0]


def run(config: RunConfig, samples: Samples) -> RunRecord:
    """Make the standard run of a section."""
    return run_network(config, samples)[0]


def run_network(config: RunConfig, samples: Samples) -> tuple[RunRecord, nn.Sequential]:
    """Make the standard run; return the record and the network, in inference mode."""
    training = Training(config, samples)
    curve = _Curve(training)
    recorded = set(recorded_steps(training.total))
    for step, (x, y) in enumerate(training.batches(), start=1):
        loss = training.update(x, y)
        curve.window.append(loss)
        finite = math.isfinite(loss)
        curve.first = loss if step == 1 else curve.first
        if step in recorded or not finite:
            curve.record(step)
        if not finite:
            break
    return curve.finish(samples.info.majority), training.network.eval()


class _Curve:
    """Test accuracy and training loss over the recorded steps of a run."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.first = math.nan
        self.window: list[float] = []
        self.steps: list[int] = []
        self.accuracies: list[float] = []
        self.losses: list[float] = []
        self.record(0)

    def record(self, step: int) -> None:
        """Note accuracy, and the mean loss since the last note."""
        self.steps.append(step)
        self.accuracies.append(accuracy(self.training.network, self.training.test))
        self.losses.append(math.fsum(self.window) / len(self.window) if self.window else math.nan)
        self.finite = all(math.isfinite(loss) for loss in self.window)
        self.window.clear()

    def finish(self, majority: float) -> RunRecord:
        x, y = self.training.train  # as many of them as test samples are enough
        few = torch.linspace(0, len(y) - 1, min(len(y), MAX_TEST), device=y.device).long()
        trained = accuracy(self.training.network, (x[few], y[few]))
        peak = max((loss for loss in self.losses if math.isfinite(loss)), default=math.inf)
        curve = zip(self.steps, self.accuracies, strict=True)
        target = self.training.config.target
        return RunRecord(
            config=self.training.config,
            steps=tuple(self.steps),
            test_accuracy=tuple(self.accuracies),
            train_loss=tuple(short(loss) for loss in self.losses),
            steps_to_target=next((s for s, a in curve if a >= target), None),
            best_accuracy=max(self.accuracies),
            final_accuracy=self.accuracies[-1],
            final_train_accuracy=trained,
            first_loss=short(self.first),
            peak_loss=short(peak),
            finite=self.finite,
            outcome=judge(
                accuracy=trained,
                majority=majority,
                finite=self.finite,
                first_loss=self.first,
                peak_loss=peak,
            ),
        )
