"""Which layer of one file is which layer of another: by name, else by order, kind and shape."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

    from evenkeel.dialects._layers import Layer

#: What a wrapper puts before every name (DataParallel, torch.compile).
_WRAPPERS: Final = re.compile(r"^((module|_orig_mod)\.)+")
#: Arrays that a layer of the kind always has; the others may be missing on one side.
_ALWAYS: Final = ("kernel", "recurrent", "embedding", "alpha", "running_mean", "mean")
#: Kinds whose arrays look alike, so that a file of weights cannot tell them apart.
_ALIKE: Final = {"group_norm": "layer_norm"}
_LISTED: Final = 4


@dataclass(frozen=True, slots=True)
class Match:
    """Two layers that are the same, and how that was found."""

    source: Layer
    target: Layer
    how: Literal["name", "order", "map"]


@dataclass(frozen=True, slots=True)
class Side:
    """The layers of one file; ``ordered`` where they stand in the order of the model."""

    said: str
    layers: Sequence[Layer]
    ordered: bool


def spelled(name: str) -> str:
    """A name without what its framework or a wrapper puts into it (``nnx.Sequential``)."""
    parts = _WRAPPERS.sub("", name.replace("/", ".")).split(".")
    return ".".join(part for part in parts if part != "layers")


def match_layers(source: Side, target: Side, mapping: Mapping[str, str] | None) -> list[Match]:
    """Every layer of both sides with its counterpart, in the order of the source.

    Raises:
        InputError: a name of ``mapping`` is unknown, layers of one name do not fit, a layer has
            no counterpart, or has two that are equally good.
    """
    found = {pair.source.name: pair for pair in _by_map(source, target, mapping or {})}
    _collect(found, _by_name(*_rest(source, target, found)))
    left, right = _rest(source, target, found)
    _require_counterparts(left, right)
    if left.layers:
        _collect(found, _by_order(left, right) or _by_signature(left, right))
    return [found[layer.name] for layer in source.layers]


def fits(source: Layer, target: Layer) -> bool:
    """Whether kind and shapes agree; a bias, scale or offset may be missing on one side."""
    if kind_of(source) != kind_of(target):
        return False
    ours, theirs = source.shapes, target.shapes
    if source.kind == "other":
        return sorted(ours.values()) == sorted(theirs.values())
    shared = (ours.keys() & theirs.keys()) - {"batches"}
    always = all((role in ours) == (role in theirs) for role in _ALWAYS)
    return always and all(ours[role] == theirs[role] for role in shared)


def kind_of(layer: Layer) -> str:
    """The kind, alike ones under one name."""
    return _ALIKE.get(layer.kind, layer.kind)


def _collect(found: dict[str, Match], more: Iterable[Match]) -> None:
    found.update({pair.source.name: pair for pair in more})


def _rest(source: Side, target: Side, found: Mapping[str, Match]) -> tuple[Side, Side]:
    taken = {pair.target.name for pair in found.values()}
    left = [layer for layer in source.layers if layer.name not in found]
    right = [layer for layer in target.layers if layer.name not in taken]
    return (
        Side(source.said, left, source.ordered),
        Side(target.said, right, target.ordered),
    )


def _by_map(source: Side, target: Side, mapping: Mapping[str, str]) -> list[Match]:
    ours = {layer.name: layer for layer in source.layers}
    theirs = {layer.name: layer for layer in target.layers}
    pairs: list[Match] = []
    for name, other in mapping.items():
        for key, names, side in ((name, ours, source), (other, theirs, target)):
            if key not in names:
                why = f"the layers of {side.said} are {_listed(names)}"
                raise _refusal(source, target, f"a map with {key!r}", why, "correct the map")
        pairs.append(Match(ours[name], theirs[other], "map"))
    taken = [pair.target.name for pair in pairs]
    if len({*taken}) < len(taken):
        raise _refusal(source, target, f"a map to {_listed(taken)}", "a name twice", "correct it")
    return [_fitting(source, target, pair) for pair in pairs]


def _by_name(source: Side, target: Side) -> list[Match]:
    theirs: dict[str, list[Layer]] = defaultdict(list)
    for layer in target.layers:
        theirs[spelled(layer.name)].append(layer)
    ours: dict[str, list[Layer]] = defaultdict(list)
    for layer in source.layers:
        ours[spelled(layer.name)].append(layer)
    return [
        _fitting(source, target, Match(layers[0], theirs[name][0], "name"))
        for name, layers in ours.items()
        if len(layers) == len(theirs.get(name, ())) == 1
    ]


def _fitting(source: Side, target: Side, pair: Match) -> Match:
    if fits(pair.source, pair.target):
        return pair
    why = f"in {target.said} {pair.target.name!r} is {_said(pair.target)}"
    got = f"{pair.source.name!r}, {_said(pair.source)}"
    do = "build the model like the source, or say which layer is which with mapping= (--map)"
    raise _refusal(source, target, got, why, do)


def _require_counterparts(left: Side, right: Side) -> None:
    """Both sides must have as many layers of each kind and shape."""
    for one, other in ((left, right), (right, left)):
        present = _groups(other.layers, _signature)
        for signature, layers in _groups(one.layers, _signature).items():
            if len(layers) > len(present.get(signature, ())):
                names = _listed(layer.name for layer in layers)
                got = f"{len(layers)} of {_said(layers[0])} in {one.said}: {names}"
                why = f"{other.said} has {len(present.get(signature, ()))} that could be meant"
                do = (
                    "build the model like the source; what one side lacks can be carried "
                    "between live models: evenkeel.port"
                )
                raise _refusal(left, right, got, why, do)


def _by_order(left: Side, right: Side) -> list[Match]:
    """Pairs by the order of the layers, or none where the order proves nothing.

    The order is evidence only in a chain, where each layer takes what the one before gives:
    branches of equal shapes may be written down in either order.
    """
    ours, theirs = _sequence(left), _sequence(right)
    if ours is None or theirs is None or not (ours[1] or theirs[1]):
        return []
    if any(whole and not _is_chain(layers) for layers, whole in (ours, theirs)):
        return []
    if ours[1] and theirs[1] and [*map(kind_of, ours[0])] != [*map(kind_of, theirs[0])]:
        return []
    counterparts = _groups(theirs[0], kind_of)
    pairs = [
        Match(layer, other, "order")
        for kind, layers in _groups(ours[0], kind_of).items()
        for layer, other in zip(layers, counterparts[kind], strict=True)
    ]
    return pairs if all(fits(pair.source, pair.target) for pair in pairs) else []


def _by_signature(left: Side, right: Side) -> list[Match]:
    theirs = _groups(right.layers, _signature)
    pairs: list[Match] = []
    for signature, layers in _groups(left.layers, _signature).items():
        if len(layers) > 1:
            names = _listed(layer.name for layer in layers)
            others = _listed(layer.name for layer in theirs[signature])
            got = f"{_said(layers[0])} {len(layers)} times: {names}"
            why = f"neither names nor order tell which of them are {others} in {right.said}"
            do = (
                "say it with mapping={source name: target name} (--map A=B), or give both models "
                "to evenkeel.port, which compares what the layers compute"
            )
            raise _refusal(left, right, got, why, do)
        pairs.append(Match(layers[0], theirs[signature][0], "order"))
    return pairs


def _sequence(side: Side) -> tuple[list[Layer], bool] | None:
    """The layers in the order of the model, and whether that is known across kinds, too.

    Files that sort their names still tell it where names differ in their numbers only:
    ``layers.2`` comes before ``layers.10``, ``Conv_0`` before ``Conv_1``.
    """
    if side.ordered:
        return [*side.layers], True
    counted = sorted(side.layers, key=lambda layer: _numbers(layer.name))
    if len(_groups(counted, lambda layer: _template(layer.name))) == 1:
        return counted, True
    kinds = _groups(counted, kind_of).values()
    if all(len(_groups(group, lambda layer: _template(layer.name))) == 1 for group in kinds):
        return counted, False
    return None


def _template(name: str) -> str:
    return re.sub(r"\d+", "#", name)


def _numbers(name: str) -> tuple[int, ...]:
    return tuple(map(int, re.findall(r"\d+", name)))


def _is_chain(layers: Iterable[Layer]) -> bool:
    """Whether each layer takes as many features as the one before gives."""
    width: int | None = None
    for layer in layers:
        takes, gives = _features(layer)
        if width is not None and takes is not None and takes != width:
            depthwise = layer.kind == "conv" and layer.shapes["kernel"][-2] == 1
            flattened = layer.kind == "dense" and takes % width == 0
            if not depthwise and not flattened:
                return False
        width = gives if gives is not None else width
    return True


def _features(layer: Layer) -> tuple[int | None, int | None]:
    """How many features a layer takes and gives, None where its arrays do not say."""
    shapes = layer.shapes
    kernel = shapes.get("kernel", ())
    match layer.kind:
        case "conv":
            found = kernel[-2] * int(layer.settings.get("groups") or 1), kernel[-1]
        case "conv_transpose":
            found = kernel[-1], kernel[-2]
        case "dense":
            found = kernel[0], kernel[1]
        case "lstm" | "gru" | "simple_rnn":
            found = kernel[0], shapes["recurrent"][0]
        case "embedding":
            found = None, shapes["embedding"][-1]
        case "batch_norm":
            channels = next((s[0] for role, s in shapes.items() if role != "batches"), None)
            found = channels, channels
        case _:
            found = None, None
    return found


def _signature(layer: Layer) -> Hashable:
    shapes = layer.shapes
    if layer.kind == "other":
        return "other", *sorted(shapes.values())
    known = [role for role in _ALWAYS if role in shapes] or sorted(shapes)[:1]
    return kind_of(layer), *(shapes[role] for role in known)


def _groups(
    layers: Iterable[Layer], key: Callable[[Layer], Hashable]
) -> dict[Hashable, list[Layer]]:
    groups: dict[Hashable, list[Layer]] = defaultdict(list)
    for layer in layers:
        groups[key(layer)].append(layer)
    return groups


def _said(layer: Layer) -> str:
    shapes = ", ".join(f"{role} {shape}" for role, shape in layer.shapes.items() if shape)
    return f"{layer.kind} ({shapes})"


def _listed(names: Iterable[str]) -> str:
    known = [*names]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    return ", ".join(map(repr, known[:_LISTED])) + more


def _refusal(source: Side, target: Side, got: str, why: str, do: str) -> InputError:
    asked = f"match the layers of {source.said} with those of {target.said}"
    return InputError(explain(asked=asked, got=got, why=why, do=do))
