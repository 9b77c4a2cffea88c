"""A first matching from kinds, shapes and execution order alone."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from evenkeel.tools._matching._data import without_border
from evenkeel.tools._matching._pairs import is_pointwise

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer
    from evenkeel.dialects._network import Call, Network, Trace

#: Kind, shapes and number of calls: what two layers must share to be matched.
Signature: TypeAlias = tuple[Any, ...]
Fingerprint: TypeAlias = tuple[tuple[int, ...], int]
#: Steps along links within which surroundings are compared.
_REFINEMENTS: Final = 8
PREPROCESSING: Final = frozenset({"normalization", "rescaling"})


@dataclass(frozen=True, slots=True, eq=False)
class Side:
    """One of the two networks: its layers, and what one run of it showed.

    Args:
        network: its interface.
        layers: by name.
        trace: of the run.
        order: names as they ran; layers that did not run come last.
        feeds: layer -> layer whose output is its input, bit for bit.
        links: the same, or the output after a ReLU or a padding.
        signatures: by name.
        colors: the signatures of a layer and of those linked to it, as one number.
    """

    network: Network
    layers: Mapping[str, Layer]
    trace: Trace
    order: tuple[str, ...]
    feeds: Mapping[str, str]
    links: Mapping[str, str]
    signatures: Mapping[str, Signature]
    colors: Mapping[str, int]

    def without(self, names: Iterable[str]) -> Side:
        """The same side, these layers put aside."""
        gone = set(names)
        return replace(
            self,
            layers={name: layer for name, layer in self.layers.items() if name not in gone},
            order=tuple(name for name in self.order if name not in gone),
        )


def look(network: Network, trace: Trace) -> Side:
    """What the layers of a network are, and in which order they ran."""
    layers = {layer.name: layer for layer in network.layers()}
    called: dict[str, list[Call]] = defaultdict(list)
    for call in trace.calls:
        called[call.layer].append(call)
    order = (*called, *(name for name in layers if name not in called))
    order = tuple(name for name in order if name in layers)
    signatures = {name: signature(layers[name], len(called[name])) for name in order}
    links = find_links(trace)
    colors = _colors(signatures, links)
    return Side(network, layers, trace, order, find_feeds(trace), links, signatures, colors)


def signature(layer: Layer, calls: int) -> Signature:
    """What a layer has to share with another one that does the same."""
    shapes, kind = layer.shapes, layer.kind
    groups = layer.settings.get("groups", 1)
    if is_pointwise(layer):
        what: Signature = ("pointwise", shapes["kernel"][-2:])
    elif kind == "batch_norm":
        what = (kind, layer.spec.channels if layer.spec else next(iter(shapes.values())))
    elif kind in ("conv", "conv_transpose"):
        what = (kind, shapes["kernel"], groups)
    elif kind in ("layer_norm", "group_norm"):
        what = ("norm", next(iter(shapes.values()), ()), groups)
    else:
        main = {role: shape for role, shape in shapes.items() if role != "bias"}
        what = (kind, tuple(sorted(main.items())))
    return (*what, calls)


def first_guess(source: Side, target: Side, fixed: Mapping[str, str]) -> dict[str, str]:
    """Target name -> source name: layers of one signature in the order in which they run.

    A layer that is linked to a matched layer goes with one that is linked to its partner, and
    layers whose surroundings look alike are preferred.
    """
    guess = dict(fixed)
    free = [name for name in source.order if name not in set(fixed.values())]
    linked = [name for name in target.order if name in target.links]
    unlinked = [name for name in target.order if name not in target.links]
    for name in (*unlinked, *linked):
        if name in guess:
            continue
        wanted = target.signatures[name]
        options = [other for other in free if source.signatures[other] == wanted]
        if options:
            guess[name] = _preferred(options, name, source, target, guess)
            free.remove(guess[name])
    return guess


def _preferred(
    options: list[str], name: str, source: Side, target: Side, guess: Mapping[str, str]
) -> str:
    """The option whose surroundings are most alike; of equal ones the first that runs."""
    partner = guess.get(target.links.get(name, ""))

    def unlikeness(other: str) -> tuple[bool, bool, bool]:
        follows = partner is not None and source.links.get(other) == partner
        alike = source.colors[other] == target.colors[name]
        return (not follows, not alike, (other in source.feeds) != (name in target.feeds))

    return min(options, key=unlikeness)


def find_feeds(trace: Trace) -> dict[str, str]:
    """Layer -> layer whose output is, bit for bit, its input."""
    return _found(trace, _fingerprint, lambda output: [_fingerprint(output)])


def find_links(trace: Trace) -> dict[str, str]:
    """Layer -> layer whose output, perhaps after a ReLU or a padding, is its input."""

    def made(output: NDArray[Any]) -> list[Fingerprint]:
        positive = np.maximum(output, 0)
        return [_trimmed(array) for array in (output, positive, np.minimum(positive, 6))]

    return _found(trace, _trimmed, made)


def _found(
    trace: Trace,
    of_input: Callable[[NDArray[Any]], Fingerprint],
    of_output: Callable[[NDArray[Any]], list[Fingerprint]],
) -> dict[str, str]:
    found: dict[str, str] = {}
    made: dict[Fingerprint, str] = {}
    for call in trace.calls:
        before = made.get(of_input(call.input), call.layer)
        if before != call.layer:
            found.setdefault(call.layer, before)
        made.update(dict.fromkeys(of_output(call.output), call.layer))
    return found


def _fingerprint(array: NDArray[Any]) -> Fingerprint:
    """Equal for equal arrays, whatever their memory order."""
    # Adding zero turns -0 into 0.
    return (array.shape, hash(np.ascontiguousarray(array + array.dtype.type(0)).tobytes()))


def _trimmed(array: NDArray[Any]) -> Fingerprint:
    return _fingerprint(without_border(array))


def _colors(signatures: Mapping[str, Signature], links: Mapping[str, str]) -> dict[str, int]:
    """Colour refinement: what a layer is, what it follows, and what follows it, step by step."""
    colors = {name: hash(what) for name, what in signatures.items()}
    followers: dict[str, list[str]] = defaultdict(list)
    for name, before in links.items():
        followers[before].append(name)
    for _ in range(_REFINEMENTS):
        colors = {
            name: hash(
                (
                    color,
                    colors.get(links.get(name, "")),
                    tuple(sorted(colors[f] for f in followers[name] if f in colors)),
                )
            )
            for name, color in colors.items()
        }
    return colors
