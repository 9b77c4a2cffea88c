"""JAX: Keras's stateless layer, or Flax's NNX layer, under ``jax.jit``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import jax
import jax.numpy as jnp
import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.bench._cases import Case

_ACTIVATIONS: Final[dict[str, Callable[[Any], Any]]] = {
    "identity": lambda x: x,
    "relu": jax.nn.relu,
    "relu6": jax.nn.relu6,
    "leaky_relu": jax.nn.leaky_relu,
    "silu": jax.nn.silu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "hardswish": jax.nn.hard_swish,
    "elu": jax.nn.elu,
}


def prepare(case: Case, variant: str) -> Callable[[], None]:
    """One step of the case."""
    axis, shape = _axis_and_shape(case)
    norm, params, fixed = {"keras": _keras, "flax": _flax}[variant](shape, axis, case.dtype)
    draw = np.random.default_rng(0)
    x, dy, residual = (
        jnp.asarray(draw.standard_normal(shape, np.float32), case.dtype) for _ in range(3)
    )

    def forward(params: Any, fixed: Any, x: Any, residual: Any) -> Any:
        y, new = norm(params, fixed, x)
        return _ACTIVATIONS[case.activation](y + residual if case.residual else y), new

    def both(params: Any, fixed: Any, x: Any, residual: Any, dy: Any) -> Any:
        def trained(params: Any, x: Any, residual: Any) -> Any:
            return forward(params, fixed, x, residual)

        y, back, new = jax.vjp(trained, params, x, residual, has_aux=True)
        return y, back(dy), new

    step = jax.jit(forward if case.mode == "forward" else both)
    arguments = (params, fixed, x, residual, *([dy] if case.mode == "forward+backward" else []))

    def run() -> None:
        jax.block_until_ready(step(*arguments))

    return run


def _axis_and_shape(case: Case) -> tuple[int, tuple[int, ...]]:
    n, c, *rest = case.shape
    return (-1, (n, *rest, c)) if case.layout == "last" else (1, case.shape)


def _keras(shape: tuple[int, ...], axis: int, dtype: str) -> tuple[Any, Any, Any]:
    import keras

    policy = "float32" if dtype == "float32" else f"mixed_{dtype}"
    layer = keras.layers.BatchNormalization(axis=axis, dtype=policy)
    layer.build(shape)

    def norm(params: Any, fixed: Any, x: Any) -> Any:
        return layer.stateless_call(params, fixed, x, training=True)

    values = [v.value for v in layer.trainable_variables]
    return norm, values, [v.value for v in layer.non_trainable_variables]


def _flax(shape: tuple[int, ...], axis: int, dtype: str) -> tuple[Any, Any, Any]:
    from flax import nnx

    layer = nnx.BatchNorm(shape[axis], axis=axis, dtype=jnp.dtype(dtype), rngs=nnx.Rngs(0))
    graph, params, fixed = nnx.split(layer, nnx.Param, ...)

    def norm(params: Any, fixed: Any, x: Any) -> Any:
        # New variables: those of another trace level cannot be written.
        made = nnx.merge(graph, params, jax.tree.map(_itself, fixed))
        y = made(x, use_running_average=False)
        return y, nnx.split(made, nnx.Param, ...)[2]

    return norm, params, fixed


def _itself(value: Any) -> Any:
    return value
