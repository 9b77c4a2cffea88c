"""Networks of several frameworks, each Keras backend in a process of its own."""

import numpy as np
import pytest
import torch
from torch import nn

import evenkeel as ek
from evenkeel.dialects._open import open_network
from evenkeel.dialects._remote import open_remote
from evenkeel.tools._compare import compare
from evenkeel.tools._compare._sides import read_state
from evenkeel.tools._matching import match

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning"),
]

MODULE = """
def keras_network(momentum=0.9, epsilon=1e-5):
    import keras
    L = keras.layers
    def norm():
        return L.BatchNormalization(momentum=momentum, epsilon=epsilon)
    return keras.Sequential([
        keras.Input((8, 8, 3)), L.ZeroPadding2D(1), L.Conv2D(6, 3, strides=2), norm(), L.ReLU(),
        L.Conv2D(8, 3, padding="same"), norm(), L.ReLU(), L.Flatten(), L.Dense(5),
    ])

def naive():
    return keras_network(0.1, 1e-3)

def same():
    import keras
    model = keras_network()
    return keras.Sequential([
        keras.Input((8, 8, 3)), keras.layers.Conv2D(6, 3, strides=2, padding="same"),
        *model.layers[2:],
    ])

def flax_network():
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(3, 6, (3, 3), 2, padding=((1, 1), (1, 1)), rngs=rngs)
            self.norm = nnx.BatchNorm(6, momentum=0.9, use_fast_variance=False, rngs=rngs)
            self.second = nnx.Conv(6, 8, (3, 3), rngs=rngs)
            self.norm2 = nnx.BatchNorm(8, momentum=0.9, use_fast_variance=False, rngs=rngs)
            self.dense = nnx.Linear(128, 5, rngs=rngs)

        def __call__(self, x):
            x = nnx.relu(self.norm(self.conv(x)))
            x = nnx.relu(self.norm2(self.second(x)))
            return self.dense(x.reshape(len(x), -1))

    return Network()
"""
IMAGES = np.random.default_rng(0).standard_normal((16, 3, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module", autouse=True)
def _importable(tmp_path_factory):
    path = tmp_path_factory.mktemp("models")
    (path / "models_of_compare_test.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(path)
        yield


@pytest.fixture(scope="module")
def source():
    """Of evenkeel's layers, which store the biased variance as Keras and Flax do."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 6, 3, stride=2, padding=1),
        ek.nn.BatchNorm2d(6, variance="biased"),
        nn.ReLU(),
        nn.Conv2d(6, 8, 3, padding=1),
        ek.nn.BatchNorm2d(8, variance="biased"),
        nn.ReLU(),
        nn.Flatten(),
        nn.Linear(128, 5),
    )
    for norm in (model[1], model[4]):
        for tensor in (norm.weight, norm.running_var):
            nn.init.uniform_(tensor, 0.5, 1.5)
        for tensor in (norm.bias, norm.running_mean):
            nn.init.uniform_(tensor, -0.5, 0.5)
    return open_network(model)


def opened(source, name, backend):
    """The remote network with the source's values."""
    remote = open_remote(f"models_of_compare_test:{name}", backend)
    matching = match(source, remote, source.canonical_inputs(IMAGES))
    remote.write(matching.to_target(read_state(source)))
    return remote


@pytest.mark.parametrize("backend", ["tensorflow", "jax", "torch"])
def test_keras_trains_as_torch_does(source, backend):
    remote = opened(source, "keras_network", backend)
    try:
        result = compare(source, remote, IMAGES, steps=3)
    finally:
        remote.close()
    assert result.equal, str(result)
    assert result.target == f"keras ({backend})"
    assert {row.stage for row in result.rows} == {"inference", "step by step", "free run"}


def test_flax_trains_as_torch_does(source):
    remote = opened(source, "flax_network", None)
    try:
        result = compare(source, remote, IMAGES, steps=3)
    finally:
        remote.close()
    assert result.equal, str(result)
    assert result.target == "flax (nnx)"


@pytest.mark.parametrize(
    ("name", "codes"), [("naive", ["eps", "momentum sense"]), ("same", ["padding"])]
)
def test_a_naive_port_to_keras_fails_with_its_causes(source, name, codes):
    remote = opened(source, name, "tensorflow")
    try:
        result = compare(source, remote, IMAGES, steps=2, optimizer="sgd")
    finally:
        remote.close()
    assert not result.equal
    assert [cause.code for cause in result.causes] == codes


def test_two_backends_of_keras_side_by_side(source):
    one, two = (opened(source, "keras_network", name) for name in ("tensorflow", "torch"))
    try:
        result = compare(one, two, np.moveaxis(IMAGES, 1, -1), steps=2, optimizer="sgd")
    finally:
        one.close()
        two.close()
    assert result.equal, str(result)
    assert (result.source, result.target) == ("keras (tensorflow)", "keras (torch)")
