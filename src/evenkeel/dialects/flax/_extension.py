"""The batch-norm layer of ``evenkeel.integrations.flax``, if a process has imported it.

Dialects stand below integrations and do not import them.
"""

from __future__ import annotations

from typing import Any

_REGISTERED: list[type[Any]] = []


def register(kind: type[Any]) -> None:
    """Let the dialect use ``kind``, a subclass of ``flax.nnx.BatchNorm`` that says more."""
    _REGISTERED[:] = [kind]


def extension() -> type[Any] | None:
    """The registered layer."""
    return _REGISTERED[0] if _REGISTERED else None


def is_extension(kind: type[Any]) -> bool:
    """Whether ``kind`` is the registered layer, or extends it."""
    return bool(_REGISTERED) and issubclass(kind, _REGISTERED[0])
