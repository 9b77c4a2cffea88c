"""Builds Flax's batch-norm layers from Spec and State, and lists what they cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.dialects._unsayable import Unsayable, refuse
from evenkeel.dialects.flax._batch_norm import NAMES
from evenkeel.dialects.flax._configure import USE_EXTENSION, needs_extension
from evenkeel.dialects.flax._extension import extension, is_extension
from evenkeel.dialects.flax._options import initializer, is_rebuildable
from evenkeel.errors import DTypeError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.dialects._unsayable import Effect
    from evenkeel.spec import Spec, State

#: Options that both layers understand, and those of one of them.
_BOTH: Final = {"axis_name", "axis_index_groups", "use_fast_variance", "dtype"}
_LINEN: Final = {"scale_init", "bias_init", "force_float32_reductions", "use_running_average"}
_NNX: Final = {"use_running_average"}
_EXTENSION: Final = {"nonfinite"}
#: Options of other frameworks that further training reads; all others are read by nothing once
#: the arrays are there.
_TRAINING: Final = (
    "regularizer",
    "constraint",
    "track_running_stats",
    "class",
    "promote_dtype",
    "force_float32_reductions",
    "nonfinite",
)


def build_module(
    spec: Spec,
    state: State,
    kind: type[Any] | None = None,
    *,
    inference_only: bool = False,
) -> Any:
    """Build a layer that means what ``spec`` and ``state`` say.

    A description that does not come from Flax gets ``use_fast_variance=False``: the exact
    two-pass variance that other frameworks compute.

    Args:
        spec: the description.
        state: the arrays.
        kind: ``flax.nnx.BatchNorm``, ``flax.linen.BatchNorm``, or
            ``evenkeel.integrations.flax.BatchNorm``; see ``choose_class`` for the default.
        inference_only: whether fields that only further training reads may be lost.

    Returns:
        The NNX layer; of a Linen one the pair (module, variables).

    Raises:
        UnsayableError: the layer cannot hold a field; see :func:`unsayable`.
        DTypeError: an array does not fit the element type that the description names.
    """
    from flax import linen

    state.check(spec)
    chosen = choose_class(spec) if kind is None else kind
    refused = {"inference"} if inference_only else {"inference", "training"}
    found = unsayable(spec, state, chosen)
    refuse(spec, _name(chosen), [item for item in found if item.effect in refused])
    arguments = _arguments(spec)
    if issubclass(chosen, linen.BatchNorm):
        return _linen(spec, state, chosen, arguments)
    return _nnx(spec, state, chosen, arguments)


def unsayable(
    spec: Spec, state: State | None = None, kind: type[Any] | None = None
) -> tuple[Unsayable, ...]:
    """What a Flax layer cannot hold of a description, field by field.

    Args:
        spec: the description.
        state: the arrays, if they count, too.
        kind: as :func:`build_module`.
    """
    from flax import linen

    chosen = choose_class(spec) if kind is None else kind
    is_linen = issubclass(chosen, linen.BatchNorm)
    says_more = is_extension(chosen)
    found = [] if says_more else list(needs_extension(spec))
    found += _mathematics(spec)
    found += _dtypes(spec)
    found += _frozen(spec, is_linen=is_linen, says_more=says_more)
    found += _calls(spec)
    found += _options(spec, is_linen=is_linen, says_more=says_more)
    if state is not None:
        found += _arrays(spec, state, says_more=says_more)
    return tuple(found)


def choose_class(spec: Spec) -> type[Any]:
    """The plainest NNX layer that says what ``spec`` says.

    ``flax.nnx.BatchNorm`` where it can; the layer of ``evenkeel.integrations.flax``, if that
    module was imported, for the unbiased variance, a cumulative momentum, and frozen statistics.
    """
    from flax import nnx

    more = needs_extension(spec) or spec.statistics_frozen or "nonfinite" in spec.options
    return (extension() if more else None) or nnx.BatchNorm


def _mathematics(spec: Spec) -> list[Unsayable]:
    found: list[Unsayable] = []
    if not spec.track_statistics:
        found.append(
            Unsayable(
                "track_statistics",
                False,  # noqa: FBT003 - the value of the field
                "Flax's layer always has running statistics and uses them in inference",
                "recalibrate the layer first, so that it has running statistics",
                "inference",
            )
        )
    if spec.activation.name != "identity":
        why = "Flax's layer ends with scale and shift"
        do = f"apply {spec.activation.name} after the layer"
        found.append(Unsayable("activation", spec.activation.name, why, do, "inference"))
    there = spec.momentum.as_weighing("old")
    if there.as_weighing(spec.momentum.weighs) != spec.momentum and not there.is_cumulative:
        why = f"Flax's weighs the stored value, and 1 - {spec.momentum.value!r} is not exact"
        do = "round the momentum to 15 decimal places"
        found.append(Unsayable("momentum", spec.momentum.value, why, do, "training"))
    if spec.average != "plain":
        why = "Flax averages from the stored value, without a correction"
        do = "use it for inference only"
        found.append(Unsayable("average", spec.average, why, do, "training"))
    if spec.renorm is not None:
        why = "Flax has no batch renormalization"
        found.append(Unsayable("renorm", spec.renorm, why, "use it for inference only", "training"))
    return found


def _dtypes(spec: Spec) -> list[Unsayable]:
    import jax

    found: list[Unsayable] = []
    for field in ("statistics_dtype", "parameter_dtype"):
        dtype: str = getattr(spec, field)
        if dtype == "float64" and not jax.config.read("jax_enable_x64"):
            why = "JAX cuts float64 to float32 unless it is switched on"
            do = 'call jax.config.update("jax_enable_x64", True), or convert to float32 first'
            found.append(Unsayable(field, dtype, why, do, "inference"))
    if spec.statistics_dtype in {"float16", "bfloat16"}:
        why = "Flax keeps running statistics in float32"
        do = "the values stay, so use it for inference only"
        found.append(Unsayable("statistics_dtype", spec.statistics_dtype, why, do, "training"))
    return found


def _frozen(spec: Spec, *, is_linen: bool, says_more: bool) -> list[Unsayable]:
    found: list[Unsayable] = []
    if spec.affine_frozen and not (spec.scale or spec.offset):
        why = "the layer has neither scale nor offset, so that nothing says it"
        do = "nothing; no computation reads it"
        found.append(Unsayable("affine_frozen", True, why, do, "none"))  # noqa: FBT003 - the value
    elif spec.affine_frozen and is_linen:
        why = "whatever is in the params of a Linen model is trained"
        do = "leave the layer out in the optimizer (optax.masked), or use an NNX layer"
        found.append(Unsayable("affine_frozen", True, why, do, "training"))  # noqa: FBT003
    if spec.statistics_frozen and not (is_linen or says_more):
        why = "an NNX layer is thawed by the next model.train()"
        found.append(Unsayable("statistics_frozen", True, why, USE_EXTENSION, "training"))  # noqa: FBT003
    return found


def _calls(spec: Spec) -> list[Unsayable]:
    """What Flax is told in the call, or not at all."""
    found: list[Unsayable] = []
    if spec.masked:
        why = "Flax takes the mask in each call, the layer does not hold it"
        do = "pass mask= wherever the model calls the layer, then convert with masked=False"
        found.append(Unsayable("masked", True, why, do, "training"))  # noqa: FBT003 - the value
    if spec.synchronized and not spec.options.get("axis_name"):
        why = "Flax synchronizes over a named axis, and none is named"
        do = 'give the description options={"axis_name": ...}, the name in jax.pmap or shard_map'
        found.append(Unsayable("synchronized", True, why, do, "training"))  # noqa: FBT003
    if spec.rank is not None:
        why = "Flax's layer takes inputs of every rank"
        do = "nothing; no computation reads it"
        found.append(Unsayable("rank", spec.rank, why, do, "none"))
    return found


def _options(spec: Spec, *, is_linen: bool, says_more: bool) -> list[Unsayable]:
    own = _BOTH | (_LINEN if is_linen else _NNX) | (_EXTENSION if says_more else set())
    found: list[Unsayable] = []
    for name, value in spec.options.items():
        if name in own:
            if name.endswith("_init") and not is_rebuildable(str(value)):
                why = "only zeros, ones and constant(...) are rebuilt from their names"
                found.append(_option(name, value, why, "none"))
            elif name == "nonfinite" and value not in {"skip", "propagate"}:
                why = "compiled code cannot raise"
                found.append(_option(name, value, why, "training"))
        else:
            # Flax itself lets NaN and Inf into the running statistics.
            harmless = (name, value) == ("nonfinite", "propagate")
            effect: Effect = "training" if name.endswith(_TRAINING) and not harmless else "none"
            found.append(_option(name, value, "Flax's layer has no such setting", effect))
    return found


def _option(name: str, value: object, why: str, effect: Effect) -> Unsayable:
    do = "take it out of the description's options, and set what it stands for by hand"
    return Unsayable(f"options.{name}", value, why, do, effect)


def _arrays(spec: Spec, state: State, *, says_more: bool) -> list[Unsayable]:
    found: list[Unsayable] = []
    if state.batches is not None and not says_more:
        why = "Flax does not count batches"
        effect: Effect = "training" if spec.momentum.is_cumulative else "none"
        found.append(Unsayable("batches", state.batches, why, USE_EXTENSION, effect))
    for name in state.others:
        why = "Flax's layer has no such array"
        do = "use it for inference only"
        found.append(Unsayable(f"others.{name}", name, why, do, "training"))
    return found


def _arguments(spec: Spec) -> dict[str, Any]:
    """Constructor arguments that both layers share."""
    import jax.numpy as jnp

    options = spec.options
    return {
        "axis": spec.axis,
        "momentum": spec.momentum.as_weighing("old").value,
        "epsilon": spec.eps,
        "use_scale": spec.scale,
        "use_bias": spec.offset,
        "dtype": jnp.dtype(options["dtype"]) if "dtype" in options else None,
        "param_dtype": jnp.dtype(spec.parameter_dtype),
        "axis_name": options.get("axis_name") if spec.synchronized else None,
        "axis_index_groups": options.get("axis_index_groups"),
        "use_fast_variance": bool(options.get("use_fast_variance", False)),
    }


def _nnx(spec: Spec, state: State, kind: type[Any], arguments: dict[str, Any]) -> Any:
    from flax import nnx

    running = bool(spec.options.get("use_running_average", False))
    if is_extension(kind):
        policy = spec.options.get("nonfinite", "propagate")
        arguments |= {
            "variance": spec.variance,
            "frozen": spec.statistics_frozen,
            "nonfinite": policy,
        }
    elif arguments["momentum"] is None:
        # The caller wants inference only, which reads no momentum.
        arguments.pop("momentum")
    layer = kind(
        spec.channels,
        **arguments,
        use_running_average=running,
        rngs=nnx.Rngs(0),
    )
    for own, array in _values(spec, state).items():
        if own in {"scale", "bias"} and spec.affine_frozen:
            # nnx.grad and optimizers look for Param.
            setattr(layer, own, nnx.Variable(array))
        else:
            getattr(layer, own).set_value(array)
    if is_extension(kind) and state.batches is not None:
        layer.batches.set_value(np.asarray(state.batches, layer.batches.dtype))
    return layer


def _linen(
    spec: Spec, state: State, kind: type[Any], arguments: dict[str, Any]
) -> tuple[Any, dict[str, dict[str, Any]]]:
    options = spec.options
    if arguments["momentum"] is None:
        arguments.pop("momentum")
    for name in ("scale_init", "bias_init"):
        if name in options and is_rebuildable(options[name]):
            arguments[name] = initializer(options[name])
    running = True if spec.statistics_frozen else options.get("use_running_average")
    module = kind(
        **arguments,
        use_running_average=running,
        force_float32_reductions=bool(options.get("force_float32_reductions", True)),
        name=None,
    )
    values = _values(spec, state)
    params = {own: values[own] for own in ("scale", "bias") if own in values}
    variables = {"batch_stats": {own: values[own] for own in ("mean", "var")}}
    return module, {"params": params, **variables} if params else variables


def _values(spec: Spec, state: State) -> dict[str, Any]:
    """Flax's arrays by their own names, each in the type that the description names."""
    import jax.numpy as jnp

    values: dict[str, Any] = {}
    for field, array in state.arrays().items():
        if field in NAMES:
            affine = field in {"weight", "bias"}
            dtype = spec.parameter_dtype if affine else spec.statistics_dtype
            if not affine and dtype in {"float16", "bfloat16"}:
                dtype = "float32"
            values[NAMES[field]] = jnp.asarray(_exact(array, field, dtype))
    return values


def _exact(array: NDArray[Any], field: str, dtype: str) -> NDArray[Any]:
    """The array in another element type, which has to hold every value."""
    import jax.numpy as jnp

    cast = array.astype(jnp.dtype(dtype))
    if not np.array_equal(cast.astype(array.dtype), array, equal_nan=True):
        raise DTypeError(
            explain(
                asked=f"write {field} as {dtype}",
                got=f"values of {array.dtype} that it cannot hold",
                why="the description names that type for the layer",
                do=f"round the state to {dtype} first, or change the description's type",
            )
        )
    return cast


def _name(kind: type[Any]) -> str:
    return f"{kind.__module__.partition('.nn.')[0]}.{kind.__name__}"
