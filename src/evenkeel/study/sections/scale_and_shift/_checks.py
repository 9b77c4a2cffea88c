"""One training step, watched: what went in and out of every batch-norm layer, and what it did."""

from __future__ import annotations

import math
from collections import defaultdict
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from evenkeel.study._codec import short
from evenkeel.study._network import norm_layers
from evenkeel.study.sections.scale_and_shift._formulas import (
    AdamSettings,
    AdamState,
    Comparison,
    adam,
    compare,
    descend,
    gradients,
)
from evenkeel.study.sections.scale_and_shift._records import Check

if TYPE_CHECKING:
    from collections.abc import Generator, Iterable

    from torch import nn

    from evenkeel.nn import BatchNorm1d
    from evenkeel.study._training import Training
    from evenkeel.study.sections.scale_and_shift._formulas import Array, Expected
    from evenkeel.study.sections.scale_and_shift._records import Parameter


@dataclass(slots=True)
class _Seen:
    """What a layer saw in one step: its input, and the gradient that came back to its output."""

    x: list[torch.Tensor] = field(default_factory=list[torch.Tensor])
    dy: list[torch.Tensor] = field(default_factory=list[torch.Tensor])


def checked_update(
    training: Training, x: torch.Tensor, y: torch.Tensor, step: int
) -> tuple[float, tuple[Check, ...]]:
    """Make one step of a training, unaltered, and hold gamma and beta against the formulas.

    Returns:
        The loss before the step, and what was found for gamma and for beta; nothing if the loss
        was not finite, since there is no step then.
    """
    layers = list(norm_layers(training.network).values())
    before = {p: _Before(training, p) for layer in layers for p in _affine(layer).values()}
    with _watched(layers) as seen:
        loss = training.update(x, y)
    if not math.isfinite(loss):
        return loss, ()
    found: dict[Parameter, list[tuple[Comparison, Comparison]]] = defaultdict(list)
    for layer in layers:
        expected = gradients(_float64(seen[layer].x[-1]), _float64(seen[layer].dy[-1]), layer.eps)
        for (name, parameter), gradient in zip(_affine(layer).items(), expected, strict=True):
            got = _float64(parameter.grad)
            update = before[parameter].step(got)
            found[name].append((compare(got, gradient), compare(_float64(parameter), update)))
    return loss, tuple(_check(step, name, pairs) for name, pairs in found.items())


def _check(
    step: int, parameter: Parameter, found: Iterable[tuple[Comparison, Comparison]]
) -> Check:
    """Put the findings of all layers together."""
    gradient, update = zip(*found, strict=True)
    return Check(
        step=step,
        parameter=parameter,
        gradient=_worst(gradient),
        update=_worst(update),
        channels=sum(layer.channels for layer in gradient),
        outside=sum(layer.outside for layer in (*gradient, *update)),
    )


def _worst(layers: Iterable[Comparison]) -> float | None:
    # max() of Python would pass a NaN over
    return short(float(np.max([layer.worst for layer in layers])))


class _Before:
    """A parameter and its optimizer's memory before a step."""

    def __init__(self, training: Training, parameter: nn.Parameter) -> None:
        self.kind = training.config.optimizer
        self.value = _float64(parameter)
        self.defaults: dict[str, Any] = training.optimizer.defaults
        state = training.optimizer.state.get(parameter, {})
        self.steps = int(state["step"]) if state else 0
        zero = np.zeros_like(self.value)
        self.mean = _float64(state["exp_avg"]) if "exp_avg" in state else zero
        self.square = _float64(state["exp_avg_sq"]) if "exp_avg_sq" in state else zero

    def step(self, gradient: Array) -> Expected:
        """Return the parameter after the step, by the rule of its optimizer."""
        rate = float(self.defaults["lr"])
        if self.kind == "sgd":
            return descend(self.value, gradient, rate)
        beta1, beta2 = self.defaults["betas"]
        settings = AdamSettings(rate, beta1, beta2, float(self.defaults["eps"]))
        state = AdamState(self.mean, self.square, self.steps)
        return adam(self.value, gradient, state, settings)[0]


@contextmanager
def _watched(layers: Iterable[BatchNorm1d]) -> Generator[dict[nn.Module, _Seen]]:
    """Note input and incoming gradient of the layers; hooks look on and change no number."""
    seen: dict[nn.Module, _Seen] = defaultdict(_Seen)

    def look(layer: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        seen[layer].x.append(inputs[0].detach())
        output.register_hook(seen[layer].dy.append)

    handles = [layer.register_forward_hook(look) for layer in layers]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _affine(layer: BatchNorm1d) -> dict[Parameter, nn.Parameter]:
    return {"gamma": layer.weight, "beta": layer.bias}


def _float64(tensor: torch.Tensor | None) -> Array:
    """Copy a tensor, which the next step will overwrite; no gradient means none arrived."""
    if tensor is None:
        raise LookupError("a parameter that is learned has no gradient")
    return tensor.detach().cpu().double().numpy().copy()
