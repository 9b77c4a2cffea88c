"""Reads ``flax.nnx.BatchNorm`` and ``flax.linen.BatchNorm`` as Spec and State."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from evenkeel.dialects.flax._arrays import dtype_name, to_numpy
from evenkeel.dialects.flax._extension import is_extension
from evenkeel.dialects.flax._options import initializer_name
from evenkeel.errors import InputError, explain
from evenkeel.spec import Momentum, Spec, State

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evenkeel.dialects.flax._types import Module

#: Name in a State -> name in Flax.
NAMES = {"weight": "scale", "bias": "bias", "running_mean": "mean", "running_var": "var"}


def is_batch_norm(layer: Module) -> bool:
    """Whether this is ``flax.nnx.BatchNorm``, ``flax.linen.BatchNorm`` or a subclass of one.

    A Linen layer may come as the pair (module, variables).
    """
    from flax import linen, nnx

    module = layer[0] if isinstance(layer, tuple) and len(layer) == 2 else layer
    return isinstance(module, nnx.BatchNorm | linen.BatchNorm)


def read_module(layer: Module, name: str = "") -> tuple[Spec, State]:
    """Read one batch-norm layer.

    Args:
        layer: a ``flax.nnx.BatchNorm``, or (``flax.linen.BatchNorm``, variables), where the
            variables are those of this layer: ``{"params": {...}, "batch_stats": {...}}``.
        name: of the layer in its model, for the description and for messages.

    Raises:
        InputError: it is no such layer, its channels stand on several axes, or its arrays do
            not fit together.
    """
    from flax import linen, nnx

    if isinstance(layer, nnx.BatchNorm):
        arrays = {
            own: getattr(layer, own)
            for own in (*NAMES.values(), "batches")
            if getattr(layer, own, None) is not None
        }
        values = {own: variable[...] for own, variable in arrays.items()}
        frozen = [
            not isinstance(arrays[own], nnx.Param) for own in ("scale", "bias") if own in arrays
        ]
        spec = _spec(layer, name, values, affine_frozen=bool(frozen) and all(frozen))
    elif isinstance(layer, tuple) and len(layer) == 2 and isinstance(layer[0], linen.BatchNorm):
        module, variables = layer
        values = {**variables.get("params", {}), **variables.get("batch_stats", {})}
        spec = _spec(module, name, values)
    else:
        raise _refusal(
            layer,
            name,
            why="it is no batch-norm layer of flax.nnx, and no pair (flax.linen.BatchNorm, "
            "variables)",
            do="pass the layer itself; a Linen layer with its own params and batch_stats",
        )
    return spec, read_state(values, name).check(spec)


def read_state(values: Mapping[str, Any], name: str = "") -> State:
    """The state from Flax's arrays by their own names."""
    arrays = {
        field: to_numpy(values[own], f"{name}/{own}".lstrip("/"))
        for field, own in NAMES.items()
        if own in values
    }
    batches = values.get("batches")
    count = None if batches is None else int(to_numpy(batches, f"{name}/batches"))
    return State(*(arrays.get(field) for field in NAMES), batches=count)


def read_spec(
    module: Module,
    name: str,
    dtypes: Mapping[str, str],
    channels: int,
    *,
    affine_frozen: bool = False,
) -> Spec:
    """The description from a layer's attributes and what its arrays say.

    Args:
        module: the layer.
        name: of it.
        dtypes: element types of its arrays by Flax's names, which also say what is there.
        channels: number of them.
        affine_frozen: whether scale and bias are no parameters.
    """
    momentum = module.momentum
    affine = dtypes.get("scale", dtypes.get("bias", dtype_name(module.param_dtype)))
    settings: dict[str, Any] = {
        "channels": channels,
        "eps": float(module.epsilon),
        "momentum": Momentum.cumulative() if momentum is None else Momentum(momentum, "old"),
        "scale": "scale" in dtypes,
        "offset": "bias" in dtypes,
        "variance": getattr(module, "variance", "biased"),
        "axis": _axis(module, name),
        "statistics_dtype": dtypes.get("mean", "float32"),
        "parameter_dtype": affine,
        "affine_frozen": affine_frozen,
        "statistics_frozen": _is_frozen(module),
        "synchronized": module.axis_name is not None,
        "name": name,
        "options": _options(module),
    }
    return Spec(**settings)


def _spec(
    module: Module,
    name: str,
    values: Mapping[str, Any],
    *,
    affine_frozen: bool = False,
) -> Spec:
    if not {"mean", "var"} <= values.keys():
        raise _refusal(
            module,
            name,
            why=f"its variables are {sorted(values)}, without mean and var",
            do="pass the layer's own params and batch_stats, as init() made them",
        )
    dtypes = {own: dtype_name(array.dtype) for own, array in values.items()}
    channels = int(values["mean"].shape[0]) if values["mean"].ndim else 0
    return read_spec(module, name, dtypes, channels, affine_frozen=affine_frozen)


def _axis(module: Module, name: str) -> int:
    axis = module.axis
    axes = (axis,) if isinstance(axis, int) else tuple(axis)
    if len(axes) != 1:
        raise _refusal(
            module,
            name,
            why=f"its features stand on the axes {axes}",
            do="use a layer with one feature axis",
        )
    return axes[0]


def _is_frozen(module: Module) -> bool:
    """NNX's flag says the mode, train or eval; Linen's, once set, holds for every call."""
    from flax import linen

    if isinstance(module, linen.BatchNorm):
        return module.use_running_average is True
    return bool(getattr(module, "frozen", False))


def _options(module: Module) -> dict[str, Any]:
    """What only Flax understands; functions by their names."""
    from flax import linen

    options: dict[str, Any] = {"use_fast_variance": module.use_fast_variance}
    if module.axis_name is not None:
        options["axis_name"] = module.axis_name
        if module.axis_index_groups is not None:
            options["axis_index_groups"] = module.axis_index_groups
    if module.dtype is not None:
        options["dtype"] = dtype_name(module.dtype)
    own = _linen_options(module) if isinstance(module, linen.BatchNorm) else _nnx_options(module)
    return options | own | _foreign_class(module)


def _linen_options(module: Module) -> dict[str, Any]:
    options: dict[str, Any] = {
        name: initializer_name(getattr(module, name)) for name in ("scale_init", "bias_init")
    }
    if not module.force_float32_reductions:
        options["force_float32_reductions"] = False
    if module.use_running_average is False:
        options["use_running_average"] = False
    return options


def _nnx_options(module: Module) -> dict[str, Any]:
    from flax.nnx.nn import dtypes

    options: dict[str, Any] = {}
    if module.use_running_average:
        options["use_running_average"] = True
    if module.promote_dtype is not dtypes.promote_dtype:
        options["promote_dtype"] = initializer_name(module.promote_dtype)
    # What every framework's own layer does goes without saying.
    if is_extension(type(module)) and module.nonfinite != "propagate":
        options["nonfinite"] = module.nonfinite
    return options


def _foreign_class(module: Module) -> dict[str, str]:
    kind = next(k for k in type(module).__mro__ if not getattr(k, "passes_for_base", False))
    own = kind.__module__.startswith(("flax.nnx.", "flax.linen.")) or is_extension(kind)
    return {} if own else {"class": f"{kind.__module__}.{kind.__qualname__}"}


def _refusal(layer: Module, name: str, *, why: str, do: str) -> InputError:
    asked = f"read the batch-norm layer {name!r}" if name else "read a batch-norm layer"
    got = f"a {type(layer).__module__}.{type(layer).__qualname__}"
    return InputError(explain(asked=asked, got=got, why=why, do=do))
