"""One run: train, and measure drift, change of gradients and smoothness on the way."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from evenkeel.study._codec import short
from evenkeel.study._records import Values  # noqa: TC001 - read from JSON by its types
from evenkeel.study._training import Training, accuracy, recorded_steps
from evenkeel.study.sections.covariate_shift._measure import Snapshot, drift, input_moments
from evenkeel.study.sections.covariate_shift._noise import add_noise, redraw
from evenkeel.study.sections.covariate_shift._plan import LAG, PROBE, ShiftConfig

if TYPE_CHECKING:
    from collections.abc import Iterable

    from torch import Tensor

    from evenkeel.study._samples import Samples
    from evenkeel.study.sections.covariate_shift._measure import Change, Moments, Smoothness


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """What was measured at one step; the lists have one value per linear layer after the first.

    Args:
        step: number of the update, from 1 on.
        drift: of the layer's inputs over the last few steps.
        drift_from_start: of the layer's inputs since step 0.
        change: of the layer's gradient by this step's update of the layers below, relative.
        cosine: between the layer's gradient before and after that update.
        loss_range: of the loss along the gradient, before this update.
        gradient_change: largest change of the whole gradient along it, relative.
        beta: largest change of the whole gradient over the distance moved.
        train_loss: mean over the batches since the point before.
    """

    step: int
    drift: Values
    drift_from_start: Values
    change: Values
    cosine: Values
    loss_range: float | None
    gradient_change: float | None
    beta: float | None
    train_loss: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ShiftRecord:
    """The measurements of one run.

    Args:
        config: of the run.
        points: the measurements at the recorded steps.
        mean_loss: training loss averaged over all steps; None if it was not finite.
        test_accuracy: at the end, in inference mode.
        finite: every loss was finite.
    """

    config: ShiftConfig
    points: tuple[Point, ...]
    mean_loss: float | None
    test_accuracy: float
    finite: bool


def run(config: ShiftConfig, samples: Samples) -> ShiftRecord:
    """Make one run."""
    training = start(config, samples)
    recorder = _Recorder(training, samples)
    noise = torch.Generator().manual_seed(config.random_seed() + 1)
    for step, (x, y) in enumerate(training.batches(), start=1):
        redraw(training.network, noise)
        recorder.before(step, x, y)
        if not recorder.after(step, training.update(x, y)):
            break
    mean = math.fsum(recorder.losses) / len(recorder.losses)
    return ShiftRecord(
        config=config,
        points=tuple(recorder.points),
        mean_loss=short(mean),
        test_accuracy=accuracy(training.network, training.test),
        finite=math.isfinite(mean),
    )


def start(config: ShiftConfig, samples: Samples) -> Training:
    """Return the network of a run before its first step, with noise if that is asked for."""
    training = Training(config, samples)
    if config.noise:
        training.network = add_noise(training.network)
    return training


class _Recorder:
    """The measurements of a run that is under way."""

    def __init__(self, training: Training, samples: Samples) -> None:
        self.training = training
        # Every second recorded step: a measurement costs as much as ten updates.
        self.recorded = {*recorded_steps(training.total)[1::2], training.total}
        self.wanted = self.recorded | {max(0, step - LAG) for step in self.recorded}
        self.probe = _probe(samples)
        self.moments: dict[int, list[Moments]] = {0: input_moments(training.network, self.probe)}
        self.losses: list[float] = []
        self.points: list[Point] = []
        self.seen = 0

    def before(self, step: int, x: Tensor, y: Tensor) -> None:
        """Measure what belongs to the update that is about to be made."""
        if step in self.recorded:
            snapshot = Snapshot(self.training.network, x, y)
            self.changes: list[Change] = snapshot.gradient_changes(self.training.config.rate)
            self.smoothness: Smoothness = snapshot.smoothness()

    def after(self, step: int, loss: float) -> bool:
        """Measure what the update led to; return whether the run can go on."""
        self.losses.append(loss)
        if not math.isfinite(loss):
            return False
        if step in self.wanted:
            self.moments[step] = input_moments(self.training.network, self.probe)
        if step in self.recorded:
            self.points.append(self._point(step))
            self.seen = len(self.losses)
        return True

    def _point(self, step: int) -> Point:
        window = self.losses[self.seen :]
        return Point(
            step=step,
            drift=self._drift(max(0, step - LAG), step),
            drift_from_start=self._drift(0, step),
            change=_shortened(change.relative for change in self.changes),
            cosine=_shortened(change.cosine for change in self.changes),
            loss_range=short(self.smoothness.range),
            gradient_change=short(self.smoothness.change),
            beta=short(self.smoothness.beta),
            train_loss=short(math.fsum(window) / len(window)),
        )

    def _drift(self, since: int, step: int) -> Values:
        pairs = zip(self.moments[since], self.moments[step], strict=True)
        return _shortened(drift(before, after) for before, after in pairs)


def _probe(samples: Samples) -> Tensor:
    """Return evenly chosen test inputs, on which no network trains."""
    x = samples.test[0]
    chosen = torch.linspace(0, len(x) - 1, min(len(x), PROBE), device=x.device).long()
    return x[chosen]


def _shortened(values: Iterable[float]) -> Values:
    return tuple(map(short, values))
