"""Running a Flax model: element types, float64 mode, and whether it takes an input."""

from __future__ import annotations

import functools
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.dialects.flax._arrays import only_array
from evenkeel.errors import DTypeError, EvenkeelError, InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from numpy.typing import NDArray

    from evenkeel.dialects.flax._types import JaxArray


@contextmanager
def computing(*, double: bool) -> Generator[None]:
    """JAX's own float64 mode where asked for, else the mode of the process."""
    import jax

    if not double:
        yield
        return
    with jax.enable_x64(True):  # noqa: FBT003 - JAX's own signature
        yield


def to_jax(inputs: NDArray[Any], *, double: bool) -> Any:
    """Inputs as the model takes them: floats in its precision, token numbers as they are."""
    import jax.numpy as jnp

    if inputs.dtype.kind != "f":
        return jnp.asarray(inputs)
    return jnp.asarray(inputs, np.float64 if double else np.float32)


def pull_back(pull: Callable[..., Any], cotangent: JaxArray) -> Any:
    """What ``pull``, of a compiled ``jax.vjp``, makes of a cotangent; compiled once for each."""
    return _compiled_pull_back()(pull, cotangent)


@functools.cache
def _compiled_pull_back() -> Callable[..., Any]:
    import jax

    def run(pull: Callable[..., Any], cotangent: JaxArray) -> Any:
        return pull(cotangent)

    return jax.jit(run)


def check_inputs(forward: Callable[[Any], Any], x: Any, model: type) -> None:
    """Refuse inputs that the model does not take, without computing anything.

    Raises:
        InputError: the model raises for an input of that shape and type, or its output is not
            one array.
    """
    import jax

    try:
        output = jax.eval_shape(forward, x)
    except EvenkeelError:
        raise
    except Exception as error:
        raise InputError(
            explain(
                asked=f"run a {model.__qualname__} on an input",
                got=f"{x.dtype} of shape {x.shape}",
                why=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
                do="pass what the model takes: channels last, batch first, and the argument that "
                'chooses the mode, if it has one, as open_network((model, {"train": True}))',
            )
        ) from error
    only_array(output)


def check_double(output: Any) -> None:
    """Refuse a network that was to compute in float64 and does not.

    Raises:
        DTypeError: the output has less precision.
    """
    if np.dtype(output.dtype) != np.float64:
        raise DTypeError(
            explain(
                asked="run a Flax network in float64",
                got=f"an output in {output.dtype}",
                why="the model's own code fixes an element type (astype, or a dtype in __call__)",
                do="take the element type from an attribute dtype of the module, or from the input",
            )
        )
