"""Records as JSON text and back: the form in which a run is stored, resumed and reported."""

from __future__ import annotations

import hashlib
import json
import math
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

if TYPE_CHECKING:
    from evenkeel.study._plan import RunConfig

RecordT = TypeVar("RecordT")


def encode(record: object) -> bytes:
    """Write a dataclass as JSON; a float comes back with the same bits."""
    return msgspec.json.encode(record)


def decode(content: bytes, kind: type[RecordT]) -> RecordT:
    """Read a dataclass that :func:`encode` wrote.

    Raises:
        msgspec.ValidationError: the content is of another form.
    """
    return msgspec.json.decode(content, type=kind)


def key(config: RunConfig) -> str:
    """Return a name for a run that depends on every setting of it."""
    text = json.dumps(plain(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def plain(record: Any) -> Any:  # noqa: ANN401 - any dataclass in, any JSON value out
    """Return a dataclass as dictionaries and lists, as JSON has them."""
    return msgspec.to_builtins(record)


def short(value: float) -> float | None:
    """Round to six significant digits (float32 carries seven); None if not finite.

    Example:
        >>> short(2 / 3), short(float("nan"))
        (0.666667, None)
    """
    return float(f"{value:.6g}") if math.isfinite(value) else None
