"""``.keras`` archives: what Keras writes, and what it loads back."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evenkeel import checkpoints
from evenkeel.errors import FileError

from .test_hdf5_files import GOLDENS, with_values

NORM = "layers/batch_normalization/vars"


def repacked(target: Path, **changes: bytes | None) -> Path:
    """The golden with entries replaced, removed (None) or added."""
    with zipfile.ZipFile(GOLDENS / "keras3.keras") as source:
        contents = {name: source.read(name) for name in source.namelist()}
    contents |= {name.replace("__", "."): data for name, data in changes.items()}
    with zipfile.ZipFile(target, "w") as archive:
        for name, data in contents.items():
            if data is not None:
                archive.writestr(name, data)
    return target


def test_arrays_and_configuration():
    file = checkpoints.read(GOLDENS / "keras3.keras")
    assert (file.kind, file.left) == ("keras", ())
    assert [name for name in file.arrays if name.startswith(NORM)] == [
        f"{NORM}/{i}" for i in range(4)
    ]
    layers = [layer["config"] for layer in file.config["model"]["config"]["layers"]]
    norm = next(layer for layer in layers if layer["name"] == "norm")
    assert (norm["epsilon"], norm["momentum"]) == (2e-3, 0.9)
    assert file.config["attributes"][NORM] == {"name": "norm"}
    assert file.config["metadata"]["keras_version"] == "3.15.1"
    twin = checkpoints.read(GOLDENS / "keras3.weights.h5")
    assert {*file.arrays} == {*twin.arrays}
    for name, array in file.arrays.items():
        np.testing.assert_array_equal(array.read(), twin.arrays[name].read(), strict=True)


def test_optimizers_and_assets_are_left(tmp_path):
    assert checkpoints.read(GOLDENS / "compiled.keras").left == ("optimizer",)
    path = repacked(tmp_path / "x.keras", **{"assets/words__txt": b"a\nb"})
    assert checkpoints.read(path).left == ("assets/words.txt",)


@pytest.mark.parametrize("byte", [40, 9000, 15000, -900])
def test_a_wrong_byte_anywhere_is_refused(tmp_path, byte):
    data = bytearray((GOLDENS / "keras3.keras").read_bytes())
    data[byte] ^= 1
    (tmp_path / "x.keras").write_bytes(data)
    with pytest.raises(FileError, match="cannot be opened"):
        checkpoints.read(tmp_path / "x.keras")


def test_what_is_not_whole_is_refused(tmp_path):
    with pytest.raises(FileError, match=r"config\.json that is no JSON"):
        checkpoints.read(repacked(tmp_path / "a", config__json=b"{"))
    with pytest.raises(FileError, match="does not begin as HDF5"):
        checkpoints.read(repacked(tmp_path / "b", **{"model.weights.h5": b"nothing"}))
    with pytest.raises(FileError, match=r"without data\.pkl"):
        checkpoints.read(repacked(tmp_path / "c", config__json=None))
    with zipfile.ZipFile(tmp_path / "d", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("config.json", b"{}")
        archive.writestr("model.weights.h5", bytes(10_000))
    with pytest.raises(FileError, match=r"packed model\.weights\.h5"):
        checkpoints.read(tmp_path / "d")


def test_writing_keeps_everything_but_the_values(tmp_path):
    like = checkpoints.read(repacked(tmp_path / "like.keras", **{"assets/words__txt": b"a\nb"}))
    arrays = with_values(like, 3)
    checkpoints.write(tmp_path / "new.keras", arrays, like=like)
    found = checkpoints.read(tmp_path / "new.keras")
    assert (found.config, found.left) == (like.config, like.left)
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array.read(), arrays[name].read(), strict=True)
    checkpoints.write(tmp_path / "back.keras", like.arrays, like=found)
    with zipfile.ZipFile(tmp_path / "back.keras") as back, zipfile.ZipFile(like.path) as first:
        assert back.namelist() == first.namelist()
        assert all(back.read(name) == first.read(name) for name in first.namelist())


def test_the_weights_alone_come_from_an_archive(tmp_path):
    from evenkeel.checkpoints import _hdf5

    like = checkpoints.read(GOLDENS / "keras3.keras")
    _hdf5.write(tmp_path / "new.weights.h5", with_values(like, 3), like=like)
    assert {*checkpoints.read(tmp_path / "new.weights.h5").arrays} == {*like.arrays}


def test_a_pattern_of_another_kind_is_refused(tmp_path):
    like = checkpoints.read(GOLDENS / "keras3.weights.h5")
    with pytest.raises(FileError, match="of kind hdf5"):
        checkpoints.write(tmp_path / "new.keras", like.arrays, like=like)


TRAIN = """
import sys, numpy as np, keras
model = keras.models.load_model(sys.argv[1])
if sys.argv[3] == "train":
    model.compile("adam", "mse")
    model.fit(np.ones((4, 6, 6, 2)), np.ones((4, 4, 4, 2)), verbose=0)
    model.save(sys.argv[2])
else:
    np.savez(sys.argv[2], *[np.asarray(w, np.float32) for w in model.get_weights()])
"""


def keras(source: Path, target: Path, what: str) -> None:
    subprocess.run(
        [sys.executable, "-c", TRAIN, str(source), str(target), what],
        check=True,
        capture_output=True,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )


@pytest.mark.slow
@pytest.mark.parametrize("golden", ["keras3.keras", "keras2.h5", "compiled.keras"])
def test_keras_loads_what_was_written(tmp_path, golden):
    like = checkpoints.read(GOLDENS / golden)
    arrays = with_values(like, 3)
    target = tmp_path / f"new{Path(golden).suffix}"
    checkpoints.write(target, arrays, like=like)
    keras(target, tmp_path / "weights.npz", "read")
    # get_weights() gives kernel, gamma, beta, mean, variance, kernel, bias.
    with np.load(tmp_path / "weights.npz") as found:
        loaded = sorted(found[name].tobytes() for name in found.files)
    assert loaded == sorted(array.read().tobytes() for array in arrays.values())


@pytest.mark.slow
def test_a_pattern_with_averages_of_other_weights_is_refused(tmp_path):
    keras(GOLDENS / "keras3.keras", tmp_path / "trained.keras", "train")
    like = checkpoints.read(tmp_path / "trained.keras")
    with pytest.raises(FileError, match="optimizer has taken steps"):
        checkpoints.write(tmp_path / "new.keras", like.arrays, like=like)
