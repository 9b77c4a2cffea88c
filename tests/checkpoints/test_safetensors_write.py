"""What safetensors' own library makes of the files that are written here."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from evenkeel import checkpoints
from evenkeel.checkpoints import StoredArray, write
from evenkeel.errors import FileError


def stored(array) -> StoredArray:
    return StoredArray(array.shape, array.dtype.name, lambda: array)


def test_the_library_reads_what_is_written_and_writes_the_same(tmp_path):
    tensors = {
        "b.weight": torch.randn(3, 2),
        "a.half": torch.randn(5).half(),
        "a.bfloat16": torch.randn(7).bfloat16(),
        "batches": torch.tensor(7),
        "mask": torch.tensor([True, False, True]),
        "wide": torch.randn(3, dtype=torch.float64),
    }
    save_file(tensors, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    theirs = checkpoints.read(tmp_path / "theirs.safetensors")
    write(tmp_path / "ours.safetensors", theirs.arrays, metadata=theirs.config["metadata"])
    for name, tensor in load_file(tmp_path / "ours.safetensors").items():
        assert tensor.dtype == tensors[name].dtype
        assert torch.equal(tensor, tensors.pop(name))
    assert not tensors
    sizes = [(tmp_path / f"{who}.safetensors").stat().st_size for who in ("ours", "theirs")]
    assert sizes[0] == sizes[1]


def test_metadata_come_back(tmp_path):
    metadata = {"format": "pt", "text": 'é "quoted"\n', "": ""}
    write(tmp_path / "a.safetensors", {"w": stored(np.ones(2))}, metadata=metadata)
    assert checkpoints.read(tmp_path / "a.safetensors").config == {"metadata": metadata}
    with safe_open(tmp_path / "a.safetensors", framework="numpy") as file:
        assert file.metadata() == metadata
    write(tmp_path / "b.safetensors", {"w": stored(np.ones(2))})
    assert checkpoints.read(tmp_path / "b.safetensors").config == {"metadata": {}}


def test_metadata_that_are_no_strings_and_the_name_of_the_format_are_refused(tmp_path):
    with pytest.raises(FileError, match="'step' of type int"):
        write(tmp_path / "a.safetensors", {"w": stored(np.ones(2))}, metadata={"step": 3})
    with pytest.raises(FileError, match="called __metadata__"):
        write(tmp_path / "a.safetensors", {"__metadata__": stored(np.ones(2))})
    assert not [*tmp_path.iterdir()]


def test_no_array_at_all(tmp_path):
    write(tmp_path / "a.safetensors", {})
    assert not checkpoints.read(tmp_path / "a.safetensors").arrays


def test_torch_loads_what_is_written_with_names_order_and_counter(tmp_path):
    layer = torch.nn.BatchNorm1d(4)
    layer(torch.randn(8, 4))
    state = layer.state_dict()
    arrays = {f"bn.{name}": stored(tensor.numpy()) for name, tensor in state.items()}
    write(tmp_path / "a.pt", arrays)
    loaded = torch.load(tmp_path / "a.pt", weights_only=True)
    assert [*loaded] == [f"bn.{name}" for name in state]
    counter = loaded["bn.num_batches_tracked"]
    assert (counter.dtype, counter.shape, int(counter)) == (torch.int64, (), 1)
    fresh = torch.nn.Sequential()
    fresh.add_module("bn", torch.nn.BatchNorm1d(4))
    fresh.load_state_dict(loaded)
    assert torch.equal(fresh.bn.running_var, layer.running_var)
