"""Functions that Flax's layers hold, by names that JSON can keep."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import UnsayableError, explain

if TYPE_CHECKING:
    from collections.abc import Callable

_CONSTANT: Final = re.compile(r"constant\((?P<value>[^()]+)\)")


def initializer_name(function: Callable[..., Any]) -> str:
    """What an initializer is: ``zeros``, ``ones``, ``constant(0.5)``, else module and name.

    What the closure of another initializer holds (the deviation of a normal distribution) is
    part of its name, so that two that differ are not taken for one.
    """
    home, name = function.__module__, function.__qualname__
    if home.startswith("jax.") and name in {"zeros", "ones"}:
        return name
    closed = {
        key: value
        for key, value in (
            inspect.getclosurevars(function).nonlocals.items()
            if inspect.isfunction(function)
            else ()
        )
        if isinstance(value, int | float | str)
    }
    if home.startswith("jax.") and name == "constant.<locals>.init" and "value" in closed:
        return f"constant({closed['value']!r})"
    short = name.partition(".<locals>")[0]
    inside = ", ".join(f"{key}={value!r}" for key, value in sorted(closed.items()))
    return f"{home}.{short}({inside})" if inside else f"{home}.{short}"


def initializer(name: str) -> Callable[..., Any]:
    """Undo :func:`initializer_name`.

    Raises:
        UnsayableError: it is none of ``zeros``, ``ones`` and ``constant(...)``.
    """
    from jax.nn import initializers

    if name in {"zeros", "ones"}:
        return getattr(initializers, name)
    if match := _CONSTANT.fullmatch(name):
        return initializers.constant(float(match["value"]))
    raise UnsayableError(
        explain(
            asked="build a Flax layer",
            got=f"the initializer {name}",
            why="only zeros, ones and constant(...) are rebuilt from their names; no code is "
            "run from a description",
            do="leave the option out (the arrays are set anyway), or build the layer yourself",
        )
    )


def is_rebuildable(name: str) -> bool:
    """Whether :func:`initializer` knows the name."""
    return name in {"zeros", "ones"} or _CONSTANT.fullmatch(name) is not None
