"""One network for torch, Keras and Flax, as two authors might have written it.

Every framework builds the same function: a convolution without a bias, batch norm, a residual
block whose convolutions have a bias in front of batch norm, a depthwise convolution, a strided
one, pooling, flatten, a dense layer with batch norm, and a dense layer.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

#: How a batch norm is made: ``"stock"`` is the framework's own layer with its defaults,
#: ``"exact"`` one that says what any source says, a pair (eps, momentum) the stock layer with
#: these numbers.
Norm = Literal["stock", "exact"] | tuple[float, float]
FRAMEWORKS: Final = ("torch", "keras (tensorflow)", "keras (jax)", "keras (torch)", "flax (nnx)")
PLACES: Final = ("stem", "left", "right", "depth", "down", "hidden")
#: What another author calls the same layers.
OTHER_NAMES: Final = dict(
    zip(
        (*PLACES, *(f"{place}_norm" for place in PLACES), "head"),
        (
            *("entry", "res_0", "res_1", "spatial", "reduce", "fc_0"),
            *("entry_bn", "bn_0", "bn_1", "spatial_bn", "reduce_bn", "fc_bn"),
            "logits",
        ),
        strict=True,
    )
)


def pictures(framework: str, samples: int = 16) -> NDArray[np.float32]:
    """Random pictures of 8 by 8 pixels in the framework's layout."""
    images = np.random.default_rng(0).standard_normal((samples, 8, 8, 3)).astype(np.float32)
    return np.moveaxis(images, -1, 1).copy() if framework == "torch" else images


def build(framework: str, norm: Norm, *, other_author: bool = False) -> Any:
    """The network in one framework, with random statistics, scales and offsets.

    Args:
        framework: one of :data:`FRAMEWORKS`; Keras's backend is that of the process.
        norm: see :data:`Norm`.
        other_author: other names, no bias in the second convolution of the residual block, and
            other values.
    """
    name = (lambda place: OTHER_NAMES[place]) if other_author else (lambda place: place)
    builders = {"torch": _torch, "flax (nnx)": _flax}
    model = builders.get(framework, _keras)(norm, name, right_bias=not other_author)
    randomize(model, seed=int(other_author))
    return model


def randomize(model: Any, seed: int) -> None:
    """Draw every array anew, so that nothing hides behind zeros and ones."""
    from evenkeel.dialects._open import open_network

    generator = np.random.default_rng((7, seed))
    network = open_network(model)
    network.write(
        {
            layer.name: {
                role: _drawn(generator, layer.kind, role, array.shape)
                for role, array in sorted(layer.arrays.items())
                if role != "batches"
            }
            for layer in network.layers()
            if layer.arrays
        }
    )


def _drawn(
    generator: np.random.Generator, kind: str, role: str, shape: tuple[int, ...]
) -> NDArray[np.float32]:
    if role in ("running_var", "weight"):
        drawn = generator.uniform(0.5, 1.5, shape)
    elif role == "kernel":
        drawn = generator.standard_normal(shape) * np.sqrt(2 / np.prod(shape[:-1]))
    else:
        drawn = generator.normal(0, 0.5 if kind == "batch_norm" else 0.2, shape)
    return drawn.astype(np.float32)


def _torch(norm: Norm, name: Callable[[str], str], *, right_bias: bool) -> Any:
    import torch
    from torch import nn

    import evenkeel as ek

    def norm_of(kind: str, channels: int) -> Any:
        if norm == "exact":
            return getattr(ek.nn, kind)(channels)
        eps, momentum = (1e-5, 0.1) if norm == "stock" else norm
        return getattr(nn, kind)(channels, eps=eps, momentum=momentum)

    conv = functools.partial(nn.Conv2d, kernel_size=3, padding=1, bias=False)
    layers: Mapping[str, Any] = {
        "stem": conv(3, 8),
        "left": conv(8, 8, bias=True),
        "right": conv(8, 8, bias=right_bias),
        "depth": conv(8, 8, groups=8),
        "down": conv(8, 16, stride=2),
        "hidden": nn.Linear(64, 12, bias=False),
        "head": nn.Linear(12, 5),
    }
    widths = dict(zip(PLACES, (8, 8, 8, 8, 16, 12), strict=True))

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            for place, layer in layers.items():
                self.add_module(name(place), layer)
            for place, width in widths.items():
                kind = "BatchNorm1d" if place == "hidden" else "BatchNorm2d"
                self.add_module(name(f"{place}_norm"), norm_of(kind, width))

        def block(self, place: str, x: torch.Tensor) -> torch.Tensor:
            layer, norm = (self.get_submodule(name(p)) for p in (place, f"{place}_norm"))
            return norm(layer(x))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            x = self.block("stem", x).relu()
            x = (x + self.block("right", self.block("left", x).relu())).relu()
            x = self.block("down", self.block("depth", x).relu()).relu()
            x = nn.functional.max_pool2d(x, 2).flatten(1)
            return self.get_submodule(name("head"))(self.block("hidden", x).relu())

    return Network().eval()


def _keras(norm: Norm, name: Callable[[str], str], *, right_bias: bool) -> Any:
    import keras

    from evenkeel.integrations.keras import BatchNormalization

    layers = keras.layers

    def norm_of(place: str) -> Any:
        called = name(f"{place}_norm")
        if norm == "exact":
            return BatchNormalization(name=called)
        eps, momentum = (1e-3, 0.99) if norm == "stock" else norm
        return layers.BatchNormalization(momentum=momentum, epsilon=eps, name=called)

    def block(place: str, x: Any, layer: Any) -> Any:
        return norm_of(place)(layer(x))

    def conv(place: str, x: Any, width: int, *, bias: bool = False, strides: int = 1) -> Any:
        x = layers.ZeroPadding2D(1)(x)
        layer = layers.Conv2D(width, 3, strides=strides, use_bias=bias, name=name(place))
        return block(place, x, layer)

    inputs = keras.Input((8, 8, 3))
    x = layers.ReLU()(conv("stem", inputs, 8))
    inner = layers.ReLU()(conv("left", x, 8, bias=True))
    x = layers.ReLU()(layers.Add()([x, conv("right", inner, 8, bias=right_bias)]))
    depth = layers.DepthwiseConv2D(3, padding="same", use_bias=False, name=name("depth"))
    x = layers.ReLU()(block("depth", x, depth))
    x = layers.ReLU()(conv("down", x, 16, strides=2))
    x = layers.Flatten()(layers.MaxPooling2D(2)(x))
    x = layers.ReLU()(block("hidden", x, layers.Dense(12, use_bias=False, name=name("hidden"))))
    return keras.Model(inputs, layers.Dense(5, name=name("head"))(x))


def _flax(norm: Norm, name: Callable[[str], str], *, right_bias: bool) -> Any:
    from flax import nnx

    from evenkeel.integrations.flax import BatchNorm

    rngs = nnx.Rngs(0)

    def norm_of(channels: int) -> Any:
        if norm == "exact":
            return BatchNorm(channels, rngs=rngs)
        eps, momentum = (1e-5, 0.99) if norm == "stock" else norm
        return nnx.BatchNorm(channels, epsilon=eps, momentum=momentum, rngs=rngs)

    pads = ((1, 1), (1, 1))
    conv = functools.partial(nnx.Conv, kernel_size=(3, 3), padding=pads, use_bias=False, rngs=rngs)
    layers: Mapping[str, Any] = {
        "stem": conv(3, 8),
        "left": conv(8, 8, use_bias=True),
        "right": conv(8, 8, use_bias=right_bias),
        "depth": conv(8, 8, feature_group_count=8),
        "down": conv(8, 16, strides=2),
        "hidden": nnx.Linear(64, 12, use_bias=False, rngs=rngs),
        "head": nnx.Linear(12, 5, rngs=rngs),
    }
    widths = dict(zip(PLACES, (8, 8, 8, 8, 16, 12), strict=True))

    class Network(nnx.Module):
        def __init__(self) -> None:
            for place, layer in layers.items():
                setattr(self, name(place), layer)
            for place, width in widths.items():
                setattr(self, name(f"{place}_norm"), norm_of(width))

        def block(self, place: str, x: Any) -> Any:
            return getattr(self, name(f"{place}_norm"))(getattr(self, name(place))(x))

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.block("stem", x))
            x = nnx.relu(x + self.block("right", nnx.relu(self.block("left", x))))
            x = nnx.relu(self.block("down", nnx.relu(self.block("depth", x))))
            x = nnx.max_pool(x, (2, 2), (2, 2))
            x = nnx.relu(self.block("hidden", x.reshape(len(x), -1)))
            return getattr(self, name("head"))(x)

    return Network()
