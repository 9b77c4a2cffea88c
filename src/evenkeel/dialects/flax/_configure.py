"""Gives a live NNX batch-norm layer the meaning of a description."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evenkeel.dialects._unsayable import Unsayable
from evenkeel.dialects.flax._extension import extension, is_extension

if TYPE_CHECKING:
    from evenkeel.dialects._layers import Layer
    from evenkeel.dialects._unsayable import Effect
    from evenkeel.dialects.flax._types import Module
    from evenkeel.spec import Spec

#: What to do about a setting that only the extension has.
USE_EXTENSION = (
    "use evenkeel.integrations.flax.BatchNorm, which says it (import evenkeel.integrations.flax "
    "first)"
)


def needs_extension(spec: Spec) -> tuple[Unsayable, ...]:
    """The fields of a description that ``flax.nnx.BatchNorm`` lacks and the extension has."""
    found: list[Unsayable] = []
    if spec.variance == "unbiased":
        why = "Flax stores the biased running variance"
        found.append(Unsayable("variance", "unbiased", why, USE_EXTENSION, "training"))
    if spec.momentum.is_cumulative:
        why = "Flax's momentum is a number; every batch would count alike"
        found.append(Unsayable("momentum", None, why, USE_EXTENSION, "training"))
    return tuple(found)


def configure(layer: Module, spec: Spec) -> tuple[Unsayable, ...]:
    """Set eps, momentum and variance convention of a layer in place.

    A ``flax.nnx.BatchNorm`` becomes the extension where it has to, which is a change of its
    class: the object and its variables stay.
    """
    from flax import nnx

    missing = needs_extension(spec)
    kind = extension()
    if missing and not is_extension(type(layer)):
        if kind is None or type(layer) is not nnx.BatchNorm:
            return missing
        kind.adopt(layer)
    kept: Any = layer  # pyright takes it for the base class alone
    if is_extension(type(layer)):
        kept.variance = spec.variance
    kept.epsilon = spec.eps
    kept.momentum = spec.momentum.as_weighing("old").value
    return ()


def fixed_in_code(layer: Layer, spec: Spec) -> tuple[Unsayable, ...]:
    """The fields of a description that a Linen layer does not have already.

    Nothing can be set: Linen makes the layer anew, in the code of its model, in every call.
    """
    mine = layer.spec or spec
    wanted, has = spec.momentum.as_weighing("old"), mine.momentum.as_weighing("old")
    fields: tuple[tuple[str, str, Any, Any, Effect], ...] = (
        ("eps", "epsilon", spec.eps, mine.eps, "inference"),
        ("momentum", "momentum", wanted.value, has.value, "training"),
    )
    found = [
        Unsayable(
            field,
            want,
            "a Linen layer is made in the code of its model, in every call",
            f"write {argument}={want!r} into the model's code, or use an NNX model",
            effect,
        )
        for field, argument, want, own, effect in fields
        if want is not None and (want != own or field in layer.assumed)
    ]
    return (*found, *(replace(item, do=_NNX_ONLY) for item in needs_extension(spec)))


_NNX_ONLY = "use an NNX model with evenkeel.integrations.flax.BatchNorm"
