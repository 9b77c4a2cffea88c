"""Why two networks differ: a likely cause is named only with the evidence for it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from evenkeel import reference
from evenkeel.spec import Activation
from evenkeel.tools._compare._bound import UNIT32, distance, largest
from evenkeel.tools._compare._records import Cause
from evenkeel.tools._compare._shifts import LINEAR

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.tools._compare._bound import Quantity
    from evenkeel.tools._compare._inference import CallsOfOne, Inference
    from evenkeel.tools._compare._sides import Sides
    from evenkeel.tools._matching import Pair

#: Zeros before and after each spatial axis.
Pads: TypeAlias = "tuple[tuple[int, int], ...]"
#: What explains a difference leaves at most this share of it.
_EXPLAINED: Final = 1e-2
#: Relative difference of stored arrays that counts as one: a few roundings of float32.
_STORED: Final = 8 * UNIT32
_ACTIVATIONS: Final = ("relu", "relu6", "leaky_relu", "silu", "gelu", "hardswish", "elu")


def inference_causes(
    sides: Sides, inference: Inference, state: Values, held: Values
) -> tuple[Cause, ...]:
    """Why inference differs, from the first call that does.

    Args:
        sides: both networks.
        inference: what was found.
        state: of the source.
        held: of the target, in whose layout the source's arrays are compared with it.
    """
    if inference.equal:
        return ()
    call = inference.first_difference()
    if call is None:
        return (_after_last(inference),)
    judged = call.input if call.input is not None and not call.input.equal else call.output
    if not _is_finite(judged.quantity):
        return (_not_finite(call, judged.quantity.item),)
    if judged.same:
        return (_rounding(call, judged.error_a, judged.error_b),)
    if judged is call.input:
        return (_at_input(call),)
    ours, theirs = inference.shifts
    found = (
        *_by_arrays(call.pair, sides.expected(state), theirs.without(held)),
        *_by_eps(call, ours.without(state)),
        *_by_padding(call),
    )
    return found or (_unknown_layer(call),)


def _at_input(call: CallsOfOne) -> Cause:
    """What happened between layers: an activation, another order, or something unseen."""
    assert call.input is not None  # noqa: S101 - called for an input that differs
    ours, theirs = call.input.quantity.exact, _exact_b(call)
    name = call.pair.source.name
    difference = distance(ours, theirs)
    for activation in _ACTIVATIONS:
        function = Activation.parse(activation)
        for side, one, two in (("b", ours, theirs), ("a", theirs, ours)):
            if distance(reference.activate(two, function), one) <= _EXPLAINED * difference:
                evidence = (
                    f"what goes into {name} is equal after {activation} on the side of {side} "
                    "(the other side applies it already)"
                )
                return Cause("activation", name, evidence)
    applied = _applied(call, ours, theirs)
    if applied is not None:
        return Cause("activation", name, applied)
    if ours.shape == theirs.shape and _same_numbers(ours, theirs):
        evidence = f"{name} gets the same numbers on both sides, in another order"
        return Cause("layout", name, evidence)
    evidence = (
        f"all layers before {name} agree, and what goes into it does not: something without "
        f"arrays in between differs (an activation, pooling, a sum); by up to {difference:.2g}"
    )
    return Cause("unknown", name, evidence)


def _applied(call: CallsOfOne, ours: NDArray[Any], theirs: NDArray[Any]) -> str | None:
    """Which activations turn the output of the layer before into what both sides get."""
    if call.before is None or call.before.quantity.exact.size != ours.size:
        return None
    z = call.before.quantity.exact.reshape(ours.shape)
    names: list[str] = []
    for x in (ours, theirs):
        for name in ("identity", *_ACTIVATIONS):
            if distance(reference.activate(z, Activation.parse(name)), x) <= _STORED * largest(z):
                names.append(name)
                break
    if len(names) < 2 or names[0] == names[1]:
        return None
    return f"between {call.before.quantity.layer} and it a applies {names[0]}, b {names[1]}"


def _by_arrays(pair: Pair, expected: Values, held: Values) -> Iterator[Cause]:
    """Arrays of the layer that are not the source's."""
    ours, theirs = expected.get(pair.target.name, {}), held.get(pair.target.name, {})
    for role, array in ours.items():
        other = theirs.get(role)
        if role == "batches" or other is None:
            continue
        gap = distance(array, other)
        if gap <= _STORED * largest(array):
            continue
        name = pair.source.name
        if array.size == other.size and _same_numbers(array, other):
            how = _order(array, other)
            yield Cause("layout", name, f"in b its {role} holds the numbers of a {how}")
        else:
            yield Cause(
                "values",
                name,
                f"in b its {role} differs from that of a by up to {gap:.2g}: port first",
            )


def _by_eps(call: CallsOfOne, state: Values) -> Iterator[Cause]:
    """Batch norm under the other side's eps."""
    pair = call.pair
    one, two = pair.source.spec, pair.target.spec
    if one is None or two is None or one.eps == two.eps or call.input is None:
        return
    arrays = state[pair.source.name]
    x = call.input.quantity.exact
    if pair.order is not None or "running_mean" not in arrays:
        return
    y = reference.normalize(
        x.reshape(-1, x.shape[-1], 1),
        arrays["running_mean"],
        arrays["running_var"],
        arrays.get("weight"),
        arrays.get("bias"),
        two.eps,
    ).reshape(x.shape)
    left, difference = distance(y, _exact_b_output(call)), call.output.error_b
    if left <= _EXPLAINED * difference:
        yield Cause(
            "eps",
            pair.source.name,
            f"eps is {one.eps:g} in a and {two.eps:g} in b; with b's eps, a's output is b's "
            f"within {left:.1g} (now {difference:.1g})",
        )


def _by_padding(call: CallsOfOne) -> Iterator[Cause]:
    """Convolutions with one kernel that pad differently."""
    one, two = call.pair.source, call.pair.target
    if one.kind not in ("conv", "conv_transpose") or one.kind != two.kind:
        return
    sizes = tuple(x.shape[1:-1] for x in call.inputs)
    ours, theirs = resolved_padding(one, sizes[0]), resolved_padding(two, sizes[1])
    outside = _padded_outside(*call.inputs)
    if outside is not None:
        ours, theirs = _joined(ours, outside[0]), _joined(theirs, outside[1])
    elif call.input is None:
        return
    if ours != theirs:
        yield Cause(
            "padding",
            one.name,
            f"equal inputs and kernels, but a pads {_pairs(ours)} and b {_pairs(theirs)} "
            f"(before, after) at size {'x'.join(map(str, map(min, *sizes)))}",
        )


def _padded_outside(a: NDArray[Any], b: NDArray[Any]) -> tuple[Pads, Pads] | None:
    """Zeros around the smaller input, if the larger one is that; for a and for b."""
    if a.shape == b.shape or a.ndim != b.ndim or a.ndim < 3:
        return None
    small, large = (a, b) if a.size < b.size else (b, a)
    extra = [n - m for n, m in zip(large.shape, small.shape, strict=True)]
    if extra[0] or extra[-1] or min(extra) < 0:
        return None
    for before in np.ndindex(*(e + 1 for e in extra[1:-1])):
        pads = tuple((at, e - at) for at, e in zip(before, extra[1:-1], strict=True))
        padded = np.pad(small, ((0, 0), *pads, (0, 0)))
        if distance(padded, large) <= _STORED * largest(large):
            none = tuple((0, 0) for _ in pads)
            return (none, pads) if small is a else (pads, none)
    return None


def _joined(inside: Pads | str, outside: Pads) -> Pads | str:
    """Padding in the layer and before it."""
    if isinstance(inside, str):
        return inside
    return tuple((p + q, r + s) for (p, r), (q, s) in zip(inside, outside, strict=True))


def resolved_padding(layer: Layer, size: tuple[int, ...]) -> Pads | str:
    """Zeros before and after each spatial axis; a transposed convolution's own words.

    Source:
        ``"same"`` as TensorFlow defines it: the output has ceil(n / stride) positions and an odd
        zero goes to the end.
    """
    padding: Any = layer.settings.get("padding", "valid")
    if layer.kind == "conv_transpose" or padding not in ("valid", "same", "causal"):
        if isinstance(padding, str):
            return padding
        return tuple((int(before), int(after)) for before, after in padding)
    kernel = layer.shapes["kernel"][:-2]
    strides = _per_axis(layer, "strides", len(kernel))
    dilation = _per_axis(layer, "dilation", len(kernel))
    pads: list[tuple[int, int]] = []
    for n, k, s, d in zip(size, kernel, strides, dilation, strict=True):
        reach = (k - 1) * d
        total = max((-(-n // s) - 1) * s + reach + 1 - n, 0)
        choices = {
            "valid": (0, 0),
            "same": (total // 2, total - total // 2),
            "causal": (reach, 0),
        }
        pads.append(choices[padding])
    return tuple(pads)


def _per_axis(layer: Layer, name: str, axes: int) -> tuple[int, ...]:
    value: Any = layer.settings.get(name, 1)
    return (value,) * axes if isinstance(value, int) else tuple(value)


def _pairs(padding: Pads | str) -> str:
    return padding if isinstance(padding, str) else " ".join(map(str, padding))


def _after_last(inference: Inference) -> Cause:
    output = inference.output
    if not _is_finite(output.quantity):
        return Cause("non-finite", "", "the output of one side has NaN or Inf")
    if output.same:
        return Cause("rounding", "", "every layer agrees; the output is less exact in float32")
    exact, other = output.quantity.exact, output.quantity.other
    for name in _ACTIVATIONS:
        for side, one, two in (("b", exact, other), ("a", other, exact)):
            if one is None or two is None:
                continue
            applied = reference.activate(two, Activation.parse(name))
            if distance(applied, one) <= _EXPLAINED * distance(one, two):
                evidence = f"the outputs are equal after {name} on the side of {side}"
                return Cause("activation", "", evidence)
    return Cause(
        "unknown",
        "",
        "every layer agrees and the outputs do not: what follows the last layer differs",
    )


def _not_finite(call: CallsOfOne, item: str) -> Cause:
    pair = call.pair
    return Cause("non-finite", pair.source.name, f"its {item} has NaN or Inf on one side")


def _is_finite(quantity: Quantity) -> bool:
    q = quantity
    return all(one is None or np.isfinite(largest(one)) for one in (q.a, q.b, q.exact, q.other))


def _rounding(call: CallsOfOne, error_a: float, error_b: float) -> Cause:
    return Cause(
        "rounding",
        call.pair.source.name,
        f"both sides agree in float64; in float32 b's error is {error_b:.2g}, a's {error_a:.2g}, "
        "so b computes the same function less exactly",
    )


def _unknown_layer(call: CallsOfOne) -> Cause:
    pair = call.pair
    if not np.isfinite(call.output.error_b):
        shapes = [x.shape for x in (call.output.quantity.exact, _exact_b_output(call))]
        return Cause(
            "unknown",
            pair.source.name,
            f"its outputs are of the shapes {shapes[0]} and {shapes[1]}",
        )
    linear = "kernel and padding agree" if pair.source.kind in LINEAR else "its arrays agree"
    return Cause(
        "unknown",
        pair.source.name,
        f"its input agrees, its output differs by up to {call.output.error_b:.2g}, and {linear}",
    )


def _same_numbers(one: NDArray[Any], two: NDArray[Any]) -> bool:
    """Whether two arrays hold the same numbers, and not only a few different ones."""
    left, right = np.sort(one, axis=None), np.sort(two, axis=None)
    varied = len(np.unique(left)) > 2
    close = distance(left, right.astype(np.float64)) <= _STORED * largest(left)
    return bool(varied and left.shape == right.shape and close)


def _order(one: NDArray[Any], two: NDArray[Any]) -> str:
    """In which order two arrays hold the same numbers."""
    tolerance = _STORED * largest(one)
    if one.ndim > 1:
        swapped = np.swapaxes(one, -1, -2)
        if swapped.shape == two.shape and distance(swapped, two) <= tolerance:
            return "with inputs and outputs swapped"
        axes = tuple(range(one.ndim - 2))
        if axes and distance(np.flip(one, axes), two) <= tolerance:
            return "mirrored along the spatial axes"
        if axes and _is_transposed_plane(one, two, tolerance):
            return "with the spatial axes swapped"
    return "in another order"


def _is_transposed_plane(one: NDArray[Any], two: NDArray[Any], tolerance: float) -> bool:
    swapped = np.swapaxes(one, 0, 1) if one.ndim > 3 else one
    return one.ndim > 3 and swapped.shape == two.shape and distance(swapped, two) <= tolerance


def _exact_b(call: CallsOfOne) -> NDArray[Any]:
    assert call.input is not None  # noqa: S101 - called where there is an input
    q = call.input.quantity
    return _known(q.other, q.b)


def _exact_b_output(call: CallsOfOne) -> NDArray[Any]:
    q = call.output.quantity
    return _known(q.other, q.b)


def _known(other: NDArray[Any] | None, b: NDArray[Any] | None) -> NDArray[Any]:
    """The target's float64 array, or its float32 one where it has no float64 mode."""
    found = b if other is None else other
    return np.zeros(0) if found is None else found
