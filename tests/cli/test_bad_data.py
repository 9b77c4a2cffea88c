"""Data that a study cannot use ends the command with code 2 and one message, and writes nothing."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from evenkeel.cli import app

X = np.random.default_rng(2).normal(size=(40, 3, 5))
Y = np.arange(40) % 4


def npz(folder: Path, **arrays: np.ndarray) -> str:
    np.savez(folder / "data.npz", **arrays)
    return f"npz:{folder / 'data.npz'}"


def idx(folder: Path, *, labels: np.ndarray = Y, cut: int = 0) -> str:
    for part in ("train", "t10k"):
        for what, array in (("images-idx3", X > 0), ("labels-idx1", labels)):
            header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            whole = header + array.astype(np.uint8).tobytes()
            (folder / f"{part}-{what}-ubyte").write_bytes(whole[: len(whole) - cut])
    return f"idx:{folder}"


def images(folder: Path, classes: int = 2) -> Path:
    for number in range(classes):
        (folder / f"class{number}").mkdir()
        for i in range(4):
            pixels = (X[4 * number + i] > 0).astype(np.uint8) * 255
            Image.fromarray(pixels).save(folder / f"class{number}" / f"{i}.png")
    return folder


def half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def with_nan(folder: Path) -> str:
    x = X.copy()
    x[7, 0, 0] = np.nan
    return npz(folder, x=x, y=Y)


def without_labels(folder: Path) -> str:
    source = idx(folder)
    (folder / "train-labels-idx1-ubyte").unlink()
    return source


def truncated_npz(folder: Path) -> str:
    source = npz(folder, x=X, y=Y)
    half(folder / "data.npz")
    return source


def truncated_image(folder: Path) -> str:
    half(images(folder) / "class1" / "2.png")
    return f"folder:{folder}"


def other_size(folder: Path) -> str:
    Image.new("L", (9, 9)).save(images(folder) / "class1" / "2.png")
    return f"folder:{folder}"


BAD = {
    "npz, wrong shape": (lambda p: npz(p, x=X[:, 0, 0], y=Y), "samples x of shape (40,)"),
    "npz, without labels": (lambda p: npz(p, x=X), "arrays x, but no y"),
    "npz, labels of some": (lambda p: npz(p, x=X, y=Y[:9]), "40 samples and 9 labels"),
    "npz, one class": (lambda p: npz(p, x=X, y=0 * Y), "one class only (0)"),
    "npz, NaN": (with_nan, "the first in sample 7"),
    "npz, truncated": (truncated_npz, "damaged or cut off"),
    "npz, missing": (lambda p: f"npz:{p / 'no.npz'}", "no such file"),
    "idx, wrong shape": (lambda p: idx(p, labels=np.eye(4)[Y]), "labels y of shape (40, 4)"),
    "idx, without labels": (without_labels, "no such file as train-labels-idx*"),
    "idx, labels of some": (lambda p: idx(p, labels=Y[:9]), "40 samples and 9 labels"),
    "idx, one class": (lambda p: idx(p, labels=0 * Y), "one class only (0)"),
    "idx, truncated": (lambda p: idx(p, cut=1), "bytes of values instead of"),
    "idx, missing": (lambda p: f"idx:{p / 'no'}", "no such folder"),
    "folder, wrong shape": (other_size, "class0/0.png of 5 x 3 pixels, class1/2.png of 9 x 9"),
    "folder, without labels": (lambda p: f"folder:{images(p) / 'class0'}", "no sub-folder"),
    "folder, one class": (lambda p: f"folder:{images(p, 1)}", "one class only (class0)"),
    "folder, truncated": (truncated_image, "class1/2.png: "),
    "folder, missing": (lambda p: f"folder:{p / 'no'}", "no such folder"),
    "a folder without a kind": (lambda p: str(images(p)), "write --data folder:"),
    "an unknown kind": (lambda _: "csv:a.csv", "npz:FILE, idx:DIR and folder:DIR"),
}


@pytest.mark.parametrize("name", BAD)
def test_one_message_and_code_2(tmp_path, monkeypatch, name):
    folder = tmp_path / "data"
    folder.mkdir()
    make, message = BAD[name]
    source = make(folder)
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["study", "--data", source, "--out", "results"])
    assert done.exit_code == 2, done.output
    assert message in done.stderr
    assert done.stderr.startswith(f"evenkeel: --data {source}")
    assert [done.stderr.count(f"  {part}:") for part in ("got", "why", "do")] == [1, 1, 1]
    assert "Traceback" not in done.output
    assert done.stdout == ""
    assert not Path("results").exists()


@pytest.mark.parametrize("make", [lambda p: npz(p, x=X, y=Y), idx, lambda p: f"folder:{images(p)}"])
def test_the_same_data_without_the_fault_is_read(tmp_path, make):
    from evenkeel.study import load_dataset

    assert load_dataset(make(tmp_path)).info.train > 0
