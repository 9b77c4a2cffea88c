"""Builds a live torch layer that means what a description says, and holds its arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel.dialects._unsayable import refuse
from evenkeel.dialects.torch._modules import ARRAYS
from evenkeel.dialects.torch._unsayable import choose_class, is_ours, unsayable

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.spec import Spec, State


def build_module(
    spec: Spec,
    state: State,
    kind: type[nn.Module] | None = None,
    *,
    inference_only: bool = False,
) -> nn.Module:
    """A batch-norm layer for torch, in training mode, on the CPU.

    Args:
        spec: the description. Without a rank the layer is a ``BatchNorm1d``.
        state: the arrays; a layer whose batches were not counted counts from 0.
        kind: a class of ``torch.nn`` or ``evenkeel.nn``; without, the plainest one that says
            everything: ``torch.nn`` where it can, ``evenkeel.nn`` for the biased variance, an
            activation, a policy for non-finite batches, or 16-bit parameters.
        inference_only: whether a layer will do that is right in evaluation mode only.

    Raises:
        UnsayableError: such a layer cannot say it; every field is named.
        InputError: ``state`` is not one of a layer like ``spec``.

    Example:
        >>> from evenkeel import Momentum, Spec, State
        >>> spec = Spec(3, eps=1e-3, momentum=Momentum(0.99, "old"), rank=4)
        >>> build_module(spec, State.initial(spec)).momentum
        0.01
    """
    kind = kind or choose_class(spec)
    state.check(spec)
    refused = ("inference",) if inference_only else ("inference", "training")
    found = unsayable(spec, state, kind)
    refuse(spec, kind.__name__, [item for item in found if item.effect in refused])
    layer = _fresh(spec, kind)
    _fill(layer, spec, state)
    return layer


def _fresh(spec: Spec, kind: type[nn.Module]) -> Any:
    """The layer with its settings, before its arrays."""
    import torch

    affine = spec.scale or spec.offset
    settings: dict[str, Any] = {"affine": affine, "dtype": getattr(torch, spec.parameter_dtype)}
    momentum = spec.momentum.as_weighing("new").value
    if "Frozen" not in kind.__name__:
        settings |= {"momentum": momentum, "track_running_stats": spec.track_statistics}
    if "Act" in kind.__name__:
        settings["activation"] = spec.activation
    layer: Any = kind(spec.channels, spec.eps, **settings)
    layer.momentum = momentum
    if is_ours(kind):
        layer.variance = spec.variance
        layer.nonfinite = spec.options.get("nonfinite", "propagate")
    for name, present in (("weight", spec.scale), ("bias", spec.offset)):
        if affine and not present:
            setattr(layer, name, None)
    if spec.affine_frozen:
        layer.requires_grad_(requires_grad=False)
    return layer


def _fill(layer: Any, spec: Spec, state: State) -> None:
    import torch

    statistics = getattr(torch, spec.statistics_dtype)
    for name in ARRAYS:
        array, held = getattr(state, name), getattr(layer, name)
        if array is None:
            continue
        if name.startswith("running_"):
            held = held.to(statistics)
            setattr(layer, name, held)
        with torch.no_grad():
            held.copy_(torch.tensor(array))
    if spec.track_statistics:
        if state.batches is not None:
            layer.num_batches_tracked.fill_(state.batches)
        elif spec.statistics_frozen:
            layer.num_batches_tracked = None
        layer.track_running_stats = spec.options.get("track_running_stats", True)
