"""Keras layer classes as the canonical kinds, from a layer's configuration and array shapes.

Live layers and files share this table. Every Keras array has the elements of its canonical
form in the same order, so that only the shape changes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from evenkeel.dialects._layers import Kind

Config: TypeAlias = Mapping[str, Any]
Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Weight:
    """One array of a Keras layer.

    Args:
        place: ``kernel``, or ``cell/kernel`` where an inner layer holds it.
        role: in the canonical layer.
        shape: in the canonical layer.
    """

    place: str
    role: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Part:
    """One canonical layer of a Keras layer; a separable convolution has two.

    Args:
        suffix: of its name, such as ``"/depthwise"``.
        kind: what it computes.
        weights: its arrays, in the order of the file.
        settings: see :mod:`evenkeel.dialects._layers`.
    """

    suffix: str
    kind: Kind
    weights: tuple[Weight, ...] = ()
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


_Reader: TypeAlias = Callable[[str, Config, Shapes], tuple[Part, ...] | None]


def read_parts(class_name: str, config: Config, shapes: Shapes) -> tuple[Part, ...]:
    """The canonical layers of a Keras layer.

    Args:
        class_name: Keras's own name of the class.
        config: what ``get_config`` says; where known, with ``input_shape`` and
            ``channels_first`` (whether the model computes so).
        shapes: of all arrays that the layer holds, by place.

    Returns:
        One part of kind ``"other"`` where the class, a setting or an array is not known.
    """
    reader = _READERS.get(class_name)
    parts = None if reader is None else reader(class_name, config, shapes)
    known = {weight.place for part in parts or () for weight in part.weights}
    if parts is None or shapes.keys() - known - _UNREAD.get(class_name, set()):
        arrays = tuple(Weight(place, place, shape) for place, shape in shapes.items())
        settings: dict[str, Any] = {"class": class_name or config.get("class", "")}
        if config.get("could_be"):
            settings["could_be"] = config["could_be"]
        return (Part("", "other", arrays, settings),)
    return parts


def places(class_name: str, config: Config) -> tuple[str, ...] | None:
    """Places of a layer's arrays in the order of the file, or None if the class is unknown."""
    names = _PLACES.get(class_name)
    if class_name == "Bidirectional":
        forward = config["layer"]
        inner = places(forward["class_name"], forward["config"])
        sides = ("forward_layer", "backward_layer")
        return (
            None if inner is None else tuple(f"{side}/{name}" for side in sides for name in inner)
        )
    if names is None:
        return None
    absent = {name for name, flag in _SWITCHES.items() if not config.get(flag, True)}
    if class_name == "BatchNormalization" and not config.get("renorm", False):
        absent |= {*RENORM}
    if class_name == "BatchNormalization" and config.get("momentum", 0.99) is not None:
        absent |= {"batches"}
    if class_name == "Normalization" and config.get("mean") is not None:
        absent |= {*names}
    return tuple(name for name in names if name.rpartition("/")[2] not in absent)


def _take(shapes: Shapes, **roles: str) -> tuple[Weight, ...]:
    """Arrays that keep their shape, by role; those that the layer has not are left out."""
    return tuple(
        Weight(place, role, shapes[place]) for role, place in roles.items() if place in shapes
    )


def _dense(_: str, __: Config, shapes: Shapes) -> tuple[Part, ...]:
    return (Part("", "dense", _take(shapes, kernel="kernel", bias="bias")),)


def _conv(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...]:
    weights = _take(shapes, kernel="kernel", bias="bias")
    return (Part("", "conv", weights, _window(config) | {"groups": config.get("groups", 1)}),)


def _conv_transpose(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...]:
    settings = _window(config) | {"groups": 1}
    if config.get("output_padding") is not None:
        settings["output_padding"] = _tuple(config["output_padding"])
    weights = _take(shapes, kernel="kernel", bias="bias")
    return (Part("", "conv_transpose", weights, settings),)


def _depthwise(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...] | None:
    place = "kernel" if "kernel" in shapes else "depthwise_kernel"
    if place not in shapes:
        return None
    settings = _window(config) | {"groups": shapes[place][-2]}
    kernel = Weight(place, "kernel", _depthwise_shape(shapes[place]))
    return (Part("", "conv", (kernel, *_take(shapes, bias="bias")), settings),)


def _separable(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...] | None:
    if "depthwise_kernel" not in shapes:
        return None
    shape = shapes["depthwise_kernel"]
    first = Weight("depthwise_kernel", "kernel", _depthwise_shape(shape))
    one = (1,) * (len(shape) - 2)
    single = {"strides": one, "dilation": one, "padding": "valid", "groups": 1}
    second = _take(shapes, kernel="pointwise_kernel", bias="bias")
    settings = _window(config) | {"groups": shape[-2]}
    return (
        Part("/depthwise", "conv", (first,), settings),
        Part("/pointwise", "conv", second, single),
    )


def _depthwise_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[:-2], 1, shape[-2] * shape[-1])


def _window(config: Config) -> dict[str, Any]:
    rank = len(_tuple(config["kernel_size"]))
    return {
        "strides": _tuple(config.get("strides", 1), rank),
        "dilation": _tuple(config.get("dilation_rate", 1), rank),
        "padding": config.get("padding", "valid"),
    }


def _tuple(value: Any, rank: int = 1) -> tuple[int, ...]:
    return (int(value),) * rank if isinstance(value, int) else tuple(int(n) for n in value)


def _embedding(_: str, __: Config, shapes: Shapes) -> tuple[Part, ...]:
    return (Part("", "embedding", _take(shapes, embedding="embeddings")),)


def _layer_norm(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...] | None:
    axes = config.get("axis", -1)
    last = axes == -1 or (isinstance(axes, list | tuple) and [*axes] == [*range(-len(axes), 0)])
    rank = len(config.get("input_shape") or ())
    last = last or (isinstance(axes, list | tuple) and [*axes] == [rank - 1])
    if config.get("rms_scaling") or not (last or axes == rank - 1 > 0):
        return None
    settings = {"eps": config.get("epsilon", 1e-3)}
    return (Part("", "layer_norm", _take(shapes, scale="gamma", offset="beta"), settings),)


def _group_norm(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...]:
    groups = config.get("groups", 32)
    if groups == -1:
        groups = max((shape[0] for shape in shapes.values()), default=-1)
    settings = {"eps": config.get("epsilon", 1e-3), "groups": groups}
    return (Part("", "group_norm", _take(shapes, scale="gamma", offset="beta"), settings),)


def _batch_norm(_: str, __: Config, shapes: Shapes) -> tuple[Part, ...]:
    weights = _take(
        shapes,
        weight="gamma",
        bias="beta",
        running_mean="moving_mean",
        running_var="moving_variance",
        batches="batches",
        **{name: name for name in RENORM},
    )
    return (Part("", "batch_norm", weights),)


def _prelu(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...] | None:
    """Only one number per channel is a canonical PReLU."""
    shape = shapes.get("alpha", ())
    shared = {axis % (len(shape) + 1) for axis in config.get("shared_axes") or ()}
    own = {*range(1, len(shape) + 1)} - shared
    channels = {1} if config.get("channels_first") else {len(shape)}
    if not shape or own != channels or math.prod(shape) != max(shape):
        return None
    return (Part("", "prelu", (Weight("alpha", "alpha", (max(shape),)),)),)


def _recurrent(class_name: str, config: Config, shapes: Shapes, at: str = "") -> tuple[Part, ...]:
    settings = {
        key: config[key]
        for key, usual in _RECURRENT_DEFAULTS.items()
        if config.get(key, usual) != usual
    }
    if class_name == "GRU":
        settings["reset_after"] = bool(config.get("reset_after", True))
    kinds: dict[str, Kind] = {"LSTM": "lstm", "GRU": "gru", "SimpleRNN": "simple_rnn"}
    weights = _take(
        shapes,
        kernel=f"{at}cell/kernel",
        recurrent=f"{at}cell/recurrent_kernel",
        bias=f"{at}cell/bias",
    )
    return (Part("", kinds[class_name], weights, settings),)


def _bidirectional(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...] | None:
    inner = config["layer"]
    if inner["class_name"] not in {"LSTM", "GRU", "SimpleRNN"}:
        return None
    parts = [
        Part(f"/{side}", part.kind, part.weights, part.settings)
        for side in ("forward", "backward")
        for part in _recurrent(inner["class_name"], inner["config"], shapes, f"{side}_layer/")
    ]
    return tuple(parts)


def _normalization(_: str, config: Config, shapes: Shapes) -> tuple[Part, ...]:
    weights = _take(shapes, mean="mean", variance="variance")
    settings = {"invert": True} if config.get("invert") else {}
    return (Part("", "normalization", weights, settings),)


def _rescaling(_: str, config: Config, __: Shapes) -> tuple[Part, ...]:
    settings = {"scale": config["scale"], "offset": config.get("offset", 0.0)}
    return (Part("", "rescaling", (), settings),)


RENORM: Final = ("moving_stddev", "renorm_mean", "renorm_stddev")
#: Settings of a recurrent layer under which it computes what the canonical kind does.
_RECURRENT_DEFAULTS: Final = {
    "activation": "tanh",
    "recurrent_activation": "sigmoid",
    "go_backwards": False,
}
_CELL: Final = ("cell/kernel", "cell/recurrent_kernel", "cell/bias")
#: Class -> places of its arrays in the order of ``get_weights`` and of the file.
_PLACES: Final[dict[str, tuple[str, ...]]] = {
    "Dense": ("kernel", "bias"),
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), ("kernel", "bias")),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), ("kernel", "bias")),
    **dict.fromkeys(
        ("SeparableConv1D", "SeparableConv2D"), ("depthwise_kernel", "pointwise_kernel", "bias")
    ),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), ("kernel", "bias")),
    "Embedding": ("embeddings",),
    "LayerNormalization": ("gamma", "beta"),
    "GroupNormalization": ("gamma", "beta"),
    "BatchNormalization": ("gamma", "beta", "moving_mean", "moving_variance", *RENORM, "batches"),
    "PReLU": ("alpha",),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _CELL),
    "Normalization": ("mean", "variance", "count"),
    "Rescaling": (),
}
#: Array -> the setting that switches it off.
_SWITCHES: Final = {"bias": "use_bias", "gamma": "scale", "beta": "center"}
#: Arrays that take no part in the computation.
_UNREAD: Final[dict[str, set[str]]] = {"Normalization": {"count"}}
_READERS: Final[dict[str, _Reader]] = {
    "Dense": _dense,
    **dict.fromkeys(("Conv1D", "Conv2D", "Conv3D"), _conv),
    **dict.fromkeys(("DepthwiseConv1D", "DepthwiseConv2D"), _depthwise),
    **dict.fromkeys(("SeparableConv1D", "SeparableConv2D"), _separable),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _conv_transpose),
    "Embedding": _embedding,
    "LayerNormalization": _layer_norm,
    "GroupNormalization": _group_norm,
    "BatchNormalization": _batch_norm,
    "PReLU": _prelu,
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN"), _recurrent),
    "Bidirectional": _bidirectional,
    "Normalization": _normalization,
    "Rescaling": _rescaling,
}
KNOWN: Final = frozenset(_READERS)
