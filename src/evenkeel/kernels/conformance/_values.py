"""Named distributions, upstream gradients, masks and layouts for the cases."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Generator, Tensor

    Shape = tuple[int, ...]


def _normal(shape: Shape, random: Generator) -> Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


def _spread(mean: float, std: float) -> Callable[[Shape, Generator], Tensor]:
    """Each channel with its own mean and standard deviation, within a factor of two."""

    def values(shape: Shape, random: Generator) -> Tensor:
        per_channel = (1, shape[1], *(1 for _ in shape[2:]))
        factor = torch.rand(per_channel, generator=random, dtype=torch.float64) + 0.5
        return mean * factor + std * factor * _normal(shape, random)

    return values


def _constant(shape: Shape, random: Generator) -> Tensor:
    """Even channels constant, odd channels random: variance exactly 0 beside variance 1."""
    x = _normal(shape, random)
    x[:, ::2] = 3333.3
    return x


def _outlier_first(shape: Shape, random: Generator) -> Tensor:
    """The first sample of each channel is a million standard deviations away."""
    x = _normal(shape, random)
    if x.numel():
        x[(0, slice(None), *(0 for _ in shape[2:]))] = 1e6
    return x


def _outlier_last(shape: Shape, random: Generator) -> Tensor:
    x = _normal(shape, random)
    if x.numel():
        x[(-1, slice(None), *(-1 for _ in shape[2:]))] = -300.0
    return x


def _sorted(shape: Shape, random: Generator) -> Tensor:
    """Sorted along the batch: the parts differ far more than the values within each."""
    return (_normal(shape, random) * 10).sort(0).values


def _poisoned(value: float) -> Callable[[Shape, Generator], Tensor]:
    """One non-finite value in channel 1 (or 0); every other channel must stay clean."""

    def values(shape: Shape, random: Generator) -> Tensor:
        x = _normal(shape, random)
        if x.numel():
            x[(shape[0] // 2, min(1, shape[1] - 1), *(0 for _ in shape[2:]))] = value
        return x

    return values


VALUES: Final[dict[str, Callable[[Shape, Generator], Tensor]]] = {
    "standard": _normal,
    "mean/std 1e2": _spread(1e2, 1.0),
    "mean/std 1e4": _spread(1e4, 1.0),
    "mean/std 1e6": _spread(1e6, 1.0),
    "mean -3000 std 0.01": _spread(-3000.0, 0.01),
    "std 1e-5": _spread(0.0, 1e-5),
    "std 1e-12": _spread(0.0, 1e-12),
    "variance 1e-30": _spread(0.0, 1e-15),
    "std 1e12": _spread(0.0, 1e12),
    "std 1e17": _spread(0.0, 1e17),
    "constant": _constant,
    "outlier first": _outlier_first,
    "outlier last": _outlier_last,
    "sorted": _sorted,
    "NaN in one channel": _poisoned(float("nan")),
    "Inf in one channel": _poisoned(float("inf")),
    "NaN where masked": _normal,  # Case.build() plants the NaN when it has the mask
}


def _xhat(x: Tensor, _: Generator) -> Tensor:
    """Proportional to the normalized input, so that dx is almost nothing but cancellation."""
    dims = [d for d in range(x.dim()) if d != 1]
    if x.numel() == 0:
        return x.clone()
    centred = x - x.mean(dims, keepdim=True)
    return centred / (centred.square().mean(dims, keepdim=True) + 1e-5).sqrt()


GRADIENTS: Final[dict[str, Callable[[Tensor, Generator], Tensor]]] = {
    "random": lambda x, random: _normal(tuple(x.shape), random),
    "one": lambda x, _: torch.ones_like(x),
    "constant plus noise": lambda x, random: 100.0 + _normal(tuple(x.shape), random),
    "xhat": _xhat,
    "tiny": lambda x, random: 1e-6 * _normal(tuple(x.shape), random),
}


def _keep(x: Tensor, share: float, random: Generator) -> Tensor:
    return torch.rand(x.shape[0], x.shape[2], generator=random) < share


def _one_kept(x: Tensor, _: Generator) -> Tensor:
    keep = torch.zeros(x.shape[0], x.shape[2], dtype=torch.bool)
    keep[-1, -1] = True
    return keep


MASKS: Final[dict[str, Callable[[Tensor, Generator], Tensor | None]]] = {
    "none": lambda _x, _random: None,
    "random": lambda x, random: _keep(x, 0.6, random),
    "rare": lambda x, random: _keep(x, 0.05, random),
    "all": lambda x, _: torch.ones(x.shape[0], x.shape[2], dtype=torch.bool),
    "nothing": lambda x, _: torch.zeros(x.shape[0], x.shape[2], dtype=torch.bool),
    "one kept": _one_kept,
    "transposed": lambda x, random: _keep(x.transpose(0, 2), 0.5, random).t(),
}


def _channels_last(x: Tensor) -> Tensor:
    return x.movedim(1, -1).contiguous().movedim(-1, 1)


def _sliced(x: Tensor) -> Tensor:
    """Every second element of a larger tensor along each dimension, with an offset."""
    frame = x.new_full([2 * size + 1 for size in x.shape], float("nan"))
    view = frame[tuple(slice(1, None, 2) for _ in x.shape)]
    return view.copy_(x)


def _expanded(x: Tensor) -> Tensor:
    """Stride 0 along the batch."""
    return x[:1].expand(x.shape)


LAYOUTS: Final[dict[str, Callable[[Tensor], Tensor]]] = {
    "contiguous": lambda x: x,
    "channels last": _channels_last,
    "sliced": _sliced,
    "expanded": _expanded,
    "transposed": lambda x: x.transpose(0, 1).contiguous().transpose(0, 1),
    "reversed dimensions": lambda x: x.permute(*range(x.dim())[::-1]).contiguous().permute(
        *range(x.dim())[::-1]
    ),
}  # fmt: skip
