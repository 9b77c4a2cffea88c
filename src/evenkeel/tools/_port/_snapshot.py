"""What a live network was, so that it can be that again."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evenkeel.tools._matching._pairs import state_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from evenkeel.dialects._network import Network


class Snapshot:
    """Values, batch-norm settings, classes and trained parameters of a network.

    Args:
        model: the object that the user passed in.
        network: its interface.
    """

    def __init__(self, model: Any, network: Network) -> None:  # noqa: ANN401 - any framework
        layers = network.layers()
        self._network = network
        self._values = state_of(layers)
        self._specs = {layer.name: layer.spec for layer in layers if layer.spec is not None}
        self._parts = [(part, type(part), _attributes(part)) for part in _parts(model)]
        self._frozen: list[Any] = []

    def freeze(self, model: Any, names: Iterable[tuple[str, str]]) -> tuple[str, ...]:  # noqa: ANN401 - of any framework
        """Stop training parameters, where the framework has a switch for a single one."""
        if not self._network.framework.startswith("torch"):
            return ()
        done: list[str] = []
        for name, role in names:
            parameter: Any = getattr(model.get_submodule(name), role, None)
            if getattr(parameter, "requires_grad", False):
                parameter.requires_grad = False
                self._frozen.append(parameter)
                done.append(f"{name}.{role}")
        return tuple(done)

    def restore(self) -> None:
        """Everything as it was when the snapshot was taken."""
        now = {layer.name: layer.spec for layer in self._network.layers()}
        for name, spec in self._specs.items():
            changed = now[name]
            # A name, a rank or options may not be configured; these three may.
            if (
                changed is not None
                and replace(changed, eps=spec.eps, momentum=spec.momentum, variance=spec.variance)
                != changed
            ):
                self._network.configure(name, spec)
        for part, kind, attributes in self._parts:
            if type(part) is not kind:
                part.__class__ = kind
                for name in vars(part).keys() - attributes:
                    delattr(part, name)
        self._network.write(self._values)
        for parameter in self._frozen:
            parameter.requires_grad = True
        self._frozen.clear()


def _attributes(part: Any) -> frozenset[str]:  # noqa: ANN401 - any framework
    return frozenset(vars(part))


def _parts(model: Any) -> Sequence[Any]:  # noqa: ANN401 - any framework
    """The layer objects whose class a changed convention may change."""
    if hasattr(model, "_flatten_layers"):
        return list(model._flatten_layers())  # noqa: SLF001 - keras has no public walk
    if hasattr(model, "named_modules"):
        return list(model.modules())
    nnx = sys.modules.get("flax.nnx")
    if nnx is not None and isinstance(model, nnx.Module):
        return [part for _, part in nnx.iter_modules(model)]
    return []
