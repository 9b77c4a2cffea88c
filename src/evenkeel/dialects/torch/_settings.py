"""Changes what a live batch-norm layer means, in place, and lists what it cannot mean."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from evenkeel.dialects._unsayable import Unsayable
from evenkeel.dialects.torch._modules import is_frozen
from evenkeel.dialects.torch._unsayable import convention_refusals, takes_variance

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.spec import Spec

#: Classes of torch.nn that have a counterpart in evenkeel.nn of the same name.
_PLAIN: Final = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


def configure(module: nn.Module, spec: Spec) -> tuple[Unsayable, ...]:
    """Give the layer the eps, momentum and variance convention of ``spec``.

    Returns what the layer cannot mean; then nothing was changed.
    """
    layer: Any = module
    if is_frozen(module):
        layer.eps = spec.eps
        return ()
    found = convention_refusals(spec)
    changes = spec.variance != getattr(layer, "variance", "unbiased")
    if changes and not (takes_variance(module) or _can_become_ours(module)):
        why = f"a {type(module).__name__} stores the unbiased variance"
        do = "put an evenkeel.nn layer with the same arguments in its place"
        found.append(Unsayable("variance", spec.variance, why, do, "training"))
    if found:
        return tuple(found)
    layer.eps = spec.eps
    layer.momentum = spec.momentum.as_weighing("new").value
    if changes:
        _become_ours(module)
        layer.variance = spec.variance
    return ()


def _can_become_ours(module: nn.Module) -> bool:
    return type(module).__module__ == "torch.nn.modules.batchnorm" and (
        type(module).__name__ in _PLAIN
    )


def _become_ours(module: nn.Module) -> None:
    """Change the class to evenkeel's of the same name; object and tensors stay.

    Batches with NaN or Inf go on to enter the statistics, as they did before.
    """
    if takes_variance(module):
        return
    from evenkeel import nn as ours

    layer: Any = module
    kept = dict(vars(module))
    layer.__class__ = getattr(ours, type(module).__name__)
    layer.__setstate__(kept)
    layer.nonfinite = "propagate"
