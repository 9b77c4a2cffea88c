"""Live batch-norm layers of Keras as Spec and State, and the way back."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from evenkeel.dialects._unsayable import refuse
from evenkeel.dialects.keras._config import read_config, write_config
from evenkeel.dialects.keras._kinds import RENORM
from evenkeel.dialects.keras._unsayable import unsayable
from evenkeel.dialects.keras._variables import assign, dtype_of, to_numpy, weights_by_name
from evenkeel.errors import InputError, explain
from evenkeel.spec import Spec, State

if TYPE_CHECKING:
    from keras import Layer as KerasLayer

#: Role in State -> name in Keras.
NAMES = {
    "weight": "gamma",
    "bias": "beta",
    "running_mean": "moving_mean",
    "running_var": "moving_variance",
}


def is_batch_norm(layer: object) -> bool:
    """Whether the layer is ``keras.layers.BatchNormalization`` or a subclass of it."""
    import keras

    return isinstance(layer, keras.layers.BatchNormalization)


def read_module(layer: KerasLayer, name: str = "") -> tuple[Spec, State]:
    """Read one batch-norm layer.

    Args:
        layer: a built one; see :func:`is_batch_norm`.
        name: of the layer in its model; the layer's own where empty.

    Raises:
        InputError: it is no batch-norm layer, or it has not been built.

    Example:
        >>> import keras
        >>> layer = keras.layers.BatchNormalization()
        >>> layer.build((None, 3))
        >>> read_module(layer)[0].momentum
        Momentum(value=0.99, weighs='old')
    """
    spec = read_spec(layer, name)
    return spec, read_state(layer).check(spec)


def read_spec(layer: KerasLayer, name: str = "") -> Spec:
    """The description alone."""
    _require(layer)
    known: Any = layer
    affine = known.gamma if known.scale else known.beta
    parameters = known.moving_mean if affine is None else affine
    config = known.get_config()
    if not known.renorm:
        config["renorm_clipping"] = None
    return read_config(
        config,
        channels=int(known.moving_mean.shape[0]),
        rank=None if known.input_spec is None else known.input_spec.ndim,
        parameter_dtype=dtype_of(parameters),
        statistics_dtype=dtype_of(known.moving_mean),
        name=name or known.name,
        class_name=class_of(layer),
    )


def read_state(layer: KerasLayer) -> State:
    """The arrays alone, copied; bfloat16 comes as float32."""
    _require(layer)
    arrays = {key: to_numpy(value) for key, value in weights_by_name(layer).items()}
    batches = arrays.get("batches")
    return State(
        *(arrays.get(key) for key in NAMES.values()),
        batches=None if batches is None else int(batches),
        others={key: arrays[key] for key in RENORM if key in arrays},
    )


def build_module(
    spec: Spec,
    state: State,
    kind: type[Any] | None = None,
    *,
    rank: int | None = None,
    inference_only: bool = False,
) -> Any:
    """A built layer that means what ``spec`` says and holds ``state``.

    Args:
        spec: the description.
        state: the arrays.
        kind: class of the layer, ``keras.layers.BatchNormalization`` where None.
            ``evenkeel.integrations.keras.BatchNormalization`` can say more.
        rank: of the inputs, where ``spec`` leaves it open; a Keras layer takes one only.
        inference_only: leave out what only further training would need.

    Raises:
        UnsayableError: Keras cannot say all of it.
        InputError: the state is not one of such a layer.
    """
    import keras

    kind = kind or keras.layers.BatchNormalization
    found = unsayable(spec, state, kind)
    refused = ("inference",) if inference_only else ("inference", "training")
    refuse(spec, "Keras", [item for item in found if item.effect in refused])
    state.check(spec)
    layer: Any = kind(**_arguments(spec, found, kind))
    layer.build(_input_shape(spec, rank))
    values = state.arrays() | ({} if state.batches is None else {"batches": state.batches})
    for key, variable in weights_by_name(layer).items():
        role = next((role for role, own in NAMES.items() if own == key), key)
        if role in values:
            assign(variable, values[role])
    return layer


def class_of(layer: object) -> str | None:
    """Module and name of a class whose forward pass is neither Keras's nor ours."""
    import keras

    kind = type(layer)
    if kind is keras.layers.BatchNormalization or hasattr(kind, "evenkeel_says"):
        return None
    return f"{kind.__module__}.{kind.__qualname__}"


def _arguments(spec: Spec, found: tuple[Any, ...], kind: type[Any]) -> dict[str, Any]:
    left = {item.field for item in found}
    # What inference does not need gets the value of a layer that says nothing of it.
    fallback = {"momentum": Spec(1).momentum, "renorm": None, "synchronized": False}
    spec = replace(spec, **{key: value for key, value in fallback.items() if key in left})
    arguments = write_config(spec)
    says = getattr(kind, "evenkeel_says", frozenset[str]())
    if "variance" in says:
        arguments["variance"] = spec.variance
    if "nonfinite" in says:
        arguments.setdefault("nonfinite", "propagate")
    else:
        arguments.pop("nonfinite", None)
    wider = {spec.parameter_dtype, spec.statistics_dtype}
    if len(wider) > 1:
        arguments["dtype"] = "float64" if "float64" in wider else "float32"
    return arguments


def _input_shape(spec: Spec, rank: int | None) -> tuple[int | None, ...]:
    rank = spec.rank or rank or max(2, spec.axis + 1, -spec.axis)
    shape: list[int | None] = [None] * rank
    shape[spec.axis] = spec.channels
    return tuple(shape)


def _require(layer: object) -> None:
    built = is_batch_norm(layer) and getattr(layer, "moving_mean", None) is not None
    if built:
        return
    no_layer = not is_batch_norm(layer)
    raise InputError(
        explain(
            asked=f"read the batch-norm layer {getattr(layer, 'name', '')!r}",
            got=f"a {type(layer).__module__}.{type(layer).__qualname__}",
            why="it is no keras.layers.BatchNormalization" if no_layer else "it has no arrays yet",
            do="pass the layer itself" if no_layer else "call the model once, or layer.build(...)",
        )
    )
