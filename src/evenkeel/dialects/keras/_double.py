"""A copy of a Keras model that computes in float64."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from evenkeel.dialects.keras._variables import assign, children, dtype_of, to_numpy
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

_FLOATS = ("float16", "bfloat16", "float32", "mixed_float16", "mixed_bfloat16")


@contextmanager
def double_precision() -> Generator[None]:
    """Within, layers, constants and (on JAX) arrays are float64, and so is what is computed."""
    import keras
    from keras.src.backend.common import dtypes

    policy, floatx = keras.config.dtype_policy(), keras.config.floatx()
    with ExitStack() as stack:
        stack.callback(keras.config.set_dtype_policy, policy)
        stack.callback(keras.config.set_floatx, floatx)
        # On JAX and torch Keras promotes float64 to float32, even for a float64 policy:
        # batch norm and others would compute in single precision.
        narrowed: dict[str, str] = dtypes.BIT64_TO_BIT32_DTYPE
        stack.callback(narrowed.update, float64=narrowed["float64"])
        narrowed["float64"] = "float64"
        if keras.backend.backend() == "jax":
            import jax

            stack.enter_context(jax.enable_x64(new_val=True))
        keras.config.set_floatx("float64")
        keras.config.set_dtype_policy("float64")
        yield


def double(model: Any) -> Any:
    """An independent copy of ``model`` in float64, with its arrays.

    Raises:
        InputError: the model cannot be built again from its configuration.
    """
    with double_precision():
        copy = _rebuild(model)
        pairs = list(zip(model.variables, copy.variables, strict=False))
        same = len(model.variables) == len(copy.variables) and all(
            tuple(old.shape) == tuple(new.shape) for old, new in pairs
        )
        left = [v.path for v in copy.variables if dtype_of(v) in _FLOATS]
        if not same or left:
            why = f"the copy keeps {left[:3]} in single precision" if left else "the copy differs"
            raise _refusal(model, why)
        for old, new in pairs:
            assign(new, to_numpy(old))
        _copy_marks(model, copy)
        return copy


def _rebuild(model: Any) -> Any:
    import keras

    kinds = {type(layer).__name__: type(layer) for layer in _all_layers(model)}
    own = {name: kind for name, kind in kinds.items() if not kind.__module__.startswith("keras.")}
    try:
        config = keras.saving.serialize_keras_object(model)
        config.pop("compile_config", None)
        with keras.saving.custom_object_scope(own):
            copy = keras.saving.deserialize_keras_object(_in_double(config), safe_mode=False)
            if not copy.built:
                copy.build_from_config(model.get_build_config())
    except Exception as error:  # whatever the user's own constructors raise
        raise _refusal(model, f"{type(error).__name__}: {str(error).splitlines()[0]}") from error
    return copy


def _in_double(config: Any) -> Any:
    """The configuration with every floating-point dtype replaced."""
    if isinstance(config, list | tuple):
        return [_in_double(item) for item in config]
    if not isinstance(config, dict):
        return config
    if config.get("class_name") == "DTypePolicy":
        return "float64" if config["config"]["name"] in _FLOATS else config
    return {
        key: "float64" if key == "dtype" and value in _FLOATS else _in_double(value)
        for key, value in config.items()
    }


def _all_layers(layer: Any) -> Iterator[Any]:
    yield layer
    for _, child in children(layer):
        yield from _all_layers(child)


def _copy_marks(model: Any, copy: Any) -> None:
    """Names, which Keras counts up, and what is frozen.

    Outer layers come first, because freezing one freezes all layers in it.
    """
    for old, new in zip(_all_layers(model), _all_layers(copy), strict=True):
        new.name = old.name
        if new.trainable != old.trainable:
            new.trainable = old.trainable


def _refusal(model: Any, why: str) -> InputError:
    return InputError(
        explain(
            asked=f"copy the model {model.name!r} in float64",
            got=f"a {type(model).__name__}",
            why=why,
            do="give every class of its own a get_config() from which it can be built again, and "
            "leave the dtype of its layers to the policy",
        )
    )
