"""Builds both sides of an entry of the zoo, with random weights and statistics."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from unittest import mock

import numpy as np

if TYPE_CHECKING:
    from ._architectures import Architecture

CLASSES = 10


def import_torchvision() -> Any:
    """torchvision, whose compiled operators may be missing; the model definitions use none."""
    import torch.library

    leave = mock.Mock(return_value=lambda function: function)
    with mock.patch.object(torch.library, "register_fake", leave):
        import torchvision
    return torchvision


def build_keras(entry: Architecture, seed: int = 0) -> Any:
    """The model of keras.applications, everything random."""
    import keras

    keras.utils.set_random_seed(seed)
    model = getattr(keras.applications, entry.keras)(
        weights=None,
        classes=CLASSES,
        classifier_activation=None,
        input_shape=(entry.size, entry.size, 3),
    )
    randomize_keras(model, seed)
    return model


def build_torch(entry: Architecture) -> Any:
    """The torch definition of the same architecture."""
    torchvision = import_torchvision()
    if entry.library == "timm":
        import timm

        model = timm.create_model(entry.torch, num_classes=CLASSES, **entry.options)
    else:
        model = getattr(torchvision.models, entry.torch)(num_classes=CLASSES, **entry.options)
    if entry.adapt is not None:
        entry.adapt(model)
    return model.eval()


def example(entry: Architecture, model: Any) -> np.ndarray:
    """Images in the range that the Keras model takes."""
    takes_bytes = any(type(layer).__name__ == "Rescaling" for layer in model.layers)
    size = (2, entry.size, entry.size, 3)
    high = 255 if takes_bytes else 1
    return np.random.default_rng(1).uniform(0, high, size).astype(np.float32)


def randomize_keras(model: Any, seed: int) -> None:
    """Gammas, betas and biases at random; statistics near those of the data, but not equal.

    Statistics far from the data would let the signal grow from layer to layer, until the
    rounding of the source itself is as large as its output.
    """
    rng = np.random.default_rng(seed)
    layers = list(model._flatten_layers(include_self=False))
    norms = [layer for layer in layers if type(layer).__name__ == "BatchNormalization"]
    for layer in layers:
        bias = getattr(layer, "bias", None)
        if hasattr(bias, "assign"):
            bias.assign(0.1 * rng.standard_normal(bias.shape))
    for norm in norms:
        _assign(norm, "gamma", rng.uniform(0.5, 1.5, norm.moving_mean.shape))
        _assign(norm, "beta", 0.2 * rng.standard_normal(norm.moving_mean.shape))
    _take_statistics(model, norms, rng)
    for norm in norms:
        mean, variance = (np.array(v) for v in (norm.moving_mean, norm.moving_variance))
        spread = np.sqrt(variance) + 0.1
        norm.moving_mean.assign(mean + 0.2 * spread * rng.standard_normal(mean.shape))
        norm.moving_variance.assign(spread**2 * rng.uniform(0.7, 1.5, mean.shape))


def _take_statistics(model: Any, norms: list[Any], rng: np.random.Generator) -> None:
    """Moving statistics become those of one batch of noise."""
    import torch

    high = 255 if any(type(layer).__name__ == "Rescaling" for layer in model.layers) else 1
    images = rng.uniform(0, high, (8, *model.input_shape[1:])).astype(np.float32)
    kept = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    with torch.no_grad():
        model(images, training=True)
    for norm, momentum in zip(norms, kept, strict=True):
        norm.momentum = momentum


def _assign(layer: Any, name: str, values: np.ndarray) -> None:
    variable = getattr(layer, name)
    if variable is not None:
        variable.assign(values)


def randomize_torch(model: Any, seed: int) -> None:
    """Statistics, gammas, betas and biases of a torch model likewise."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if getattr(module, "bias", None) is not None:
                module.bias.normal_(0, 0.2, generator=generator)
            if isinstance(module, torch.nn.modules.batchnorm._BatchNorm):
                if module.weight is not None:
                    module.weight.uniform_(0.5, 1.5, generator=generator)
                module.running_mean.normal_(0, 0.2, generator=generator)
                module.running_var.uniform_(0.5, 1.5, generator=generator)
    model.eval()
