"""One forward and backward pass in training mode, by each backend's own differentiation."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from evenkeel.dialects.keras._variables import to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from evenkeel.dialects._network import Loss

    Layout: TypeAlias = Callable[[Any], NDArray[Any]]
    #: The loss, the output (channels last), and the gradients by identity of the variable.
    Pass: TypeAlias = tuple[float, NDArray[Any], dict[int, NDArray[Any]]]


def forward_and_backward(
    model: Any,
    inputs: NDArray[Any],
    loss: Loss,
    output_as: Layout,
    cotangent_as: Layout,
    compiled: dict[tuple[int, ...], Any],
) -> Pass:
    """Run ``model`` on ``inputs`` in its own layout; running statistics move.

    Args:
        model: the model.
        inputs: in the model's layout.
        loss: of the output, channels last.
        output_as: a tensor of the backend as NumPy, channels last.
        cotangent_as: a gradient, channels last, in the model's layout.
        compiled: what JAX compiled for this model so far; to be emptied when a layer changes.
    """
    import keras

    jax = partial(_jax, compiled=compiled)
    passes = {"tensorflow": _tensorflow, "jax": jax, "torch": _torch}
    variables = model.trainable_variables
    judged: list[Any] = []

    def judge(output: Any) -> NDArray[Any]:
        array = output_as(output)
        value, cotangent = loss(array)
        judged.extend((float(value), array))
        return np.ascontiguousarray(cotangent_as(np.asarray(cotangent, array.dtype)))

    found = passes[keras.backend.backend()](model, variables, inputs, judge)
    gradients = {
        id(variable): np.zeros(tuple(variable.shape), np.float32)
        if gradient is None
        else to_numpy(gradient)
        for variable, gradient in zip(variables, found, strict=True)
    }
    return judged[0], judged[1], gradients


def _tensorflow(
    model: Any,
    variables: list[Any],
    inputs: NDArray[Any],
    judge: Layout,
) -> list[Any]:
    """By a gradient tape."""
    import tensorflow as tf

    held = [variable.value for variable in variables]
    with tf.GradientTape() as tape:
        output = model(tf.convert_to_tensor(inputs), training=True)
    cotangent = tf.cast(judge(output), output.dtype)
    found = tape.gradient([output], held, output_gradients=[cotangent])
    # Rows of an embedding come as (rows, numbers of the rows).
    return [tf.convert_to_tensor(g) if isinstance(g, tf.IndexedSlices) else g for g in found]


def _jax(
    model: Any,
    variables: list[Any],
    inputs: NDArray[Any],
    judge: Layout,
    compiled: dict[tuple[int, ...], Any],
) -> list[Any]:
    """By a vector-Jacobian product of the stateless model, compiled as Keras itself does."""
    import jax

    others = model.non_trainable_variables
    key = tuple(map(id, variables))
    forward, backward = compiled.setdefault(key, _jax_functions(model))
    held = ([v.value for v in variables], [v.value for v in others], jax.numpy.asarray(inputs))
    output, after = forward(*held)
    cotangent = jax.numpy.asarray(judge(output), output.dtype)
    found = backward(*held, cotangent)
    for variable, value in zip(others, after, strict=True):
        variable.assign(value)
    return list(found)


def _jax_functions(model: Any) -> tuple[Any, Any]:
    """The pass forward, and the pass back, which runs the model once more."""
    import jax

    def forward(trained: Any, fixed: Any, inputs: Any) -> Any:
        return model.stateless_call(trained, fixed, inputs, training=True)

    def backward(trained: Any, fixed: Any, inputs: Any, cotangent: Any) -> Any:
        def output_of(held: Any) -> Any:
            return forward(held, fixed, inputs)[0]

        _, pull_back = jax.vjp(output_of, trained)
        return pull_back(cotangent)[0]

    return jax.jit(forward), jax.jit(backward)


def _torch(
    model: Any,
    variables: list[Any],
    inputs: NDArray[Any],
    judge: Layout,
) -> list[Any]:
    """By autograd, which leaves no gradient in the parameters."""
    import torch

    held = [variable.value for variable in variables]
    output = model(torch.as_tensor(np.ascontiguousarray(inputs)), training=True)
    cotangent = torch.as_tensor(judge(output)).to(output.dtype)
    if not held:
        return []
    return list(torch.autograd.grad(output, held, cotangent, allow_unused=True))
