"""When a matching is no matching: what is left over, what is undecided, and where data part."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

import numpy as np

from evenkeel.errors import InputError, explain
from evenkeel.tools._matching._data import SAME, Print, distance
from evenkeel.tools._matching._order import PREPROCESSING, first_guess

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer
    from evenkeel.tools._matching._order import Side
    from evenkeel.tools._matching._pairs import Matching
    from evenkeel.tools._matching._search import Candidate, Search

#: Layers that a message names before it only counts.
_NAMED: Final = 5
#: Settings that a framework may say in another way although they mean the same.
_TOLD: Final = ("strides", "dilation", "groups", "padding", "eps", "reset_after")


@dataclass(frozen=True, slots=True, eq=False)
class Complete:
    """Both sides after what takes no part was put aside."""

    source: Side
    target: Side
    remarks: tuple[str, ...]


def leading(side: Side, inputs: NDArray[Any]) -> tuple[tuple[Layer, ...], NDArray[Any]]:
    """The preprocessing layers that the inputs run through first, and what they make of them."""
    found: list[Layer] = []
    for call in side.trace.calls:
        layer = side.layers.get(call.layer)
        if layer is None or layer.kind not in PREPROCESSING:
            break
        if not np.array_equal(call.input, inputs):
            break
        found.append(layer)
        inputs = call.output
    return tuple(found), inputs


def check_preprocessing(source: Iterable[Layer], target: Iterable[Layer]) -> bool:
    """Whether both begin with the same preprocessing; False where only the source has some.

    Raises:
        InputError: the target begins with preprocessing that the source does not have.
    """
    theirs = [_preprocessing(layer) for layer in target]
    if not theirs:
        return False
    ours = [_preprocessing(layer) for layer in source]
    if ours == theirs:
        return True
    raise InputError(
        explain(
            asked="match the inputs of two networks",
            got=f"{', '.join(theirs)} at the beginning of the target, "
            f"{', '.join(ours) or 'no preprocessing'} at the beginning of the source",
            why="preprocessing cannot be taken out of a network that is built",
            do="build the target without it (include_preprocessing=False in keras.applications)",
        )
    )


def check_mapping(source: Side, target: Side, mapping: Mapping[str, str]) -> dict[str, str]:
    """The hand-written map as target name -> source name.

    Raises:
        InputError: a name is unknown or used twice, or the shapes can never fit.
    """
    fixed: dict[str, str] = {}
    for one, other in mapping.items():
        for name, side, words in ((one, source, "source"), (other, target, "target")):
            if name not in side.layers:
                _refuse_mapping(
                    f"{name!r}", f"the {words} has no such layer; it has {_names(side.layers)}"
                )
        if other in fixed:
            _refuse_mapping(f"{other!r} twice", "one layer takes the values of one layer")
        if source.signatures[one][:-1] != target.signatures[other][:-1]:
            before, after = (_shown(s, n) for s, n in ((source, one), (target, other)))
            _refuse_mapping(f"{before} to {after}", "kind or shape differ")
        fixed[other] = one
    return fixed


def check_complete(source: Side, target: Side, fixed: Mapping[str, str]) -> Complete:
    """Every layer that runs has a counterpart.

    Raises:
        InputError: some have none.
    """
    source, target = (_holding(side) for side in (source, target))
    guess = first_guess(source, target, fixed)
    left = [name for name in source.order if name not in set(guess.values())]
    right = [name for name in target.order if name not in guess]
    idle = ([n for n in left if _is_idle(source, n)], [n for n in right if _is_idle(target, n)])
    running = ([n for n in left if n not in idle[0]], [n for n in right if n not in idle[1]])
    if any(running):
        _refuse_incomplete(source, target, *running)
    remarks: list[str] = []
    if idle[0]:
        remarks.append(f"Never called in the source and not carried over: {_names(idle[0])}.")
    if idle[1]:
        remarks.append(f"Never called in the target and left as they are: {_names(idle[1])}.")
    return Complete(source.without(idle[0]), target.without(idle[1]), tuple(remarks))


def check_ambiguity(search: Search, best: Candidate, fixed: Mapping[str, str]) -> None:
    """Refuse layers that could change places although neither is without effect by itself.

    Layers that both take effect and whose swap would be seen are settled; where the swap would
    not be seen, they are interchangeable in effect.

    Raises:
        InputError: two layers get the same input and nothing shows which is which.
    """
    live: dict[str, bool] = {}
    for one, other in search.same_input(best):
        if {one, other} & fixed.keys():
            continue
        for name in (one, other):
            if name not in live:
                live[name] = search.is_live(best, name)
        if not live[one] and not live[other]:
            _refuse_ambiguous(best, one, other)


def describe_difference(target: Side, matching: Matching, best: Candidate, expected: Print) -> str:
    """Where the two networks part first, in words."""
    partners = {pair.target.name: pair for pair in matching.pairs}
    before = ""
    for name in target.order:
        if name in best.seen and name not in best.settled:
            text = f"the input of {_paired(partners, name)} differs"
            if before:
                text += f"; the last layer before it that agrees is {_paired(partners, before)}"
                text += _settings(partners, before)
            return text + _settings(partners, name)
        before = name
    return _output_difference(best, expected)


def _output_difference(best: Candidate, expected: Print) -> str:
    assert best.output is not None  # noqa: S101 - every candidate was run
    text = "every layer gets the same input, but the outputs differ"
    logits = best.output.rows
    powers = np.exp(logits - logits.max(axis=-1, keepdims=True))
    softmax = Print.of(powers / powers.sum(axis=-1, keepdims=True))
    if distance(expected, softmax) < SAME:
        text += ": the source ends in a softmax and the target does not"
    return text


def _settings(partners: Mapping[str, Any], name: str) -> str:
    """The settings of a pair that differ, as far as both say them."""
    if name not in partners:
        return ""
    one, other = partners[name].source.settings, partners[name].target.settings
    told = [
        f"{key} {one[key]} and {other[key]}"
        for key in _TOLD
        if key in one and key in other and _plain(one[key]) != _plain(other[key])
    ]
    return f" ({', '.join(told)})" if told else ""


def _plain(value: Any) -> Any:  # noqa: ANN401 - settings are of any type
    return tuple(map(_plain, value)) if isinstance(value, list | tuple) else value


def _paired(partners: Mapping[str, Any], name: str) -> str:
    pair = partners.get(name)
    return repr(name) if pair is None else f"{name!r} ({pair.source.name!r} in the source)"


def _holding(side: Side) -> Side:
    """Without layers that hold nothing, such as a rescaling in the middle of a network."""
    empty = [n for n, layer in side.layers.items() if not layer.arrays and layer.spec is None]
    return side.without(empty)


def _is_idle(side: Side, name: str) -> bool:
    return side.signatures[name][-1] == 0


def _preprocessing(layer: Layer) -> str:
    numbers = ", ".join(f"{key}={value}" for key, value in layer.settings.items())
    return f"{layer.kind}({numbers})"


def _refuse_incomplete(source: Side, target: Side, left: list[str], right: list[str]) -> None:
    norms = [
        _shown(side, name)
        for side, names in ((source, left), (target, right))
        for name in names
        if side.layers[name].kind == "batch_norm"
    ]
    why = "no layer of the same kind and shape, called as often, is left on the other side"
    if norms and len(norms) == len(left) + len(right):
        why = "a batch norm that only one network has changes what it computes"
    raise InputError(
        explain(
            asked="match the layers of two networks",
            got=f"without a counterpart in the source: {_shown_all(source, left)}; "
            f"in the target: {_shown_all(target, right)}",
            why=why,
            do="compare the two definitions (width, number of classes, version of the "
            "architecture); mapping={source name: target name} cannot bridge other shapes",
        )
    )


def _refuse_ambiguous(best: Candidate, one: str, other: str) -> None:
    before, after = best.guess[one], best.guess[other]
    raise InputError(
        explain(
            asked="match the layers of two networks",
            got=f"{before!r} and {after!r} of the source, {one!r} and {other!r} of the target: "
            "one kind, one shape, one input",
            why="neither has any effect on what comes after it, so no data can tell them apart",
            do=f"say which is which: mapping={{{before!r}: {one!r}, {after!r}: {other!r}}} or "
            f"the other way round",
        )
    )


def _refuse_mapping(got: str, why: str) -> NoReturn:
    raise InputError(
        explain(
            asked="match the layers of two networks by a hand-written map",
            got=got,
            why=why,
            do="map names of the source's layers to names of the target's",
        )
    )


def _shown_all(side: Side, names: list[str]) -> str:
    shown = [_shown(side, name) for name in names[:_NAMED]]
    return _with_rest(shown, len(names) - _NAMED)


def _shown(side: Side, name: str) -> str:
    layer = side.layers[name]
    shape = next((layer.shapes[r] for r in ("kernel", *layer.shapes) if r in layer.shapes), ())
    return f"{name!r} ({layer.kind} {'x'.join(map(str, shape))})"


def _names(names: Iterable[str]) -> str:
    known = list(names)
    return _with_rest([repr(name) for name in known[:_NAMED]], len(known) - _NAMED)


def _with_rest(shown: list[str], rest: int) -> str:
    if not shown:
        return "none"
    return ", ".join(shown) + (f" and {rest} more" if rest > 0 else "")
