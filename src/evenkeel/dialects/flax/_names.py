"""Tells layers by the names and shapes of their arrays, where nothing else is known."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from evenkeel.dialects.flax import _codec
from evenkeel.dialects.flax._kinds import Known

if TYPE_CHECKING:
    from collections.abc import Mapping

    Shapes: TypeAlias = Mapping[str, tuple[int, ...]]

#: Full names of a layer's arrays by their own names.
Parts: TypeAlias = dict[str, str]

#: Recurrent cells by the children that hold their arrays.
_CELLS: Final = (
    ({"ii", "if", "ig", "io", "hi", "hf", "hg", "ho"}, Known("lstm", _codec.LSTM)),
    ({"ii", "if_", "ig", "io", "hi", "hf", "hg", "ho"}, Known("lstm", _codec.LSTM_NNX)),
    ({"ir", "iz", "in", "hr", "hz", "hn"}, Known("gru", _codec.GRU, {"reset_after": True})),
)
_JOINED: Final = {
    4: Known("lstm", _codec.LSTM_JOINED),
    3: Known("gru", _codec.GRU_JOINED, {"reset_after": True}),
    1: Known("simple_rnn", _codec.SIMPLE_JOINED),
}
#: Name that Linen gives a module that its author did not name.
_AUTOMATIC: Final = re.compile(r"(?P<kind>[A-Za-z]\w*?)_\d+")


def guess(shapes: Shapes, *, strict: bool = False) -> dict[str, tuple[Known, Parts]]:
    """The layers among arrays.

    A kernel of rank 3 to 5 could be one of a transposed convolution, which has another layout.

    Args:
        shapes: by full name, slashes between its parts, without the collection.
        strict: whether such a kernel is a convolution's only under Linen's own name for one;
            else it is unless Linen's own name says otherwise.

    Returns:
        Layer name -> what it is, and the full names of its arrays by their own names.
    """
    holders: dict[str, Parts] = {}
    for full in shapes:
        holder, _, own = full.rpartition("/")
        holders.setdefault(holder, {})[own] = full
    layers: dict[str, tuple[Known, Parts]] = {}
    cells = _cells(holders, shapes)
    for holder, parts in holders.items():
        above = holder.rpartition("/")[0]
        if above != holder and above in cells:
            layers.setdefault(above, cells[above])
            continue
        own = {key: shapes[full] for key, full in parts.items()}
        layers[holder] = (_single(holder, own, strict=strict), parts)
    return layers


def _cells(holders: Mapping[str, Parts], shapes: Shapes) -> dict[str, tuple[Known, Parts]]:
    children: dict[str, dict[str, Parts]] = {}
    for holder, parts in holders.items():
        above, _, child = holder.rpartition("/")
        children.setdefault(above, {})[child] = parts
    found: dict[str, tuple[Known, Parts]] = {}
    for above, inner in children.items():
        if above in holders:
            continue
        flat = {f"{c}/{own}": full for c, parts in inner.items() for own, full in parts.items()}
        own_shapes = {own: shapes[full] for own, full in flat.items()}
        known = _cell({*inner}, own_shapes)
        if known is not None and _codec.covers(known.codec, list(flat)):
            found[above] = (known, flat)
    return found


def _cell(children: set[str], shapes: Shapes) -> Known | None:
    for names, known in _CELLS:
        if children == names:
            return known
    if children == {"i", "h"}:
        return Known("simple_rnn", _codec.SIMPLE)
    if children == {"dense_i", "dense_h"}:
        recurrent = shapes.get("dense_h/kernel", ())
        if len(recurrent) == 2 and recurrent[0] and recurrent[1] % recurrent[0] == 0:
            return _JOINED.get(recurrent[1] // recurrent[0])
    return None


def _single(holder: str, own: Shapes, *, strict: bool) -> Known:
    """A layer whose arrays stand side by side."""
    hint = _hint(holder) or ("ConvTranspose" if strict else "")
    for recognized in (_normalization, _weights, _parameter):
        if (known := recognized({*own}, own, hint)) is not None:
            return known
    settings: dict[str, Any] = {"class": _hint(holder) or "unknown"}
    if could_be := _could_be(own):
        settings["could_be"] = could_be
    return Known("other", _codec.plain(list(own)), settings)


def _could_be(own: Shapes) -> tuple[str, ...]:
    """The kinds among which names and shapes do not choose."""
    if {*own} <= {"scale", "bias"} and {len(shape) for shape in own.values()} == {1}:
        return ("layer_norm", "group_norm")
    if "kernel" in own and {*own} <= {"kernel", "bias"} and 3 <= len(own["kernel"]) <= 5:
        return ("conv_transpose", "conv")
    return ()


def _normalization(names: set[str], own: Shapes, hint: str) -> Known | None:
    """``scale`` without statistics may be a layer or a group norm; Linen's own name tells."""
    vectors = {name: shape for name, shape in own.items() if name != "batches"}
    if {len(shape) for shape in vectors.values()} != {1}:
        return None
    if {"mean", "var"} <= names <= {"mean", "var", "scale", "bias", "batches"}:
        alike = len({*vectors.values()}) == 1
        return Known("batch_norm", _codec.BATCH_NORM) if alike else None
    if hint == "LayerNorm" and names <= {"scale", "bias"}:
        return Known("layer_norm", _codec.NORM, {"eps": 1e-6})
    return None


def _weights(names: set[str], own: Shapes, hint: str) -> Known | None:
    rank = len(own.get("kernel", ()))
    if not ("kernel" in names <= {"kernel", "bias"} and len(own.get("bias", (0,))) == 1):
        return None
    if rank == 2:
        return Known("dense", _codec.DENSE)
    is_conv = 3 <= rank <= 5 and hint != "ConvTranspose"
    return Known("conv", _codec.DENSE) if is_conv else None


def _parameter(names: set[str], own: Shapes, _hint: str) -> Known | None:
    if names == {"embedding"} and len(own["embedding"]) == 2:
        return Known("embedding", _codec.EMBEDDING)
    if names == {"negative_slope"} and own["negative_slope"] == ():
        return Known("prelu", _codec.PRELU)
    return None


def _hint(holder: str) -> str:
    match = _AUTOMATIC.fullmatch(holder.rpartition("/")[2])
    return match["kind"] if match else ""
