"""Finds the state dicts in what a training script saved: beside optimizers, epochs, settings.

A state dict is a dict with string keys that holds a floating-point tensor of rank 1 or more;
bookkeeping (losses, step counts, random states) holds none. Optimizers are recognized by
their own two keys and left out, because their moments have the shapes of the weights.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, cast

from evenkeel.checkpoints._checkpoint import refusal

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

_OPTIMIZER_KEYS: Final = {"state", "param_groups"}
#: Deeper than any training framework nests; a pickle can nest without end.
_DEEPEST: Final = 12


def find_parts(path: Path, loaded: object) -> tuple[dict[str, dict[str, Tensor]], tuple[str, ...]]:
    """The state dicts by their place (``""`` is the top), and the keys that hold none.

    Raises:
        FileError: there is no state dict in it.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    _collect(loaded, "", parts, set())
    if not parts:
        raise refusal(
            path,
            got=f"a {type(loaded).__name__} without a state dict",
            why="no dict of names and floating-point tensors is in it",
            do="save model.state_dict(), alone or under a key of a dict",
        )
    top = cast("Mapping[Any, Any]", loaded)
    taken = {*parts.get("", {}), *(place.partition("/")[0] for place in parts)}
    return parts, tuple(str(key) for key in top if key not in taken)


def _collect(
    value: object, place: str, parts: dict[str, dict[str, Tensor]], seen: set[int]
) -> None:
    # `seen` keeps a dict that is reached by many ways from being walked many times.
    if not isinstance(value, Mapping) or id(value) in seen or place.count("/") >= _DEEPEST:
        return
    seen.add(id(value))
    entries = cast("Mapping[Any, Any]", value)
    if entries.keys() >= _OPTIMIZER_KEYS:
        return
    named = {key: entry for key, entry in entries.items() if isinstance(key, str)}
    tensors = {key: entry for key, entry in named.items() if _is_tensor(entry)}
    if any(entry.is_floating_point() and entry.dim() for entry in tensors.values()):
        parts[place] = tensors
    for key, entry in named.items():
        _collect(entry, f"{place}/{key}" if place else key, parts, seen)


def _is_tensor(value: object) -> bool:
    import torch

    return isinstance(value, torch.Tensor)
