"""evenkeel: batch normalization that is exact and explains itself.

``import evenkeel as ek`` loads no framework; each name below is loaded when first used.
"""

from __future__ import annotations

import importlib
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from evenkeel import errors, kernels, nn, reference
    from evenkeel.spec import Momentum, Spec, State
    from evenkeel.tools import adopt, compare, convert, inspect, port, release

__all__ = [
    "Momentum",
    "Spec",
    "State",
    "adopt",
    "compare",
    "convert",
    "errors",
    "inspect",
    "kernels",
    "nn",
    "port",
    "reference",
    "release",
]

try:
    __version__ = version("evenkeel")
except PackageNotFoundError:  # run from a source tree that was never installed
    __version__ = "0+unknown"

#: Public name -> module it lives in; a module that is itself public maps to None.
_HOME: Final[dict[str, str | None]] = {
    "Momentum": "evenkeel.spec",
    "Spec": "evenkeel.spec",
    "State": "evenkeel.spec",
    "adopt": "evenkeel.tools",
    "compare": "evenkeel.tools",
    "convert": "evenkeel.tools",
    "errors": None,
    "inspect": "evenkeel.tools",
    "kernels": None,
    "nn": None,
    "port": "evenkeel.tools",
    "reference": None,
    "release": "evenkeel.tools",
}


def __getattr__(name: str) -> object:
    if name not in _HOME:
        raise AttributeError(f"module 'evenkeel' has no attribute {name!r}")
    home = _HOME[name]
    if home is None:
        return importlib.import_module(f"evenkeel.{name}")
    value = getattr(importlib.import_module(home), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
