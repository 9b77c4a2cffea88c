"""Which layer of one live network is which of another."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.tools._matching._data import sample, similar_inputs
from evenkeel.tools._matching._order import PREPROCESSING, look
from evenkeel.tools._matching._pairs import Matching, Pair, state_of
from evenkeel.tools._matching._refusals import (
    check_ambiguity,
    check_complete,
    check_mapping,
    check_preprocessing,
    describe_difference,
    leading,
)
from evenkeel.tools._matching._roles import settle_roles
from evenkeel.tools._matching._runs import traced
from evenkeel.tools._matching._search import Search

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer
    from evenkeel.dialects._network import Network
    from evenkeel.tools._matching._order import Side

__all__ = ["Matching", "Pair", "match"]


def match(
    source: Network,
    target: Network,
    inputs: NDArray[Any],
    mapping: Mapping[str, str] | None = None,
) -> Matching:
    """Find the layer of ``target`` that does what each layer of ``source`` does.

    Layers of one kind and shape are paired as they run. Then the source's values are written
    into the target, and layers move to where their input is seen in the source, until all
    agree. The target's own values are back when this returns or raises.

    Args:
        source: the network that has the values.
        target: the network that is to get them.
        inputs: an example, channels last; noise of its size is added.
        mapping: name in the source -> name in the target; these are kept.

    Returns:
        The matching. Where the data never agree, it follows the order, ``agrees`` is False and
        ``difference`` says where they part.

    Raises:
        InputError: a layer has no counterpart, or something that changes the function has none,
            or two layers could change places and no data would show it.
    """
    before = state_of(target.layers())
    try:
        return _match(source, target, inputs, mapping or {})
    finally:
        target.write(before)


def _match(
    source: Network, target: Network, inputs: NDArray[Any], mapping: Mapping[str, str]
) -> Matching:
    one, example = _looked(source, inputs)
    one, two, fed, put_aside = _aligned(one, target, example)
    fixed = check_mapping(one, two, mapping)
    complete = check_complete(one, two, fixed)
    values = state_of(tuple(complete.source.layers.values()))
    search = Search(complete.source, complete.target, values, fed, fixed)
    best = search.run()
    matching = search.matching(best)
    roles = settle_roles(matching, values)
    difference = ""
    if best.is_right:
        check_ambiguity(search, best, fixed)
    else:
        expected = sample(one.trace.output)
        difference = describe_difference(complete.target, matching, best, expected)
    return replace(
        matching,
        dropped=tuple(roles.dropped),
        made_roles=tuple(roles.made),
        preprocessing=put_aside,
        agrees=best.is_right,
        difference=difference,
        remarks=complete.remarks,
    )


def _looked(source: Network, inputs: NDArray[Any]) -> tuple[Side, NDArray[Any]]:
    """The source on inputs that tell its layers apart, or on the example if those overflow."""
    example = similar_inputs(inputs)
    trace = traced(source, example)
    if np.isfinite(trace.output).all():
        return look(source, trace), example
    return look(source, traced(source, inputs)), inputs


def _aligned(
    one: Side, target: Network, example: NDArray[Any]
) -> tuple[Side, Side, NDArray[Any], tuple[Layer, ...]]:
    """Both sides behind the source's preprocessing, unless the target has the same."""
    ours, prepared = leading(one, example)
    theirs: tuple[Layer, ...] = ()
    if any(layer.kind in PREPROCESSING for layer in target.layers()):
        theirs, _ = leading(look(target, traced(target, example)), example)
    if check_preprocessing(ours, theirs):
        return one, look(target, traced(target, example)), example, ()
    two = look(target, traced(target, prepared))
    return one.without(layer.name for layer in ours), two, prepared, ours
