"""The classes of all modules of a model, to go back to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from evenkeel.tools._adopt._classes import narrow_statistics, own_attributes

if TYPE_CHECKING:
    from torch import nn


class Snapshot:
    """Which class each module has, and what evenkeel keeps in it."""

    def __init__(self, model: nn.Module) -> None:
        self._modules = [
            (module, type(module), {k: v for k, v in vars(module).items() if k in names})
            for module in model.modules()
            for names in [own_attributes(module)]
        ]

    def restore(self) -> None:
        """Give classes back; parameters and statistics keep what was learned since."""
        for module, kind, own in self._modules:
            if type(module) is kind:
                continue
            module.__class__ = kind
            for name in own_attributes(module):
                vars(module).pop(name, None)
            vars(module).update(own)
            narrow_statistics(module)
