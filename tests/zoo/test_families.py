"""Torch networks of several kinds go into Keras and Flax definitions, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel.tools._port import port

from ._models import randomize_torch

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

IMAGES = np.random.default_rng(7).standard_normal((4, 3, 12, 12)).astype(np.float32)
NORM = {"eps": 1e-3, "momentum": 0.01}
#: convolution with bias, batch norm with scale and offset, head
FAMILY = [
    (bias, affine, head)
    for bias in (False, True)
    for affine in (False, True)
    for head in ("flatten", "pool")
]


def torch_sequential(bias: bool, affine: bool, head: str) -> nn.Module:
    size = 16 * 36 if head == "flatten" else 16
    top = [nn.Flatten()] if head == "flatten" else [nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=bias),
        nn.BatchNorm2d(8, affine=affine, **NORM),
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=bias),
        nn.BatchNorm2d(8, affine=affine, **NORM),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 16, 1, bias=bias),
        nn.BatchNorm2d(16, affine=affine, **NORM),
        nn.ReLU(),
        *top,
        nn.Linear(size, 5),
    )
    randomize_torch(model, 0)
    return model


def keras_sequential(bias: bool, affine: bool, head: str) -> Any:
    import keras
    from keras import layers

    norm = {"scale": affine, "center": affine}
    top = layers.Flatten() if head == "flatten" else layers.GlobalAveragePooling2D()
    return keras.Sequential(
        [
            layers.Input((12, 12, 3)),
            layers.Conv2D(8, 3, padding="same", use_bias=bias),
            layers.BatchNormalization(**norm),
            layers.ReLU(),
            layers.DepthwiseConv2D(3, padding="same", use_bias=bias),
            layers.BatchNormalization(**norm),
            layers.ReLU(),
            layers.MaxPooling2D(2),
            layers.Conv2D(16, 1, use_bias=bias),
            layers.BatchNormalization(**norm),
            layers.ReLU(),
            top,
            layers.Dropout(0.5),
            layers.Dense(5),
        ]
    )


class Residual(nn.Module):
    """Two residual blocks; the shortcut runs last."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8, **NORM)
        self.blocks = nn.ModuleList(self._block(8, width) for width in (8, 8))
        self.fc = nn.Linear(8, 5)
        randomize_torch(self, 0)

    @staticmethod
    def _block(before: int, width: int) -> nn.ModuleDict:
        return nn.ModuleDict(
            {
                "one": nn.Conv2d(before, width, 3, padding=1, bias=False),
                "one_norm": nn.BatchNorm2d(width, **NORM),
                "two": nn.Conv2d(width, width, 3, padding=1, bias=False),
                "two_norm": nn.BatchNorm2d(width, **NORM),
                "short": nn.Conv2d(before, width, 3, padding=1, bias=False),
                "short_norm": nn.BatchNorm2d(width, **NORM),
            }
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = torch.relu(self.stem_norm(self.stem(x)))
        for block in self.blocks:
            inner = torch.relu(block["one_norm"](block["one"](x)))
            inner = block["two_norm"](block["two"](inner))
            x = torch.relu(inner + block["short_norm"](block["short"](x)))
        return self.fc(x.mean((2, 3)))


def keras_residual() -> Any:
    """The same with the shortcut first, and no bias in the first convolution."""
    import keras
    from keras import layers

    def conv(x: Any) -> Any:
        x = layers.Conv2D(8, 3, padding="same", use_bias=False)(x)
        return layers.BatchNormalization()(x)

    inputs = keras.Input((12, 12, 3))
    x = layers.ReLU()(conv(inputs))
    for _ in range(2):
        short = conv(x)
        x = layers.ReLU()(short + conv(layers.ReLU()(conv(x))))
    return keras.Model(inputs, layers.Dense(5)(layers.GlobalAveragePooling2D()(x)))


def outputs(model: nn.Module, images: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return model(torch.tensor(images)).numpy()


@pytest.mark.parametrize(("bias", "affine", "head"), FAMILY)
def test_a_sequential_network_goes_to_keras_and_back(bias: bool, affine: bool, head: str) -> None:
    source, target = torch_sequential(bias, affine, head), keras_sequential(bias, affine, head)
    there = port(source, target, IMAGES, settings="target")
    assert there.proof.holds
    last = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))
    wanted = outputs(source, IMAGES)
    np.testing.assert_allclose(target.predict(last, verbose=0), wanted, rtol=1e-3, atol=1e-4)
    again = torch_sequential(bias, affine, head)
    randomize_torch(again, 1)
    assert port(target, again, last, settings="target").proof.holds
    np.testing.assert_array_equal(outputs(again, IMAGES), wanted)


def test_a_residual_network_goes_to_keras() -> None:
    source, target = Residual(), keras_residual()
    done = port(source, target, IMAGES, settings="target")
    assert done.proof.holds
    assert [one for one, _ in done.matching.absorbed] == ["stem"]


def test_training_settings_come_along_and_go_again() -> None:
    import evenkeel.integrations.keras  # noqa: F401 - registers the layer that can say them

    source, target = torch_sequential(False, True, "pool"), keras_sequential(False, True, "pool")
    norms = [layer for layer in target.layers if "normalization" in layer.name]
    kinds, keys = [type(norm) for norm in norms], [set(vars(norm)) for norm in norms]
    done = port(source, target, IMAGES, settings="source")
    assert {item.field for item in done.differences} >= {"variance"}
    assert all(item.repaired for item in done.differences)
    assert {norm.variance for norm in norms} == {"unbiased"}
    done.undo()
    assert [type(norm) for norm in norms] == kinds
    assert [set(vars(norm)) for norm in norms] == keys


def test_training_settings_come_along_to_flax_and_go_again() -> None:
    import evenkeel.integrations.flax  # noqa: F401 - registers the layer that can say them

    source, target = torch_sequential(True, True, "pool"), flax_network("pool")
    kind = type(target.norm1)
    done = port(source, target, IMAGES, settings="source")
    assert all(item.repaired for item in done.differences)
    assert target.norm1.variance == "unbiased"
    done.undo()
    assert type(target.norm1) is kind


def flax_network(head: str) -> Any:
    from flax import nnx

    class Network(nnx.Module):
        """As the torch family, written as Flax users write."""

        def __init__(self, rngs: nnx.Rngs) -> None:
            self.conv1 = nnx.Conv(3, 8, (3, 3), rngs=rngs)
            self.norm1 = nnx.BatchNorm(8, epsilon=1e-3, use_running_average=True, rngs=rngs)
            self.conv2 = nnx.Conv(8, 8, (3, 3), feature_group_count=8, rngs=rngs)
            self.norm2 = nnx.BatchNorm(8, epsilon=1e-3, use_running_average=True, rngs=rngs)
            self.conv3 = nnx.Conv(8, 16, (1, 1), rngs=rngs)
            self.norm3 = nnx.BatchNorm(16, epsilon=1e-3, use_running_average=True, rngs=rngs)
            self.drop = nnx.Dropout(0.5, deterministic=True, rngs=rngs)
            self.dense = nnx.Linear(16 * 36 if head == "flatten" else 16, 5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            x = nnx.relu(self.norm1(self.conv1(x)))
            x = nnx.relu(self.norm2(self.conv2(x)))
            x = nnx.max_pool(x, (2, 2), (2, 2))
            x = nnx.relu(self.norm3(self.conv3(x)))
            x = x.reshape(x.shape[0], -1) if head == "flatten" else x.mean((1, 2))
            return self.dense(self.drop(x))

    return Network(nnx.Rngs(0))


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize("head", ["flatten", "pool"])
def test_a_sequential_network_goes_to_flax(affine: bool, head: str) -> None:
    source, target = torch_sequential(True, affine, head), flax_network(head)
    done = port(source, target, IMAGES, settings="target")
    assert done.proof.holds
    last = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))
    wanted = outputs(source, IMAGES)
    np.testing.assert_allclose(np.asarray(target(last)), wanted, rtol=1e-3, atol=1e-4)
    assert len(done.matching.made) == (0 if affine else 6)


def linen_network() -> Any:
    from flax import linen

    class Network(linen.Module):
        """As the torch family, written as Linen users write."""

        @linen.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            for width, kernel, groups in ((8, 3, 1), (8, 3, 8), (16, 1, 1)):
                x = linen.Conv(width, (kernel, kernel), feature_group_count=groups)(x)
                x = linen.relu(linen.BatchNorm(not train, epsilon=1e-3)(x))
                if groups == 8:
                    x = linen.max_pool(x, (2, 2), (2, 2))
            return linen.Dense(5)(x.mean((1, 2)))

    return Network()


def test_a_sequential_network_goes_to_linen() -> None:
    import jax

    last = np.ascontiguousarray(IMAGES.transpose(0, 2, 3, 1))
    module = linen_network()
    variables = jax.tree.map(np.array, module.init(jax.random.key(0), last))
    source = torch_sequential(True, True, "pool")
    done = port(source, (module, variables), IMAGES, settings="target")
    assert done.proof.holds
    wanted = outputs(source, IMAGES)
    np.testing.assert_allclose(module.apply(variables, last), wanted, rtol=1e-3, atol=1e-4)
