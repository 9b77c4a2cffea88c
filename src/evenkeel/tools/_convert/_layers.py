"""One layer made to stand in the target: roles that are missing, order of rows, element types."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import stored
from evenkeel.errors import InputError, UnsayableError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer
    from evenkeel.tools._convert._matching import Match
    from evenkeel.tools._convert._records import Framework, Purpose

#: Role -> the value that computes what a layer without it computes.
NEUTRAL: Final[dict[str, int]] = {"weight": 1, "scale": 1, "bias": 0, "offset": 0, "batches": 0}
#: Frameworks that put channels first, so that a flattened picture has its rows in (C, *S) order.
CHANNELS_FIRST: Final = ("torch", "onnx")
#: Settings of other kinds than batch norm that change what a layer computes.
_DECIDING: Final = ("eps", "groups", "dilation", "strides", "reset_after")
#: What a role's array becomes; the layouts of each framework are in evenkeel.dialects._layers.
_LAYOUTS: Final[dict[str, dict[str, str]]] = {
    "dense": {"torch": "(out, in)", "keras": "(in, out)", "flax": "(in, out)"},
    "conv": {"torch": "(out, in, *k)", "keras": "(*k, in, out)", "flax": "(*k, in, out)"},
    "conv_transpose": {
        "torch": "(in, out, *k)",
        "keras": "(*k, out, in)",
        "flax": "(*k, in, out)",
    },
    "lstm": {"torch": "gates i, f, g, o", "keras": "gates i, f, c, o", "flax": "one per gate"},
    "gru": {"torch": "gates r, z, n", "keras": "gates z, r, h", "flax": "one per gate"},
}
# An ONNX graph has the layouts that its exporter chose; the usual one is torch's.
for _layout in _LAYOUTS.values():
    _layout["onnx"] = _layout["torch"]


def holds_no_weight(layer: Layer) -> bool:
    """Whether a layer holds only whole numbers, such as a random seed."""
    return layer.kind == "other" and not any("float" in a.dtype for a in layer.arrays.values())


def change_of(layer: Layer, source: Framework, target: Framework) -> str:
    """What happens to the layout of a kernel, empty for nothing."""
    layouts = _LAYOUTS.get(layer.kind, {})
    flattened = tuple(layer.settings.get("flattened") or ())
    mixed = (source in CHANNELS_FIRST) != (target in CHANNELS_FIRST)
    before, after = layouts.get(source, ""), layouts.get(target, "")
    change = f"{before} -> {after}" if before != after else ""
    if mixed and math.prod(flattened[:-1]) > 1:
        sizes = "x".join(map(str, flattened))
        change += f"{', ' if change else ''}rows of a flattened {sizes} reordered"
    return change


def adapt(pair: Match, source: Framework, purpose: Purpose) -> tuple[Layer, tuple[str, ...]]:
    """The source's layer under the target's name, and what had to be made for it.

    Raises:
        UnsayableError: the target lacks an array, a setting differs, or the target would train
            what the source does not have.
        InputError: an element type of the target cannot hold the source's values.
    """
    like = pair.target
    layer = with_rows(pair.source, tuple(like.settings.get("flattened") or ()), source)
    _require_settings(pair)
    if extra := [role for role in layer.arrays if role not in like.arrays and role != "batches"]:
        why = f"{like.name!r} of the target has only {', '.join(like.arrays)}"
        do = "build the target with it; between live models evenkeel.port carries what it can"
        raise _refusal(layer, ", ".join(extra), why, do)
    made = _made(pair, purpose)
    arrays = {role: layer.arrays.get(role) or _neutral(like, role) for role in like.arrays}
    arrays = {role: _cast(layer, role, a, like.arrays[role]) for role, a in arrays.items()}
    settings = {**like.settings, **layer.settings}
    return replace(layer, name=like.name, kind=like.kind, arrays=arrays, settings=settings), made


def with_rows(layer: Layer, shape: tuple[int, ...], framework: Framework) -> Layer:
    """A dense layer behind a flattened picture (*S, C), its rows in that order."""
    if layer.kind != "dense" or not shape or layer.settings.get("flattened"):
        return layer
    arrays = dict(layer.arrays)
    kernel = arrays["kernel"]
    if math.prod(shape) != kernel.shape[0]:
        why = f"a picture of {'x'.join(map(str, shape))} has {math.prod(shape)} values"
        raise _refusal(layer, f"{kernel.shape[0]} inputs", why, "correct the sizes", InputError)
    if framework in CHANNELS_FIRST:
        arrays["kernel"] = _channels_last(kernel, shape)
    return replace(layer, arrays=arrays, settings={**layer.settings, "flattened": shape})


def _channels_last(kernel: StoredArray, shape: tuple[int, ...]) -> StoredArray:
    def read() -> NDArray[Any]:
        values = kernel.read()
        rows = values.reshape(shape[-1], *shape[:-1], values.shape[1])
        return np.moveaxis(rows, 0, -2).reshape(values.shape)

    return StoredArray(kernel.shape, kernel.dtype, read)


def _made(pair: Match, purpose: Purpose) -> tuple[str, ...]:
    layer, like = pair.source, pair.target
    made = [role for role in like.arrays if role not in layer.arrays]
    for role in made:
        if role not in NEUTRAL:
            why = f"{like.name!r} of the target needs it and nothing can stand for it"
            raise _refusal(layer, f"no {role}", why, "use a source that has it")
    trained = [role for role in made if role != "batches"]
    frozen = like.spec.affine_frozen if like.spec else not like.trainable
    if trained and purpose == "training" and not frozen:
        values = ", ".join(f"{role} = {NEUTRAL[role]}" for role in trained)
        why = f"{like.name!r} of the target would train {values}, which the source does not have"
        do = "build the target without it, freeze it, or convert with purpose='inference'"
        raise _refusal(layer, f"no {', '.join(trained)}", why, do)
    return tuple(f"{role} = {NEUTRAL[role]}" for role in made)


def _neutral(like: Layer, role: str) -> StoredArray:
    array = like.arrays[role]
    dtype = "float32" if array.dtype == "bfloat16" else array.dtype
    return stored(np.full(array.shape, NEUTRAL[role], dtype), array.dtype)


def _cast(layer: Layer, role: str, array: StoredArray, like: StoredArray) -> StoredArray:
    """The array in the target's element type, where that holds every value exactly."""
    if array.dtype == like.dtype:
        return array
    if role != "batches" and not _widens(array.dtype, like.dtype):
        why = f"the target stores {like.dtype}, which cannot hold every value"
        do = f"build the target with {array.dtype}"
        raise _refusal(layer, f"{role} of type {array.dtype}", why, do, InputError)
    dtype = "float32" if like.dtype == "bfloat16" else like.dtype
    return StoredArray(array.shape, like.dtype, lambda: array.read().astype(dtype))


def _widens(source: str, target: str) -> bool:
    if source == "bfloat16":
        return target in {"float32", "float64"}
    if target == "bfloat16":
        return False
    return np.can_cast(source, target, "safe")


def _require_settings(pair: Match) -> None:
    ours, theirs = pair.source.settings, pair.target.settings
    for name in _DECIDING:
        if name not in ours or name not in theirs:
            continue
        mine, other = _plain(ours[name]), _plain(theirs[name])
        if mine != other:
            why = f"{pair.target.name!r} of the target has {name}={theirs[name]!r}"
            do = f"build the target with {name}={ours[name]!r}"
            raise _refusal(pair.source, f"{name}={ours[name]!r}", why, do)


def _plain(value: object) -> object:
    """One number for sizes that are the same along every axis."""
    if isinstance(value, list | tuple):
        sizes: list[Any] = [*value]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON
        return sizes[0] if sizes and len({*sizes}) == 1 else tuple(sizes)
    return value


def _refusal(
    layer: Layer, got: str, why: str, do: str, kind: type[InputError] = UnsayableError
) -> InputError:
    asked = f"convert the {layer.kind} layer {layer.name!r}"
    return kind(explain(asked=asked, got=got, why=why, do=do))
