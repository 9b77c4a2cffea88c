"""Reads the source of a conversion, with everything that says of what kind a layer is."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Final, get_args

from evenkeel.dialects._layers import Kind
from evenkeel.errors import InputError, explain
from evenkeel.tools._convert._formats import framework_of, read_network
from evenkeel.tools._convert._layers import with_rows
from evenkeel.tools._convert._matching import spelled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.dialects._layers import Layer, StoredNetwork
    from evenkeel.tools._convert._records import Framework

#: Kinds that a state dict does not tell from each other where a bias is missing.
_UNDECIDED: Final = ("conv", "conv_transpose", "layer_norm", "group_norm")
_FLATTENED: Final = re.compile(r"dense:(\d+(?:x\d+)+)")


def has_model_order(checkpoint: Checkpoint) -> bool:
    """Whether the file keeps its layers in the order of the model; many sort their names."""
    if checkpoint.kind == "hdf5":
        return "model" in checkpoint.config
    return checkpoint.kind in {"torch", "keras", "onnx"}


def read_source(
    checkpoint: Checkpoint, kinds: dict[str, str], like: Sequence[Layer]
) -> StoredNetwork:
    """The network of a file, its kinds settled by the user, then by the names of ``like``.

    Raises:
        InputError: a kind is unknown, or a pattern fits no layer.
    """
    _require_kinds(kinds)
    network = read_network(checkpoint)
    plain = _expanded(checkpoint, kinds, network)
    told = _kinds_of_like(network, like) | plain
    if told:
        network = read_network(checkpoint, told)
    framework = framework_of(checkpoint)
    layers = tuple(_sized(layer, kinds, framework) for layer in network.layers)
    return replace(network, layers=layers)


def fitting_kinds(
    one: Checkpoint, two: Checkpoint, kinds: dict[str, str]
) -> tuple[dict[str, str], dict[str, str]]:
    """For each of two files the patterns that fit a layer of it; each has to fit in one."""
    sides = [
        {
            pattern: kind
            for pattern, kind in kinds.items()
            if any(fnmatchcase(layer.name, pattern) for layer in read_network(file).layers)
        }
        for file in (one, two)
    ]
    nowhere = {p: kind for p, kind in kinds.items() if p not in sides[0] and p not in sides[1]}
    return sides[0] | nowhere, sides[1]


def _require_kinds(kinds: dict[str, str]) -> None:
    for name, kind in kinds.items():
        if kind in get_args(Kind) or _FLATTENED.fullmatch(kind):
            continue
        known = ", ".join(kind for kind in get_args(Kind) if kind != "other")
        raise InputError(
            explain(
                asked=f"the kind of {name}",
                got=repr(kind),
                why=f"known are {known}, and dense:HxWxC behind a flattened picture",
                do="pass one of these",
            )
        )


def _expanded(
    checkpoint: Checkpoint, kinds: dict[str, str], network: StoredNetwork
) -> dict[str, str]:
    """The kinds by full names of layers.

    Raises:
        InputError: a pattern fits no layer.
    """
    names = [layer.name for layer in network.layers]
    told: dict[str, str] = {}
    for pattern, kind in kinds.items():
        fitting = [name for name in names if fnmatchcase(name, pattern)]
        if not fitting:
            raise InputError(
                explain(
                    asked=f"kinds of layers of {checkpoint.path}",
                    got=f"the pattern {pattern!r}",
                    why=f"no layer has such a name; there are {', '.join(names[:8])}",
                    do="correct the pattern; * stands for any part of a name",
                )
            )
        told |= dict.fromkeys(fitting, kind.partition(":")[0])
    return told


def _kinds_of_like(network: StoredNetwork, like: Sequence[Layer]) -> dict[str, str]:
    """Kinds that the target's structure settles, for layers of one name or one shape."""
    named: dict[str, str] = {spelled(layer.name): layer.kind for layer in like}
    told: dict[str, str] = {}
    for layer in network.layers:
        could_be = tuple(layer.settings.get("could_be", ()))
        there = {str(kind) for kind in could_be if any(other.kind == kind for other in like)}
        kind = named.get(spelled(layer.name), "")
        if "kind" in layer.assumed and kind in _UNDECIDED:
            told[layer.name] = kind
        if layer.kind != "other" or not could_be:
            continue
        if kind in could_be:
            told[layer.name] = kind
        elif len(there) == 1:
            told[layer.name] = there.pop()
    return told


def _sized(layer: Layer, kinds: dict[str, str], framework: Framework) -> Layer:
    """A dense layer with the sizes of the flattened picture before it, where the user gave them."""
    for pattern, kind in kinds.items():
        if layer.kind != "dense" or not fnmatchcase(layer.name, pattern):
            continue
        sizes = _FLATTENED.fullmatch(kind)
        # One place with all features: their order is the same everywhere.
        shape = map(int, sizes[1].split("x")) if sizes else (1, layer.shapes["kernel"][0])
        return with_rows(layer, tuple(shape), framework)
    return layer
