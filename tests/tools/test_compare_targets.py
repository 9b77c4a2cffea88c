"""What ``compare`` takes beside a live module: paths of files, and Linen with its variables."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

import evenkeel as ek
from evenkeel.errors import InputError

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    # torch's TorchScript exporter, the only one that keeps batch norm after a convolution.
    pytest.mark.filterwarnings("ignore:You are using the legacy TorchScript:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:The feature will be removed:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.isinstance.treespec, LeafSpec:FutureWarning"),
    # TensorFlow's variables, when Keras saves them under NumPy 2.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
]
IMAGES = np.random.default_rng(0).standard_normal((8, 3, 6, 6)).astype(np.float32)
PICTURES = np.moveaxis(IMAGES, 1, -1).copy()


def make_torch(variance: str = "unbiased") -> nn.Module:
    """A convolution with a bias, batch norm with random statistics, and a dense layer."""
    torch.manual_seed(0)
    norm = ek.nn.BatchNorm2d(4, variance=variance)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(64, 2))
    for tensor in (norm.weight, norm.running_var):
        nn.init.uniform_(tensor, 0.5, 1.5)
    nn.init.uniform_(norm.running_mean, -0.5, 0.5)
    return model.eval()


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    """The same network as torch exports it, batch norm kept."""
    path = tmp_path / "network.onnx"
    torch.onnx.export(
        make_torch(),
        (torch.tensor(IMAGES),),
        str(path),
        dynamo=False,
        training=torch.onnx.TrainingMode.PRESERVE,
        do_constant_folding=False,
    )
    return path


def test_an_onnx_file_is_the_network_that_was_exported(exported: Path) -> None:
    for pair in ((make_torch(), exported), (exported, make_torch())):
        result = ek.compare(*pair, IMAGES)
        assert result.equal, str(result)
        assert sum(row.item == "output" for row in result.rows) == 4


def test_an_onnx_file_with_another_eps_differs(exported: Path) -> None:
    other = make_torch()
    other[1].eps = 1e-2
    result = ek.compare(other, str(exported), IMAGES)
    assert [cause.code for cause in result.causes] == ["eps"]


def test_an_onnx_file_does_not_train(exported: Path) -> None:
    with pytest.raises(InputError, match="train"):
        ek.compare(make_torch(), exported, IMAGES, steps=1)


@pytest.mark.slow  # imports Keras
def test_a_keras_file_is_the_network_that_was_saved(tmp_path: Path) -> None:
    import keras

    layers = keras.layers
    norm = layers.BatchNormalization(epsilon=1e-5, momentum=0.9)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            *(layers.Conv2D(4, 3, use_bias=False), norm, layers.ReLU()),
            *(layers.Flatten(), layers.Dense(2)),
        ]
    )
    source = make_torch("biased")
    ek.port(source, model, IMAGES)
    path = tmp_path / "network.keras"
    model.save(path)
    for result in (
        ek.compare(source, path, IMAGES, steps=2),
        ek.compare(path, source, PICTURES, steps=2, optimizer="sgd"),
    ):
        assert result.equal, str(result)
    different = ek.compare(make_torch(), path, IMAGES, steps=1, optimizer="sgd")
    assert [cause.code for cause in different.causes] == ["variance convention"]


@pytest.mark.slow  # imports Flax and compiles
def test_a_linen_module_comes_with_its_variables() -> None:
    import jax
    from flax import linen

    class Network(linen.Module):
        @linen.compact
        def __call__(self, x, train: bool = False):
            x = linen.Conv(4, (3, 3), padding="VALID", use_bias=False)(x)
            norm = linen.BatchNorm(
                use_running_average=not train, momentum=0.9, use_fast_variance=False
            )
            x = linen.relu(norm(x))
            return linen.Dense(2)(x.reshape(len(x), -1))

    module = Network()
    variables = jax.device_get(module.init(jax.random.key(0), PICTURES))
    source = make_torch("biased")
    pair = (module, copy.deepcopy(variables))
    ek.port(source, pair, IMAGES)
    result = ek.compare(source, pair, IMAGES, steps=2)
    assert result.equal, str(result)
    assert result.target == "flax (linen)"
    back = ek.compare(pair, source, PICTURES, steps=2, optimizer="sgd")
    assert back.equal, str(back)
    different = ek.compare((module, variables), source, PICTURES)
    assert not different.equal
    assert {cause.code for cause in different.causes} == {"values"}
