"""What the names in an HDF5 file of Keras must have in common, since HDF5 has no checksums."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Groups of the older format beside those of the layers.
_NO_LAYERS: Final = {"top_level_model_weights", "optimizer_weights"}


def join_split(attributes: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Put together ``weight_names0``, ``weight_names1``, ... (Keras splits long lists)."""
    return {path: _joined(found) for path, found in attributes.items()}


def check_names(
    arrays: Sequence[str], groups: Sequence[str], attributes: Mapping[str, Mapping[str, Any]]
) -> str:
    """What does not fit, or nothing.

    In the older format the attributes list the layers of the file and the arrays of each layer.
    In Keras 3's format every array stands in a group ``vars``; numbered ones have no gap.
    """
    for path, found in attributes.items():
        wrong = _check_lists(path, found, arrays, groups)
        if wrong:
            return wrong
    holders: dict[str, list[str]] = {}
    for name in arrays:
        holder, _, last = name.rpartition("/")
        holders.setdefault(holder, []).append(last)
    in_vars = [holder for holder in holders if holder.rpartition("/")[2] == "vars"]
    if in_vars and len(in_vars) != len(holders):
        odd = next(holder for holder in holders if holder not in in_vars)
        return f"has arrays in {odd!r}, where others stand in groups called 'vars'"
    for holder in in_vars:
        numbers = sorted(int(last) for last in holders[holder] if re.fullmatch(r"\d+", last))
        if numbers != [*range(len(numbers))]:
            return f"numbers the arrays of {holder!r} with gaps"
    return ""


def _check_lists(
    path: str, found: Mapping[str, Any], arrays: Sequence[str], groups: Sequence[str]
) -> str:
    inside = f"{path}/" if path else ""
    if "weight_names" in found:
        below = {name.removeprefix(inside) for name in arrays if name.startswith(inside)}
        if below != {*found["weight_names"]}:
            return f"lists other arrays for {path!r} than it has"
    if "layer_names" in found:
        below = {name.removeprefix(inside) for name in groups if name.startswith(inside)}
        layers = {name for name in below if name and "/" not in name}
        if layers - _NO_LAYERS != {*found["layer_names"]} - _NO_LAYERS:
            return f"lists other layers for {path!r} than it has"
    return ""


def _joined(found: Mapping[str, Any]) -> dict[str, Any]:
    joined: dict[str, Any] = {}
    numbered = sorted(
        (match[1], int(match[2]), name)
        for name in found
        if (match := re.fullmatch(r"(weight_names|layer_names)(\d+)", name))
    )
    for base, _, name in numbered:
        joined.setdefault(base, []).extend(found[name])
    taken = {name for _, _, name in numbered}
    return {**{name: value for name, value in found.items() if name not in taken}, **joined}
