"""Small Keras models of many kinds of layers, and what tests do with them."""

from __future__ import annotations

import keras
import numpy as np
from keras import layers


def loss(output):
    weights = np.cos(np.arange(output.size)).reshape(output.shape).astype(output.dtype)
    return float((output * weights).sum()), weights


def fill(model, seed=0):
    generator = np.random.default_rng(seed)
    for variable in model.variables:
        if keras.backend.is_float_dtype(variable.dtype):
            values = generator.random(tuple(variable.shape)) * 0.5 + 0.25
            variable.assign(keras.ops.convert_to_tensor(values, variable.dtype))
    return model


def pictures(seed=1):
    return np.random.default_rng(seed).normal(size=(4, 7, 7, 3)).astype("float32")


def picture_model():
    inner = keras.Sequential(
        [
            keras.Input((None, None, 6)),
            layers.Conv2D(4, 1, name="conv"),
            layers.BatchNormalization(name="bn"),
        ],
        name="inner",
    )
    model = keras.Sequential(
        [
            keras.Input((7, 7, 3)),
            layers.Rescaling(0.5, offset=0.1, name="scale"),
            layers.Conv2D(4, 3, activation="tanh", name="conv"),
            layers.BatchNormalization(name="bn", momentum=0.9),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw"),
            layers.SeparableConv2D(6, 3, padding="same", name="sep"),
            layers.BatchNormalization(scale=False, trainable=False, name="frozen"),
            layers.Dropout(0.5, name="drop"),
            inner,
            layers.Conv2DTranspose(2, 3, strides=2, name="up"),
            layers.PReLU(shared_axes=[1, 2], name="prelu"),
            layers.Flatten(),
            layers.Dense(3, name="head"),
        ]
    )
    return fill(model)


def sequence_model():
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(9, 4, name="words")(inputs)
    x = layers.Bidirectional(layers.LSTM(3, return_sequences=True), name="both")(x)
    x = layers.GroupNormalization(2, name="gn")(x)
    x = layers.GRU(4, dropout=0.4, name="gru")(x)
    x = layers.LayerNormalization(name="ln")(x)
    return keras.Model(inputs, layers.Dense(2, name="head")(x))


class Block(layers.Layer):
    def __init__(self, width, **kwargs):
        super().__init__(**kwargs)
        self.conv, self.bn = layers.Conv2D(width, 3), layers.BatchNormalization()

    def call(self, x, training=None):
        return self.bn(self.conv(x), training=training)


class Subclassed(keras.Model):
    def __init__(self, width=2, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [Block(width, name="one"), Block(width, name="two")]
        self.head = layers.Dense(2, name="head")

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(keras.ops.mean(x, (1, 2)))


def values_of(network):
    return {
        layer.name: {role: array.read() for role, array in layer.arrays.items()}
        for layer in network.layers()
    }


def same(a, b):
    return all(np.array_equal(a[name][role], b[name][role]) for name in a for role in a[name])
