"""The run of the section: train, and follow gamma and beta on the way."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

import torch

from evenkeel.study._codec import short
from evenkeel.study._network import norm_layers
from evenkeel.study._training import Training, accuracy
from evenkeel.study.sections.scale_and_shift._checks import checked_update
from evenkeel.study.sections.scale_and_shift._plan import checked_steps, recorded_steps
from evenkeel.study.sections.scale_and_shift._records import Check, ScaleRecord, Trajectory

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.study._records import Values
    from evenkeel.study._samples import Samples
    from evenkeel.study.sections.scale_and_shift._plan import Learned, ScaleConfig
    from evenkeel.study.sections.scale_and_shift._records import Parameter

#: Channels of each batch-norm layer whose gamma and beta are kept one by one.
_CHANNELS: Final = 3


def run(config: ScaleConfig, samples: Samples) -> ScaleRecord:
    """Train one network; note accuracy, loss, gamma and beta, and check some of the steps."""
    training = Training(config, samples)
    choose_learned(training.network, config.learned)
    curve, checks = _Curve(training), list[Check]()
    recorded, checked = recorded_steps(training.total), checked_steps(training.total)
    for step, (x, y) in enumerate(training.batches(), start=1):
        if step in checked and config.learned != "others":
            loss, found = checked_update(training, x, y, step)
            checks.extend(found)
        else:
            loss = training.update(x, y)
        curve.window.append(loss)
        if step in recorded or not math.isfinite(loss):
            curve.record(step)
        if not math.isfinite(loss):
            break
    return curve.finish(config, tuple(checks))


def choose_learned(network: nn.Sequential, learned: Learned) -> None:
    """Fix gamma and beta ("others"), or all but them ("affine"); optimizers pass fixed ones by."""
    layers = norm_layers(network).values()
    affine = {id(parameter) for layer in layers for parameter in layer.parameters()}
    for parameter in network.parameters():
        is_affine = id(parameter) in affine
        parameter.requires_grad_(learned == "all" or is_affine == (learned == "affine"))


class _Curve:
    """Accuracy, loss, gamma and beta over the recorded steps of a run."""

    def __init__(self, training: Training) -> None:
        self.training = training
        self.layers = norm_layers(training.network)
        self.window: list[float] = []
        self.steps: list[int] = []
        self.accuracies: list[float] = []
        self.losses: list[float] = []
        self.seen: dict[tuple[str, Parameter], list[torch.Tensor]] = {}
        self.record(0)

    def record(self, step: int) -> None:
        """Note everything, and the mean loss since the last note."""
        self.steps.append(step)
        self.accuracies.append(accuracy(self.training.network, self.training.test))
        self.losses.append(math.fsum(self.window) / len(self.window) if self.window else math.nan)
        self.finite = all(math.isfinite(loss) for loss in self.window)
        self.window.clear()
        for name, layer in self.layers.items():
            self.seen.setdefault((name, "gamma"), []).append(layer.weight.detach().clone())
            self.seen.setdefault((name, "beta"), []).append(layer.bias.detach().clone())

    def finish(self, config: ScaleConfig, checks: tuple[Check, ...]) -> ScaleRecord:
        return ScaleRecord(
            config=config,
            steps=tuple(self.steps),
            test_accuracy=tuple(self.accuracies),
            train_loss=tuple(short(loss) for loss in self.losses),
            finite=self.finite,
            trajectories=tuple(trajectory(*key, values) for key, values in self.seen.items()),
            checks=checks,
        )


def trajectory(layer: str, parameter: Parameter, seen: list[torch.Tensor]) -> Trajectory:
    """Summarise one parameter over its channels, at each recorded step."""
    values = torch.stack(seen).double().cpu()
    low, median, high = values.quantile(torch.tensor([0.1, 0.5, 0.9]).double(), dim=1)
    picks = torch.linspace(0, values.shape[1] - 1, min(_CHANNELS, values.shape[1])).long().tolist()
    return Trajectory(
        layer=layer,
        parameter=parameter,
        mean=_shorts(values.mean(dim=1)),
        size=_shorts(values.square().mean(dim=1).sqrt()),
        min=_shorts(values.amin(dim=1)),
        low=_shorts(low),
        median=_shorts(median),
        high=_shorts(high),
        max=_shorts(values.amax(dim=1)),
        channels={str(pick): _shorts(values[:, pick]) for pick in picks},
    )


def _shorts(values: torch.Tensor) -> Values:
    return tuple(short(value) for value in values.tolist())
