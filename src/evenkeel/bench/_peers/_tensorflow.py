"""Keras on TensorFlow, in a traced function with a gradient tape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import keras
import numpy as np
import tensorflow as tf

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.bench._cases import Case

_NAMES: Final = {"hardswish": "hard_swish", "identity": "linear"}


def prepare(case: Case, variant: str) -> Callable[[], None]:
    """One step of the case."""
    del variant
    n, c, *rest = case.shape
    last = case.layout == "last"
    shape = (n, *rest, c) if last else case.shape
    policy = "float32" if case.dtype == "float32" else f"mixed_{case.dtype}"
    layer: Any = keras.layers.BatchNormalization(axis=-1 if last else 1, dtype=policy)
    layer.build(shape)
    activation: Any = keras.activations.get(_NAMES.get(case.activation, case.activation))
    draw = np.random.default_rng(0)
    x, dy, residual = (
        tf.cast(draw.standard_normal(shape, np.float32), case.dtype) for _ in range(3)
    )

    def forward() -> Any:
        y = layer(x, training=True)
        return activation(y + residual if case.residual else y)

    def both() -> Any:
        sources = [x, residual] if case.residual else [x]
        with tf.GradientTape() as tape:
            tape.watch(sources)
            y = forward()
        weights = layer.trainable_variables
        wanted = [*sources, *(w.value for w in weights)]
        return y, tape.gradient([y], wanted, output_gradients=[dy])

    step = tf.function(forward if case.mode == "forward" else both)

    def run() -> None:
        # CPU kernels have run when the call returns; reading a value makes sure of it.
        first = tf.nest.flatten(step())[-1]
        first[(0,) * len(first.shape)].numpy()

    return run
