"""Which activation modules the kernels know, and whom somebody is watching."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from torch import nn

from evenkeel.spec import Activation

if TYPE_CHECKING:
    from collections.abc import Callable

_HOOKS: Final = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MODULES: Final[dict[type, Callable[[Any], Activation | None]]] = {
    nn.ReLU: lambda _: Activation("relu"),
    nn.ReLU6: lambda _: Activation("relu6"),
    nn.LeakyReLU: lambda m: Activation("leaky_relu", m.negative_slope),
    nn.SiLU: lambda _: Activation("silu"),
    nn.GELU: lambda m: Activation("gelu") if m.approximate == "none" else None,
    nn.Hardswish: lambda _: Activation("hardswish"),
}


def activation_of(then: nn.Module | tuple[str, float]) -> Activation | None:
    """The activation that a kernel knows by name, or None."""
    if isinstance(then, tuple):
        return Activation(*then)
    known = _MODULES.get(type(then))
    return None if known is None or is_watched(then) else known(then)


def is_watched(module: nn.Module) -> bool:
    """Whether somebody would notice that a module is not called, or is called for more."""
    own = vars(module)  # torch has no public question
    return any(own[name] for name in _HOOKS) or "forward" in own


def does_nothing(module: nn.Module) -> bool:
    """Whether a module hands its input on."""
    return type(module) is nn.Identity and not is_watched(module)
