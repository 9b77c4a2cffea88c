"""Networks in Flax's files: Linen variables and NNX states, as names and arrays.

Names are paths joined by slashes. Linen's begin with their collection, ``params`` or
``batch_stats``; an NNX state has neither, and integers in its paths; Orbax puts ``value`` behind
every name of an NNX state. No file holds eps, momentum, strides or the class of a layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import Layer, StoredNetwork
from evenkeel.dialects.flax import _codec
from evenkeel.dialects.flax._kinds import Known
from evenkeel.dialects.flax._names import guess
from evenkeel.errors import InputError, UnsayableError, explain
from evenkeel.spec import Momentum, Spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.dialects._layers import Kind
    from evenkeel.dialects.flax._codec import Codec

#: Fields of Spec that no file of Flax stores; a description read from one has Flax's defaults.
NOT_STORED: Final = ("eps", "momentum", "variance", "axis", "synchronized")
_COLLECTIONS: Final = ("params", "batch_stats")
_STATISTICS: Final = ("mean", "var", "batches")
#: Codecs under which a kind may be stored, Linen's default first.
_CODECS: Final[dict[str, tuple[Codec, ...]]] = {
    "dense": (_codec.DENSE,),
    "conv": (_codec.DENSE,),
    "conv_transpose": (_codec.TRANSPOSED, _codec.DENSE),
    "embedding": (_codec.EMBEDDING,),
    "layer_norm": (_codec.NORM,),
    "group_norm": (_codec.NORM,),
    "batch_norm": (_codec.BATCH_NORM,),
    "prelu": (_codec.PRELU,),
    "lstm": (_codec.LSTM, _codec.LSTM_NNX, _codec.LSTM_JOINED),
    "gru": (_codec.GRU, _codec.GRU_JOINED),
    "simple_rnn": (_codec.SIMPLE, _codec.SIMPLE_JOINED),
}


def read_network(checkpoint: Checkpoint, kinds: Mapping[str, str] | None = None) -> StoredNetwork:
    """The layers of a checkpoint, told by the names and shapes of their arrays.

    Args:
        checkpoint: of Linen variables or an NNX state, in any format.
        kinds: of layers that names and shapes do not tell: a ``scale`` without statistics may
            be a layer or a group norm, and a kernel of rank 3 to 5 a transposed convolution
            (then of ``transpose_kernel=False``). Such a layer is ``other`` unless told here,
            or named as Linen names a ``LayerNorm``.

    Raises:
        InputError: a layer that ``kinds`` names is not there, or does not look like that.
    """
    places = _places(checkpoint.arrays)
    shapes = {name: checkpoint.arrays[full].shape for name, full in places.items()}
    found = guess(shapes)
    told = dict(kinds or {})
    if missing := sorted(told.keys() - found.keys()):
        raise _refusal(
            f"kinds of the layers {missing}",
            f"a file with {len(found)} layers",
            "none of them has that name",
            f"use names of layers, such as {', '.join(map(repr, list(found)[:3]))}",
        )
    layers = tuple(
        _layer(name, _told(name, known, told.get(name), own_shapes), own)
        for name, (known, parts) in found.items()
        for own in [{key: checkpoint.arrays[places[full]] for key, full in parts.items()}]
        for own_shapes in [{key: array.shape for key, array in own.items()}]
    )
    read = set(places.values())
    unread = tuple(name for name in checkpoint.arrays if name not in read)
    return StoredNetwork("flax", layers, unread, _remarks(layers))


def write_network(
    layers: Iterable[Layer], like: Checkpoint | None = None
) -> dict[str, StoredArray]:
    """Names and arrays of a file of Flax; each array is made when it is read.

    Args:
        layers: in the canonical layout.
        like: a checkpoint of the target model, whose names are used; layers are called as
            :func:`read_network` calls its layers. Without it the names are those of Linen
            variables, made of the layers' own, and a transposed convolution is stored for
            ``transpose_kernel=False``, which is Flax's default.

    Raises:
        UnsayableError: Flax has no such layer, or stores something else for it.
        InputError: a layer of unknown kind, or one that does not fit ``like``.
    """
    sources = [layer for layer in layers if layer.arrays]
    for layer in sources:
        _require_sayable(layer, known_place=like is not None)
    if like is None:
        pairs = [(layer, _by_name(layer)) for layer in sources]
    else:
        pairs = _targets(sources, like)
    arrays: dict[str, StoredArray] = {}
    for layer, target in pairs:
        for part, array in _parts(target.codec, layer).items():
            if part in target.places:
                arrays[target.places[part]] = array
    return arrays


@dataclass(frozen=True, slots=True)
class _Target:
    """Where a layer goes: how it is stored, and the full names of its arrays by their own."""

    codec: Codec
    places: Mapping[str, str]


def stored_spec(name: str, own: Mapping[str, StoredArray]) -> Spec:
    """What a file says of a batch-norm layer; the rest is Flax's default.

    A counter is only there under the layer of ``evenkeel.integrations.flax``, which stores the
    unbiased variance unless told otherwise.
    """
    affine = own.get("scale", own.get("bias", own["mean"]))
    settings: dict[str, Any] = {
        "statistics_dtype": own["mean"].dtype,
        "parameter_dtype": affine.dtype,
    }
    return Spec(
        own["mean"].shape[0],
        momentum=Momentum(0.99, "old"),
        scale="scale" in own,
        offset="bias" in own,
        variance="unbiased" if "batches" in own else "biased",
        axis=-1,
        name=name,
        **settings,
    )


def _places(names: Iterable[str]) -> dict[str, str]:
    """Name without collection and wrapping -> name in the file, of what belongs to layers."""
    names = list(names)
    linen = any(name.startswith("params/") for name in names)
    wrapped = bool(names) and not linen and all(name.endswith("/value") for name in names)
    places: dict[str, str] = {}
    for full in names:
        collection, _, rest = full.partition("/")
        name = full.removesuffix("/value") if wrapped else full
        if linen and collection in _COLLECTIONS:
            places.setdefault(rest, full)
        elif not linen and "rngs" not in name.split("/"):
            places[name] = full
    return places


def _told(
    name: str, known: Known, kind: str | None, shapes: Mapping[str, tuple[int, ...]]
) -> Known:
    if kind is None or kind == known.kind:
        return known
    codec = _CODECS.get(kind, ({},))[0]
    if known.kind not in {"other", "conv"} or not _codec.covers(codec, list(shapes)):
        raise _refusal(
            f"read the layer {name!r} as a {kind}",
            _said(shapes),
            f"these are the arrays of a {known.kind}",
            "leave it out of kinds, or name the kind that it is",
        )
    return Known(cast("Kind", kind), codec)


def _layer(name: str, known: Known, own: Mapping[str, StoredArray]) -> Layer:
    spec, assumed = None, ()
    if known.kind == "batch_norm":
        spec, assumed = stored_spec(name, own), NOT_STORED
    return Layer(name, known.kind, _codec.roles(known.codec, own), known.settings, spec, assumed)


def _remarks(layers: Iterable[Layer]) -> tuple[str, ...]:
    if any(layer.kind == "batch_norm" for layer in layers):
        return ("Flax's files do not hold the settings of batch norm; its defaults are assumed.",)
    return ()


def _require_sayable(layer: Layer, *, known_place: bool) -> None:
    asked = f"write the layer {layer.name!r} ({layer.kind}) for Flax"
    if layer.kind not in _CODECS and not (layer.kind == "other" and known_place):
        raise UnsayableError(
            explain(
                asked=asked,
                got=_said(layer.shapes),
                why="Flax has no layer of that kind, or it is not known what it computes",
                do="leave the layer out, or compute it outside the model",
            )
        )
    if layer.kind == "gru" and not layer.settings.get("reset_after", True):
        raise UnsayableError(
            explain(
                asked=asked,
                got="reset_after=False",
                why="Flax's GRU cells apply the reset gate after the product",
                do="use a cell of your own",
            )
        )
    if layer.kind == "prelu" and layer.shapes["alpha"] != (1,):
        raise UnsayableError(
            explain(
                asked=asked,
                got=f"alpha of shape {layer.shapes['alpha']}",
                why="Flax's PReLU has one slope for all channels",
                do="use a layer of your own with one slope per channel",
            )
        )
    if layer.kind == "batch_norm" and "running_mean" not in layer.arrays:
        raise UnsayableError(
            explain(
                asked=asked,
                got="no running statistics",
                why="Flax's layer always has them and uses them in inference",
                do="recalibrate the layer first",
            )
        )


def _by_name(layer: Layer) -> _Target:
    """Linen's names, made of the layer's own; without a counter, which Linen does not have."""
    codec = _CODECS[layer.kind][0]
    place = layer.name.replace(".", "/")
    parts = [part for part in _shapes(codec, layer) if part != "batches"]
    statistics = layer.kind == "batch_norm"
    places = {
        part: "/".join(
            piece
            for piece in (
                "batch_stats" if statistics and part in _STATISTICS else "params",
                place,
                part,
            )
            if piece
        )
        for part in parts
    }
    return _Target(codec, places)


def _targets(sources: Iterable[Layer], like: Checkpoint) -> list[tuple[Layer, _Target]]:
    places = _places(like.arrays)
    shapes = {name: like.arrays[full].shape for name, full in places.items()}
    known = {
        name: {own: places[full] for own, full in parts.items()}
        for name, (_, parts) in guess(shapes).items()
    }
    return [(layer, _target(layer, known, like)) for layer in sources]


def _target(layer: Layer, known: Mapping[str, Mapping[str, str]], like: Checkpoint) -> _Target:
    asked = f"write the layer {layer.name!r} ({layer.kind}) with the names of {like.path}"
    if layer.name not in known:
        found = f"a file with the layers {', '.join(map(repr, known))}"
        raise _refusal(asked, found, "none has that name", "name the layer as the file does")
    places = known[layer.name]
    wanted = {own: like.arrays[full].shape for own, full in places.items()}
    codecs = [codec for codec in _codecs(layer) if _fits(_shapes(codec, layer), wanted)]
    if len(codecs) == 1:
        return _Target(codecs[0], places)
    if codecs:
        raise _refusal(
            asked,
            f"a kernel of shape {layer.shapes['kernel']}",
            "as many channels go in as come out, so that the shape does not tell whether the "
            "target has transpose_kernel=True",
            "port into the live model instead (ek.port)",
        )
    raise _refusal(
        asked,
        f"{_said(layer.shapes)}, and in the file {_said(wanted)}",
        "they do not fit",
        "build the model like the source",
    )


def _said(shapes: Mapping[str, tuple[int, ...]]) -> str:
    return ", ".join(f"{name} {shape}" for name, shape in shapes.items())


def _codecs(layer: Layer) -> tuple[Codec, ...]:
    return _CODECS.get(layer.kind) or (_codec.plain(list(layer.arrays)),)


def _fits(mine: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]]) -> bool:
    """Whether all arrays have their place; a counter may be dropped."""
    return wanted == {key: mine[key] for key in mine if key != "batches" or key in wanted}


def _shapes(codec: Codec, layer: Layer) -> dict[str, tuple[int, ...]]:
    return {part: array.shape for part, array in _parts(codec, layer).items()}


def _parts(codec: Codec, layer: Layer) -> dict[str, StoredArray]:
    """A layer's arrays as Flax stores them, made when they are read."""
    return {
        part: _part(codec[role].write, place, array)
        for role, array in layer.arrays.items()
        if role in codec
        for place, part in enumerate(codec[role].parts)
    }


def _part(write: Callable[[Any], list[Any]], place: int, role: StoredArray) -> StoredArray:
    blank = np.broadcast_to(np.zeros((), np.int8), role.shape)
    return StoredArray(write(blank)[place].shape, role.dtype, lambda: write(role.read())[place])


def _refusal(asked: str, got: str, why: str, do: str) -> InputError:
    return InputError(explain(asked=asked, got=got, why=why, do=do))
