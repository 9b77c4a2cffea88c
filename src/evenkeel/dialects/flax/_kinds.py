"""Which kind of layer a Flax module is, its settings, and the codec of its arrays.

NNX and Linen name the attributes of their layers alike, so one reading serves both.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from evenkeel.dialects.flax import _codec

if TYPE_CHECKING:
    from evenkeel.dialects._layers import Kind
    from evenkeel.dialects.flax._codec import Codec
    from evenkeel.dialects.flax._types import Module

Shapes: TypeAlias = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Known:
    """What a module is."""

    kind: Kind
    codec: Codec
    settings: dict[str, Any] = field(default_factory=dict[str, Any])


def classify(module: Module, shapes: Shapes) -> Known:
    """What a module is, from its class, its attributes and the shapes of its own arrays.

    A subclass with a ``__call__`` of its own, or a layer with a setting that changes its
    mathematics in a way that no kind has (a mask, an input dilation, another activation of a
    gate), is of kind ``other``.
    """
    home = _home(module)
    reader = _READERS.get(home.__name__) if home else None
    known = reader(module, shapes) if reader else None
    if known and _codec.covers(known.codec, list(shapes)):
        return known
    name = f"{type(module).__module__}.{type(module).__qualname__}"
    return Known("other", _codec.plain(list(shapes)), {"class": name})


def is_known(module: Module) -> bool:
    """Whether the module is one of Flax's own layers, so that what is below it belongs to it."""
    home = _home(module)
    return home is not None and home.__name__ in _READERS


def cell_of(module: Module) -> Module | None:
    """The cell that an ``RNN`` runs over a sequence, None for every other module."""
    home = _home(module)
    return module.cell if home is not None and home.__name__ == "RNN" else None


def _home(module: Module) -> type | None:
    """The class of Flax whose ``__call__`` serves the module; BatchNorm's subclasses count.

    A batch-norm layer with a ``__call__`` of its own still has the arrays of one; the
    description names its class.
    """
    for kind in type(module).__mro__:
        # Classes that only record calls or change nothing pass for the class they extend.
        if "__call__" in vars(kind) and not getattr(kind, "passes_for_base", False):
            own = kind.__module__.startswith(_FLAX)
            return _first(module, _FLAX) if own else _batch_norm_base(module)
    return None


def _first(module: Module, homes: tuple[str, ...]) -> type | None:
    return next((kind for kind in type(module).__mro__ if kind.__module__.startswith(homes)), None)


def _batch_norm_base(module: Module) -> type | None:
    base = _first(module, _NORMALIZATION)
    return base if base is not None and base.__name__ == "BatchNorm" else None


_FLAX: Final = ("flax.nnx.", "flax.linen.")
_NORMALIZATION: Final = ("flax.nnx.nn.normalization", "flax.linen.normalization")


def _dense(module: Module, shapes: Shapes) -> Known | None:
    ndim = len(shapes.get("kernel", ()))
    simple = _ints(getattr(module, "axis", -1)) == (-1,)
    batch = getattr(module, "batch_axis", None) or getattr(module, "batch_dims", None)
    return Known("dense", _codec.DENSE) if ndim == 2 and simple and not batch else None


def _conv(module: Module, shapes: Shapes) -> Known | None:
    settings = _window(module, shapes)
    plain = set(_spread(getattr(module, "input_dilation", 1), 1)) <= {1}
    if settings is None or not plain or not _own_convolution(module):
        return None
    settings["groups"] = module.feature_group_count
    return Known("conv", _codec.DENSE, settings)


def _own_convolution(module: Module) -> bool:
    """Whether the convolution is computed by JAX itself."""
    function = getattr(module, "conv_general_dilated", None)
    home = getattr(function, "__module__", "jax") or "jax"
    return home.startswith("jax") and getattr(module, "conv_general_dilated_cls", None) is None


def _conv_transpose(module: Module, shapes: Shapes) -> Known | None:
    settings = _window(module, shapes)
    if settings is None:
        return None
    settings["groups"] = 1
    if not isinstance(settings["padding"], str):
        # Flax pads the dilated input; the canonical numbers say what is cut off the full output.
        spans = [
            (k - 1) * d for k, d in zip(shapes["kernel"][:-2], settings["dilation"], strict=True)
        ]
        settings["padding"] = tuple(
            (span - before, span - after)
            for span, (before, after) in zip(spans, settings["padding"], strict=True)
        )
    codec = _codec.DENSE if module.transpose_kernel else _codec.TRANSPOSED
    return Known("conv_transpose", codec, settings)


def _window(module: Module, shapes: Shapes) -> dict[str, Any] | None:
    axes = len(_ints(module.kernel_size))
    # Lifted transforms (scan, vmap) put an axis before the kernel's own.
    whole = len(shapes.get("kernel", ())) == axes + 2
    if not whole or getattr(module, "mask", None) is not None:
        return None
    return {
        "strides": _spread(module.strides, axes),
        "dilation": _spread(module.kernel_dilation, axes),
        "padding": _padding(module.padding, axes),
    }


def _padding(padding: Any, axes: int) -> Any:
    if isinstance(padding, str):
        return padding.lower()
    pairs = (padding,) * axes if isinstance(padding, int) else tuple(padding)
    pairs = pairs * axes if len(pairs) == 1 else pairs
    return tuple((pair, pair) if isinstance(pair, int) else tuple(pair) for pair in pairs)


def _layer_norm(module: Module, shapes: Shapes) -> Known | None:
    last = _ints(module.reduction_axes) == (-1,) == _ints(module.feature_axes)
    plain = last and module.axis_name is None and _ranks(shapes) <= {1}
    return Known("layer_norm", _codec.NORM, _eps(module)) if plain else None


def _group_norm(module: Module, shapes: Shapes) -> Known | None:
    plain = module.reduction_axes is None and module.axis_name is None
    if not plain or _ranks(shapes) != {1}:
        return None
    channels = next(iter(shapes.values()), (0,))[0]
    groups = module.num_groups or channels // module.group_size
    return Known("group_norm", _codec.NORM, {**_eps(module), "groups": groups})


def _lstm(module: Module, shapes: Shapes) -> Known | None:
    joined, underscored = "dense_i/kernel" in shapes, "if_/kernel" in shapes
    several = _codec.LSTM_NNX if underscored else _codec.LSTM
    codec = _codec.LSTM_JOINED if joined else several
    return Known("lstm", codec) if _usual_gates(module) and _is_cell(shapes) else None


def _gru(module: Module, shapes: Shapes) -> Known | None:
    usual = _usual_gates(module) and _is_cell(shapes)
    codec = _codec.GRU_JOINED if "dense_i/kernel" in shapes else _codec.GRU
    return Known("gru", codec, {"reset_after": True}) if usual else None


def _simple_rnn(module: Module, shapes: Shapes) -> Known | None:
    codec = _codec.SIMPLE_JOINED if "dense_i/kernel" in shapes else _codec.SIMPLE
    usual = _function(module.activation_fn) == "tanh" and not module.residual
    usual = usual and _is_cell(shapes)
    return Known("simple_rnn", codec) if usual else None


def _is_cell(shapes: Shapes) -> bool:
    return all(
        len(shape) == (2 if path.endswith("kernel") else 1) for path, shape in shapes.items()
    )


def _usual_gates(module: Module) -> bool:
    return (_function(module.gate_fn), _function(module.activation_fn)) == ("sigmoid", "tanh")


def _batch_norm(_module: Module, shapes: Shapes) -> Known | None:
    vectors = {name: shape for name, shape in shapes.items() if name != "batches"}
    return Known("batch_norm", _codec.BATCH_NORM) if _ranks(vectors) == {1} else None


def _embedding(_module: Module, shapes: Shapes) -> Known | None:
    return Known("embedding", _codec.EMBEDDING) if _ranks(shapes) == {2} else None


def _prelu(_module: Module, shapes: Shapes) -> Known | None:
    return Known("prelu", _codec.PRELU) if _ranks(shapes) == {0} else None


def _ranks(shapes: Shapes) -> set[int]:
    return {len(shape) for shape in shapes.values()}


def _eps(module: Module) -> dict[str, Any]:
    return {"eps": float(module.epsilon)}


def _function(function: object) -> str:
    return str(getattr(function, "__name__", function))


def _ints(value: int | Sequence[int]) -> tuple[int, ...]:
    return (value,) if isinstance(value, int) else tuple(value)


def _spread(value: int | Sequence[int] | None, axes: int) -> tuple[int, ...]:
    """One number per spatial axis."""
    sizes = _ints(1 if value is None else value)
    return sizes * axes if len(sizes) == 1 else sizes


_READERS: Final = cast(
    "dict[str, Callable[[Any, Shapes], Known | None]]",
    {
        "Linear": _dense,
        "LinearGeneral": _dense,
        "Dense": _dense,
        "DenseGeneral": _dense,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "Embed": _embedding,
        "LayerNorm": _layer_norm,
        "GroupNorm": _group_norm,
        "BatchNorm": _batch_norm,
        "PReLU": _prelu,
        "LSTMCell": _lstm,
        "OptimizedLSTMCell": _lstm,
        "GRUCell": _gru,
        "SimpleCell": _simple_rnn,
    },
)
