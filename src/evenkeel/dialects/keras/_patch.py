"""Puts another attribute into a Keras layer for a while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Generator

_ABSENT: Final = object()


@contextmanager
def patched(
    layer: Any,
    name: str,
    value: Any,
) -> Generator[None]:
    """Within, ``layer.name`` is ``value``; past the tracking of Keras and torch."""
    before = vars(layer).get(name, _ABSENT)
    object.__setattr__(layer, name, value)
    try:
        yield
    finally:
        if before is _ABSENT:
            object.__delattr__(layer, name)
        else:
            object.__setattr__(layer, name, before)
