"""What a batch of one sample does: refused in training, harmless in inference."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import torch

from evenkeel import reference
from evenkeel.study._codec import short
from evenkeel.study._network import norm_layers
from evenkeel.study.sections.train_vs_inference._modes import through, with_statistics
from evenkeel.study.sections.train_vs_inference._records import BatchOfOne

if TYPE_CHECKING:
    from torch import Tensor, nn

    from evenkeel.nn import BatchNorm1d
    from evenkeel.study._samples import Pairs
    from evenkeel.study.sections.train_vs_inference._modes import Statistics

#: Samples that are put through the network alone.
_ALONE: Final = 64
_FEW: Final = 3


def batch_of_one(network: nn.Sequential, test: Pairs, statistics: Statistics) -> BatchOfOne:
    """Try a batch of one in training, by the formulas, and in inference."""
    x, y = test
    few = [normalized_alone(network, sample[None]) for sample in x[:_FEW]]
    answer = few[0][0].argmax(dim=1)
    several = x[:_ALONE]
    together = with_statistics(network, several, statistics)
    alone = torch.cat([with_statistics(network, sample[None], statistics) for sample in several])
    difference = ((alone - together).abs().max() / together.abs().max()).item()
    same = alone.argmax(dim=1) == together.argmax(dim=1)
    return BatchOfOne(
        refusal=_refusal(network, x[:1]),
        torch_refusal=_torch_refusal(network, x[:1]),
        beyond_beta=short(max(beyond for _, beyond in few)),
        constant_accuracy=int((y == answer).sum()) / len(y),
        difference=short(difference),
        same_answers=int(same.sum()) / len(several),
        samples=len(several),
    )


@torch.no_grad()
def normalized_alone(network: nn.Sequential, x: Tensor) -> tuple[Tensor, float]:
    """Return the logits of one sample, normalized with its own statistics by the reference.

    Returns:
        The logits, and the largest difference of a layer's output from its beta.
    """
    beyond: list[float] = []

    def normalize(_: str, layer: BatchNorm1d, z: Tensor) -> Tensor:
        gamma, beta = (p.detach().cpu().double().numpy() for p in (layer.weight, layer.bias))
        alone = z.cpu().double().numpy()[:, :, None]
        y, _moments = reference.forward(alone, gamma, beta, layer.eps)
        beyond.append(float(abs(y[:, :, 0] - beta).max()))
        return torch.as_tensor(y[:, :, 0], dtype=z.dtype, device=z.device)

    return through(network, x, normalize), max(beyond)


def _refusal(network: nn.Sequential, x: Tensor) -> str | None:
    """Return what evenkeel says when a network in training gets one sample."""
    try:
        with torch.no_grad():
            network.train()(x)
    except ValueError as error:
        return str(error)
    return None


def _torch_refusal(network: nn.Sequential, x: Tensor) -> str | None:
    """Return what torch's layer says to the same input."""
    first = next(iter(norm_layers(network).values()))
    try:
        torch.nn.BatchNorm1d(first.num_features)(x.new_zeros(1, first.num_features))
    except ValueError as error:
        return str(error)
    return None
