"""Safetensors files, and everything that is no checkpoint."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import save_file

from evenkeel import checkpoints
from evenkeel.errors import FileError


def raw_safetensors(path: Path, header: dict[str, object], data: bytes) -> Path:
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def tensor(dtype: str, shape: list[int], begin: int, end: int) -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    "dtype",
    [
        *("float64", "float32", "float16", "bfloat16", "int64", "int32", "int16", "int8"),
        *("uint8", "uint16", "uint32", "uint64", "bool", "complex64"),
    ],
)
def test_every_element_type_comes_back(tmp_path, dtype):
    values = torch.tensor([0.0, 1.0, 3.0, 100.0]).to(getattr(torch, dtype))
    other = torch.ones(2, 3, dtype=torch.float32)  # so that the data do not begin at 0
    save_file({"a": other, "b.c": values.reshape(2, 2)}, tmp_path / "x")
    file = checkpoints.read(tmp_path / "x")
    assert file.kind == "safetensors"
    stored = file.arrays["b.c"]
    assert (stored.shape, stored.dtype) == ((2, 2), dtype)
    wanted = values.reshape(2, 2)
    wanted = wanted.float() if dtype == "bfloat16" else wanted
    np.testing.assert_array_equal(stored.read(), wanted.numpy(), strict=True)
    np.testing.assert_array_equal(file.arrays["a"].read(), other.numpy())


def test_scalars_empty_arrays_and_metadata(tmp_path):
    arrays = {"n": np.array(7), "none": np.zeros((0, 3), np.float32)}
    save_arrays(arrays, tmp_path / "x", metadata={"format": "pt"})
    file = checkpoints.read(tmp_path / "x")
    assert sorted(file.arrays) == ["n", "none"]
    assert file.arrays["n"].read() == 7
    assert file.arrays["n"].shape == ()
    assert file.arrays["none"].read().shape == (0, 3)


def test_float8_is_listed_but_not_read(tmp_path):
    save_file({"w": torch.ones(3).to(torch.float8_e4m3fn)}, tmp_path / "x")
    stored = checkpoints.read(tmp_path / "x").arrays["w"]
    assert (stored.dtype, stored.shape) == ("f8_e4m3", (3,))
    with pytest.raises(FileError, match="element type is not read"):
        stored.read()


def test_values_are_fetched_late_and_a_shrunk_file_is_noticed(tmp_path):
    save_file({"w": torch.ones(100)}, tmp_path / "x")
    stored = checkpoints.read(tmp_path / "x").arrays["w"]
    os.truncate(tmp_path / "x", (tmp_path / "x").stat().st_size - 4)
    with pytest.raises(FileError, match="another process"):
        stored.read()
    (tmp_path / "x").unlink()
    with pytest.raises(FileError, match="another process"):
        stored.read()


@pytest.mark.parametrize("cut", [1, 30, 300])
def test_a_truncated_safetensors_file_is_refused(tmp_path, cut):
    save_file({"w": torch.ones(64)}, tmp_path / "x")
    whole = (tmp_path / "x").read_bytes()
    (tmp_path / "x").write_bytes(whole[:-cut])
    with pytest.raises(FileError, match="cut off"):
        checkpoints.read(tmp_path / "x")


@pytest.mark.parametrize(
    "header",
    [
        {"w": tensor("F32", [10**12], 0, 8)},
        {"w": tensor("F32", [10**12], 0, 4 * 10**12)},
        {"a": tensor("F32", [2], 0, 8), "b": tensor("F32", [2], 0, 8)},
        {"a": tensor("F32", [1], 4, 8)},
        {"a": tensor("F32", [-2], 0, 8)},
        {"a": tensor("F32", [2**63, 2], 0, 8)},
        {"a": tensor("F99", [2], 0, 8)},
        {"a": 3},
    ],
    ids=["small", "beyond", "overlap", "hole", "negative", "overflow", "dtype", "number"],
)
def test_a_header_that_does_not_fit_is_refused(tmp_path, header):
    with pytest.raises(FileError, match="library refuses"):
        checkpoints.read(raw_safetensors(tmp_path / "x", header, bytes(8)))


def test_a_header_length_beyond_the_file_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(struct.pack("<Q", 10**9) + b"{" + bytes(50))
    with pytest.raises(FileError, match="library refuses"):
        checkpoints.read(tmp_path / "x")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", "an empty file"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "HDF5"),
        (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "HTML page"),
        (b"hello world, this is a text", "begins with"),
        (b"\x00", "begins with"),
        (b"\x08", "begins with"),
        (b"\x89HDF\r\n\x1a\n\x09" + bytes(90), "does not begin as HDF5"),
        (b"PK\x03\x04 and nothing else", "cannot be opened"),
        (b"(dp0\nS'a'\n", "bare pickle"),
    ],
)
def test_other_content_is_named_and_refused(tmp_path, content, named):
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(FileError, match=named) as caught:
        checkpoints.read(tmp_path / "model.safetensors")
    for part in ("model.safetensors", "got:", "why:", "do:"):
        assert part in str(caught.value)


@pytest.mark.parametrize("names", [["x"], ["a.npy", "b.txt"], ["model.weights.h5"], []])
def test_other_zip_archives_are_named_and_refused(tmp_path, names):
    with zipfile.ZipFile(tmp_path / "x", "w") as archive:
        for name in names:
            archive.writestr(name, b"content")
    with pytest.raises(FileError, match=r"data\.pkl" if names else "begins with"):
        checkpoints.read(tmp_path / "x")


def test_what_is_no_file_is_refused(tmp_path):
    with pytest.raises(FileError, match="no such file"):
        checkpoints.read(tmp_path / "missing.pt")
    with pytest.raises(FileError, match="a directory"):
        checkpoints.read(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(FileError, match="no regular file"):
        checkpoints.read(tmp_path / "pipe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission_is_refused(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    (tmp_path / "x").chmod(0)
    with pytest.raises(FileError, match="PermissionError"):
        checkpoints.read(tmp_path / "x")


def test_an_error_of_the_system_becomes_a_file_error(tmp_path, monkeypatch):
    (tmp_path / "x").write_bytes(b"abc")

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(Path, "open", fail)
    with pytest.raises(FileError, match="Input/output error"):
        checkpoints.read(tmp_path / "x")


def test_safetensors_need_no_torch(tmp_path):
    save_file({"w": torch.ones(2, dtype=torch.bfloat16)}, tmp_path / "x")
    code = (
        "import sys; sys.modules['torch'] = None\n"
        "from evenkeel import checkpoints\n"
        "print(checkpoints.read(sys.argv[1]).arrays['w'].read().tolist())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("[1.0, 1.0]\n", 0), done.stderr
