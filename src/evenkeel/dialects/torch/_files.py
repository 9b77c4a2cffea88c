"""State dicts as layers, and layers as a state dict; every array is turned when it is read."""

from __future__ import annotations

import re
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import numpy as np

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import Kind, Layer, StoredNetwork
from evenkeel.dialects._stored_specs import stored_specs
from evenkeel.dialects.torch._arrays import read_layer
from evenkeel.dialects.torch._guess import Guess, fits, guess
from evenkeel.dialects.torch._layouts import Role, roles_of, rows_of_flattened
from evenkeel.errors import InputError, UnsayableError, explain

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.spec import Spec

    Own = dict[str, StoredArray]

_STATISTICS: Final = ("running_mean", "running_var")
_COUNTER: Final = "num_batches_tracked"
_BATCH_NORM: Final = ("weight", "bias", *_STATISTICS, _COUNTER)
_DIRECTIONS: Final = {"forward": "", "backward": "_reverse"}
_DEPTH: Final = re.compile(r"l\d+")


def read_network(checkpoint: Checkpoint, kinds: Mapping[str, str] | None = None) -> StoredNetwork:
    """The layers of a state dict, in the order of the file.

    A state dict names no classes. A batch norm is told by its statistics, a recurrent layer by
    its names, a dense one by its bias; a kernel of rank 3 to 5 is taken for a convolution and a
    scale with an offset for a layer norm, which other kinds with the same layout could be, too
    (``assumed`` then holds ``"kind"``). What else cannot be told is ``other`` with the
    possible kinds under ``settings["could_be"]``. Settings that evenkeel wrote into the
    metadata of a safetensors file are read back.

    Args:
        checkpoint: of torch names, in any format.
        kinds: layer name (``*`` for any part of it) to kind, where the arrays leave it open.

    Raises:
        InputError: a kind that is told does not fit the arrays, or a batch norm is damaged.
    """
    groups: dict[str, Own] = {}
    for name, array in checkpoint.arrays.items():
        prefix, _, key = name.rpartition(".")
        groups.setdefault(prefix, {})[key] = array
    specs = stored_specs(checkpoint)
    layers: list[Layer] = []
    taken: set[str] = set()
    for prefix, own in groups.items():
        for layer, names in _layers(checkpoint, prefix, own, specs, kinds or {}):
            layers.append(layer)
            taken |= {f"{prefix}.{name}" if prefix else name for name in names}
    unread = tuple(name for name in checkpoint.arrays if name not in taken)
    return StoredNetwork("torch", tuple(layers), unread, _remarks(layers))


def write_network(
    layers: Sequence[Layer], like: Checkpoint | None = None
) -> dict[str, StoredArray]:
    """The state dict of these layers; slashes in their names become dots.

    A batch norm without a counter gets one of 0, so that torch loads the result strictly.
    Arrays of a batch norm that torch does not have (those of batch renormalization) are left
    out; :func:`unsayable` names them.

    Args:
        layers: in the canonical layout.
        like: a checkpoint of the target network: its names are the ones that may be written,
            and its order is kept.

    Raises:
        UnsayableError: a layer of a kind that torch does not have.
        InputError: two layers have one name, or ``like`` has no such array.
    """
    written: dict[str, StoredArray] = {}
    for layer in layers:
        for name, array in _tensors(layer).items():
            if name in written:
                why = "slashes in names become dots"
                raise _refusal(layer, f"two arrays called {name!r}", why, "rename one layer")
            written[name] = array
    if like is None:
        return written
    for name in [name for name in written if name not in like.arrays]:
        if not name.endswith(_COUNTER):
            why = "the file that gives the names has no such array"
            raise InputError(
                explain(
                    asked=f"write {name!r} of a state dict like {like.path}",
                    got=f"names such as {', '.join(list(like.arrays)[:5])}",
                    why=why,
                    do="name the layers as the target does, or leave `like` out",
                )
            )
        del written[name]
    for name, array in written.items():
        if array.shape != like.arrays[name].shape:
            raise InputError(
                explain(
                    asked=f"write {name!r} of a state dict like {like.path}",
                    got=f"shape {array.shape}",
                    why=f"the file has {like.arrays[name].shape} there",
                    do="pass a file of the same network",
                )
            )
    return {name: written[name] for name in like.arrays if name in written}


def _layers(
    checkpoint: Checkpoint,
    prefix: str,
    own: Own,
    specs: Mapping[str, Spec],
    kinds: Mapping[str, str],
) -> list[tuple[Layer, set[str]]]:
    """The layers under one prefix, each with the names of the arrays that it took."""
    if {*_STATISTICS} <= own.keys():
        layer = _batch_norm(checkpoint, prefix, own, specs.get(prefix))
        return [(layer, {key for key in own if key in _BATCH_NORM})]
    found: list[tuple[Layer, set[str]]] = []
    for raw in guess(prefix, own):
        known = _told(raw, own, kinds)
        arrays = {role: _canonical(held, own) for role, held in known.roles.items()}
        assumed = ("kind",) if known.assumed else ()
        layer = Layer(known.name, known.kind, arrays, known.settings, assumed=assumed)
        found.append((layer, {name for held in known.roles.values() for name in held.tensors}))
    return found


def _batch_norm(checkpoint: Checkpoint, name: str, own: Own, spec: Spec | None) -> Layer:
    found = read_layer(checkpoint.arrays, name)
    if spec is not None:
        found.state.check(spec)
    arrays = {key: own[key] for key in _BATCH_NORM[:-1] if key in own}
    if found.state.batches is not None:
        count = np.asarray(found.state.batches, np.int64)
        arrays["batches"] = StoredArray((), "int64", lambda: count)
    assumed = found.assumed if spec is None else ()
    return Layer(name, "batch_norm", arrays, spec=spec or found.spec, assumed=assumed)


def _told(found: Guess, own: Own, kinds: Mapping[str, str]) -> Guess:
    """The guess, or what the user said that the layer is."""
    for pattern, kind in kinds.items():
        if not fnmatchcase(found.name, pattern):
            continue
        if kind == found.kind:
            return replace(found, assumed=False)
        possible = cast("Kind", kind)
        if kind in get_args(Kind) and fits(possible, own):
            return Guess(found.name, possible, roles_of(possible, own))
        if pattern == found.name:
            raise InputError(
                explain(
                    asked=f"read the layer {found.name!r} as {kind!r}",
                    got=", ".join(f"{key} {array.shape}" for key, array in own.items()),
                    why="a layer of that kind has other arrays",
                    do=f"say one of {', '.join(found.could_be) or found.kind}",
                )
            )
    return found


def _canonical(held: Role, own: Own) -> StoredArray:
    sources = [own[name] for name in held.tensors]
    shape = held.shape(*(source.shape for source in sources))
    return StoredArray(
        shape, sources[0].dtype, lambda: held.read(*(source.read() for source in sources))
    )


def _remarks(layers: Sequence[Layer]) -> tuple[str, ...]:
    remarks: list[str] = []
    for kind, other in (("conv", "conv_transpose"), ("layer_norm", "group_norm")):
        names = [la.name for la in layers if la.kind == kind and "kind" in la.assumed]
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            remarks.append(
                f"{names[0]}{more}: taken for {kind}, which names and shapes do not tell from "
                f"{other}."
            )
    return tuple(remarks)


def _tensors(layer: Layer) -> dict[str, StoredArray]:
    """Names of a state dict and arrays of one layer."""
    base, suffix = _split(layer)
    prefix = base.replace("/", ".")
    prefix = f"{prefix}." if prefix else ""
    if layer.kind == "other":
        return {prefix + role: array for role, array in layer.arrays.items()}
    if layer.kind in {"normalization", "rescaling"}:
        why = f"torch has no layer of kind {layer.kind}"
        raise _unsayable(layer, layer.kind, why, "apply it to the inputs, and leave it out")
    if layer.kind == "gru" and not layer.settings.get("reset_after", True):
        why = "torch applies the reset gate after the matrix product"
        raise _unsayable(layer, "reset_after=False", why, "train it with reset_after=True")
    known = roles_of(layer.kind, None, suffix)
    written: dict[str, StoredArray] = {}
    for role, array in layer.arrays.items():
        if role not in known:
            if layer.kind == "batch_norm":
                continue
            why = f"a layer of kind {layer.kind} has {', '.join(known)}"
            raise _refusal(layer, f"an array {role!r}", why, "leave it out")
        for index, name in enumerate(known[role].tensors):
            written[prefix + name] = _tensor(layer, role, array, known[role], index)
    if layer.kind == "batch_norm" and "running_mean" in layer.arrays:
        zero = StoredArray((), "int64", lambda: np.asarray(0, np.int64))
        written.setdefault(prefix + _COUNTER, zero)
    return written


def _tensor(layer: Layer, role: str, array: StoredArray, held: Role, index: int) -> StoredArray:
    flattened = layer.settings.get("flattened") if role == "kernel" else None

    def read() -> NDArray[Any]:
        value = array.read()
        if flattened is not None and len(flattened) > 1:
            value = rows_of_flattened(value, tuple(flattened))
        return np.asarray(held.write(value)[index], order="C")

    empty = np.broadcast_to(np.int8(0), array.shape)
    return StoredArray(held.write(empty)[index].shape, array.dtype, read)


def _split(layer: Layer) -> tuple[str, str]:
    """The module's name, and the suffix of its tensors for one layer of a recurrent module."""
    parts, suffix = layer.name.split("/"), ""
    if layer.kind not in {"lstm", "gru", "simple_rnn"}:
        return layer.name, ""
    if parts[-1] in _DIRECTIONS:
        suffix = _DIRECTIONS[parts.pop()]
    depth = parts.pop() if parts and _DEPTH.fullmatch(parts[-1]) else "l0"
    return "/".join(parts), f"_{depth}{suffix}"


def _unsayable(layer: Layer, got: str, why: str, do: str) -> UnsayableError:
    return UnsayableError(
        explain(asked=f"write the layer {layer.name!r} for torch", got=got, why=why, do=do)
    )


def _refusal(layer: Layer, got: str, why: str, do: str) -> InputError:
    return InputError(
        explain(asked=f"write the layer {layer.name!r} as a state dict", got=got, why=why, do=do)
    )
