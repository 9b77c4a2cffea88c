"""Writes the golden files of Keras 3 and Keras 2 (tf_keras), with what the frameworks hold.

Run once per framework, since both cannot share a process:

    KERAS_BACKEND=jax python make.py keras
    python make.py tf_keras

Every file stands beside ``<name>.npz`` with its arrays by the layer's and the weight's name.
"""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).parent


def picture_model(keras: Any) -> Any:
    """Convolutions of several kinds, a nested model with a frozen layer, a flattened picture."""
    layers = keras.layers
    inputs = keras.Input((6, 6, 3), name="image")
    x = layers.Conv2D(4, 3, name="my_conv")(inputs)
    x = layers.BatchNormalization(name="my_bn", momentum=0.9, epsilon=1e-5)(x)
    x = layers.SeparableConv2D(2, 3, padding="same", name="sep")(x)
    # The layer called batch_normalization is not the first of its class.
    x = layers.BatchNormalization(scale=False, name="batch_normalization")(x)
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 2)),
            layers.DepthwiseConv2D(3, depth_multiplier=2, name="dw"),
            layers.BatchNormalization(name="frozen_bn", trainable=False),
        ],
        name="inner",
    )
    x = layers.Flatten(name="flat")(inner(x))
    x = layers.Dense(5, name="head")(x)
    return keras.Model(inputs, layers.BatchNormalization(name="last")(x), name="net")


def sequence_model(keras: Any) -> Any:
    """Embedding and recurrent layers."""
    layers = keras.layers
    inputs = keras.Input((6,), dtype="int32", name="tokens")
    x = layers.Embedding(7, 3, name="words")(inputs)
    x = layers.Bidirectional(layers.LSTM(2, return_sequences=True), name="both")(x)
    x = layers.GRU(2, name="gru")(x)
    return keras.Model(inputs, layers.LayerNormalization(name="ln")(x), name="text")


def fill(model: Any) -> None:
    """Distinct values everywhere."""
    generator = np.random.default_rng(4)
    model.set_weights([generator.random(w.shape).astype(w.dtype) for w in model.get_weights()])


def held(layer: Any, path: str = "") -> dict[str, np.ndarray]:
    """Arrays by the layer's path and the weight's own name."""
    inner = getattr(layer, "layers", None)
    if inner:
        return {k: v for part in inner for k, v in held(part, f"{path}{part.name}/").items()}
    names = [variable.name.removesuffix(":0").split("/")[-1] for variable in layer.weights]
    sides = ["", ""] if len(set(names)) == len(names) else ["forward/", "backward/"]
    half = max(len(names) // 2, 1)
    return {
        f"{path}{sides[min(number // half, 1)]}{name}": value
        for number, (name, value) in enumerate(zip(names, layer.get_weights(), strict=True))
    }


def main(framework: str) -> None:
    """Write all files of one framework."""
    keras = importlib.import_module(framework)
    short = {"keras": "k3", "tf_keras": "k2"}[framework]
    for name, model in (("picture", picture_model(keras)), ("sequence", sequence_model(keras))):
        fill(model)
        stem = f"{short}_{name}"
        model.save(HERE / f"{stem}.keras")
        model.save(str(HERE / f"{stem}.h5"))
        model.save_weights(str(HERE / f"{stem}.weights.h5"))
        np.savez(HERE / f"{stem}.npz", **held(model))
    versions = HERE / "versions.json"
    known = json.loads(versions.read_text()) if versions.exists() else {}
    known[framework] = keras.__version__
    versions.write_text(json.dumps(known, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main(sys.argv[1])
