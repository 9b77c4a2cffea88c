"""A batch norm and what follows it, adopted and as it was: the proof without an example."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from evenkeel.kernels._providers._aten import activate
from evenkeel.spec import IDENTITY, Activation
from evenkeel.tools._adopt._classes import become_original
from evenkeel.tools._adopt._followed import followed
from evenkeel.tools._adopt._proof import copied, prove
from evenkeel.tools._adopt._runs import Example

if TYPE_CHECKING:
    from evenkeel.tools._adopt._records import AdoptionProof
    from evenkeel.tools._adopt._sites import Site


def kind_of_pair(layer: nn.Module, site: Site | None) -> tuple[Any, ...]:
    """What makes two pairs the same for a kernel."""
    settings: Any = layer
    tensors = [*layer.parameters(recurse=False), *layer.buffers(recurse=False)]
    shapes = [(tuple(t.shape), t.dtype, t.device) for t in tensors]
    partners = (site.adds, site.activation) if site else ()
    return type(layer), settings.eps, settings.momentum, str(layer), *shapes, *partners


def prove_pair(layer: nn.Module, site: Site | None, *, was_torch: bool) -> AdoptionProof:
    """Compare a layer with what follows it in one pass, to one after the other.

    Both have the same random parameters and statistics, and a small random batch.

    Args:
        layer: an adopted one; it is copied.
        site: what follows; None for nothing.
        was_torch: whether the layer was of another class before, which computes the original.
    """
    generator = torch.Generator().manual_seed(0)
    after = copied(layer)
    _randomize(after, generator)
    before = copied(after)
    if was_torch:
        become_original(before)
    spatial = next(d for d in (1, 2, 3) if isinstance(layer, getattr(nn, f"BatchNorm{d}d")))
    like = next(t for t in (*layer.parameters(), *layer.buffers()) if t.is_floating_point())
    settings: Any = layer
    x = torch.randn(4, settings.num_features, *[3] * spatial, generator=generator).to(like)
    args = (x, x.flip(0)) if site and site.adds else (x,)
    how = site.activation if site else IDENTITY
    return prove(_Apart(before, how), _Together(after, how), Example(args, {}))


class _Apart(nn.Module):
    """A batch norm, an addition and an activation, one after the other."""

    def __init__(self, layer: nn.Module, how: Activation) -> None:
        super().__init__()
        self.layer, self.how = layer, how

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        z = self.layer(x)
        return activate(z if residual is None else z + residual, self.how)


class _Together(_Apart):
    """The same in one pass."""

    def forward(self, x: Tensor, residual: Tensor | None = None) -> Tensor:
        return followed(self.layer, x, (self.how.name, self.how.parameter), residual)


def _randomize(layer: nn.Module, generator: torch.Generator) -> None:
    with torch.no_grad():
        for name, tensor in (*layer.named_parameters(), *layer.named_buffers()):
            if name in ("weight", "running_var"):
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            elif tensor.is_floating_point():
                tensor.copy_(torch.randn(tensor.shape, generator=generator))
