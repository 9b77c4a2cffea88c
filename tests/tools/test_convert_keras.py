"""``convert`` to and from files of Keras, run by Keras and by torch: the same outputs."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from evenkeel.checkpoints import read
from evenkeel.errors import UnsayableError
from evenkeel.tools import compare_files, convert, inspect

MAKE = """
import sys, keras, numpy as np
from keras import layers as L

def build(**norm):
    return keras.Sequential([keras.Input((8, 8, 3)), L.Conv2D(4, 3), L.BatchNormalization(**norm),
                             L.ReLU(), L.Flatten(), L.Dense(2)])

def fill(model):
    rng = np.random.default_rng(0)
    model.set_weights([rng.uniform(0.5, 1.5, w.shape) / max(w.shape) for w in model.get_weights()])
    return model

x = np.random.default_rng(1).standard_normal((4, 8, 8, 3)).astype("float32")
np.save("x.npy", x)
build(epsilon=1e-5, momentum=0.9).save("like.keras")
build(epsilon=1e-5, momentum=0.9).save_weights("like.weights.h5")
model = fill(build(epsilon=2e-3, momentum=0.97))
model.save("model.keras")
np.save("y.npy", model(x))

i = keras.Input((8, 8, 3))
y = L.Rescaling(0.5, offset=-1)(i)
y = L.BatchNormalization(scale=False)(L.Conv2D(4, 3, use_bias=False)(y))
y = keras.Sequential([L.SeparableConv2D(6, 3), L.BatchNormalization()], name="inner")(y)
y = L.Dropout(0.3)(L.DepthwiseConv2D(2, depth_multiplier=2)(y))
y = L.PReLU(shared_axes=[1, 2])(L.LayerNormalization()(L.Conv2DTranspose(5, 3, strides=2)(y)))
y = L.Reshape((5, 1))(L.GlobalAveragePooling2D()(y))
y = L.GRU(4)(L.RepeatVector(2)(L.Bidirectional(L.LSTM(3))(y)))
fill(keras.Model(i, L.Dense(3)(y))).save("large.keras")
"""
RUN = """
import sys, keras, numpy as np
print(np.asarray(keras.models.load_model(sys.argv[1])(np.load("x.npy"))).tolist())
"""

pytestmark = pytest.mark.slow


def run_keras(folder, code: str, *args: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code, *args],
        cwd=folder,
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models that Keras wrote."""
    place = tmp_path_factory.mktemp("keras")
    run_keras(place, MAKE)
    return place


def network(eps: float = 1e-5) -> nn.Sequential:
    torch.manual_seed(0)
    norm = nn.BatchNorm2d(4, eps=eps)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), norm, nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))
    nn.init.uniform_(norm.weight, 0.5, 1.5)
    model(torch.randn(16, 3, 8, 8))
    return model.eval()


def outputs(model: nn.Module, folder) -> np.ndarray:
    x = np.load(folder / "x.npy").transpose(0, 3, 1, 2)
    with torch.no_grad():
        return model.double()(torch.from_numpy(x).double()).numpy()


def close(one, two) -> bool:
    """Whether two float32 networks of three layers agree: 1e-5 is 84 units in the last place."""
    return bool(np.abs(np.asarray(one) - two).max() <= 1e-5 * np.abs(two).max())


def test_keras_to_torch(folder):
    torch.save(network().state_dict(), folder / "names.pt")
    report = convert(folder / "model.keras", folder / "k.pt", like=folder / "names.pt")
    assert report.settings[0].values == {"eps": 2e-3, "momentum": 0.03, "variance": "biased"}
    model = network(eps=2e-3)
    model.load_state_dict(torch.load(folder / "k.pt"))
    assert close(np.load(folder / "y.npy"), outputs(model, folder))
    wrong = network()  # the settings are needed
    wrong.load_state_dict(torch.load(folder / "k.pt"))
    assert not close(np.load(folder / "y.npy"), outputs(wrong, folder))


def test_torch_to_keras(folder):
    torch.save(network().state_dict(), folder / "a.pt")
    report = convert(folder / "a.pt", folder / "t.keras", like=folder / "like.keras")
    assert "those of" in report.remarks[0]
    got = json.loads(run_keras(folder, RUN, "t.keras"))
    assert close(got, outputs(network(), folder))
    assert compare_files(folder / "a.pt", folder / "t.keras").equal


def test_settings_that_differ_from_like_are_refused(folder):
    with pytest.raises(UnsayableError, match=r"eps=0\.002"):
        convert(folder / "model.keras", folder / "m.keras", like=folder / "like.keras")
    assert not (folder / "m.keras").exists()


def test_weights_alone_need_the_sizes_of_the_picture(folder):
    torch.save(network().state_dict(), folder / "a.pt")
    convert(
        folder / "a.pt",
        folder / "t.weights.h5",
        like=folder / "like.weights.h5",
        kinds={"4": "dense:6x6x4"},
    )
    assert compare_files(
        folder / "a.pt", folder / "t.weights.h5", kinds={"dense*": "dense:6x6x4"}
    ).equal


def test_there_and_back_is_the_identity_for_many_layers(folder):
    there = convert(folder / "large.keras", folder / "large.safetensors")
    assert [item.name for item in there.left_out] == ["rescaling"]
    assert "x * 0.5 + -1" in there.left_out[0].why
    assert [setting.code for setting in there.settings] == ["torch.nn.LayerNorm(eps=0.001)"]
    assert len(inspect(folder / "large.safetensors").rows) == 2
    assert all(row.eps == 1e-3 for row in inspect(folder / "large.safetensors").rows)
    convert(folder / "large.safetensors", folder / "back.keras", like=folder / "large.keras")
    first, second = (read(folder / name).arrays for name in ("large.keras", "back.keras"))
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name].read(), second[name].read()) for name in first)
    assert load_file(folder / "large.safetensors")["inner.separable_conv2d.pointwise.weight"].any()
