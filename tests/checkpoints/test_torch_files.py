"""Files written by torch.save: what is read, and that nothing in them runs."""

from __future__ import annotations

import os
import pickle
import zipfile
from collections import OrderedDict
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch import nn

from evenkeel import checkpoints
from evenkeel.errors import FileError

if TYPE_CHECKING:
    from pathlib import Path


def network() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2))
    model(torch.randn(8, 4))
    return model


def rewritten(
    source: Path, target: Path, pack: int = zipfile.ZIP_STORED, **replaced: bytes
) -> Path:
    """The archive with some entries replaced, by the last part of their names (dots as _)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", pack) as new:
        for entry in old.infolist():
            key = entry.filename.partition("/")[2].replace(".", "_").replace("/", "_")
            new.writestr(entry.filename, replaced.get(key, old.read(entry)))
    return target


def test_a_state_dict_comes_back_bit_for_bit(tmp_path):
    state = network().state_dict()
    torch.save(state, tmp_path / "weights.pt")
    file = checkpoints.read(tmp_path / "weights.pt")
    assert (file.kind, file.parts, file.left) == ("torch", (), ())
    assert list(file.arrays) == list(state)
    for name, tensor in state.items():
        stored = file.arrays[name]
        assert (stored.shape, stored.dtype) == (tuple(tensor.shape), str(tensor.dtype)[6:])
        np.testing.assert_array_equal(stored.read(), tensor.numpy(), strict=True)


def test_the_content_decides_and_not_the_extension(tmp_path):
    torch.save({"weight": torch.ones(2)}, tmp_path / "a.safetensors")
    assert checkpoints.read(str(tmp_path / "a.safetensors")).kind == "torch"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_float_types_keep_name_and_values(tmp_path, dtype):
    values = torch.tensor([1.0, -3.140625, 2.0**-14, 0.0, -0.0]).to(dtype)
    torch.save({"a": values, "view": values[1:4:2]}, tmp_path / "a.pt")
    arrays = checkpoints.read(tmp_path / "a.pt").arrays
    assert arrays["a"].dtype == str(dtype)[6:]
    read = arrays["a"].read()
    np.testing.assert_array_equal(read.astype(np.float64), values.double().numpy())
    assert np.signbit(read).tolist() == [False, True, False, False, True]
    np.testing.assert_array_equal(arrays["view"].read().astype(float), values[1:4:2].double())


def test_parameters_complex_and_conjugate_views_are_read(tmp_path):
    number = torch.tensor([1 + 2j])
    torch.save({"p": nn.Parameter(torch.ones(2)), "c": number.conj()}, tmp_path / "a.pt")
    arrays = checkpoints.read(tmp_path / "a.pt").arrays
    assert arrays["p"].read().tolist() == [1.0, 1.0]
    assert arrays["c"].read().tolist() == [1 - 2j]


def test_the_state_dict_of_a_training_checkpoint_is_found(tmp_path):
    model = network()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.randn(8, 4)).sum().backward()
    optimizer.step()
    saved = {
        "epoch": 3,
        "best": torch.tensor(0.5),
        "rng": torch.get_rng_state(),
        "state_dict": model.state_dict(),
        "optimizer": optimizer.state_dict(),
    }
    torch.save(saved, tmp_path / "a.pt")
    file = checkpoints.read(tmp_path / "a.pt")
    assert list(file.arrays) == list(model.state_dict())
    assert file.parts == ("state_dict",)
    assert file.left == ("epoch", "best", "rng", "optimizer")


def test_several_state_dicts_keep_their_names_apart(tmp_path):
    saved = {"model": {"w": torch.ones(2)}, "ema": {"inner": OrderedDict(w=torch.zeros(2))}}
    torch.save(saved, tmp_path / "a.pt")
    file = checkpoints.read(tmp_path / "a.pt")
    assert {name: a.read().tolist() for name, a in file.arrays.items()} == {
        "model/w": [1.0, 1.0],
        "ema/inner/w": [0.0, 0.0],
    }
    assert file.parts == ("model", "ema/inner")


def test_names_that_would_hide_each_other_are_refused(tmp_path):
    torch.save({"m/w": torch.ones(2), "m": {"w": torch.zeros(2)}}, tmp_path / "a.pt")
    with pytest.raises(FileError, match="two tensors that are both called m/w"):
        checkpoints.read(tmp_path / "a.pt")


def test_shared_dicts_are_walked_once(tmp_path):
    nested: dict[str, object] = {"w": torch.ones(1)}
    for _ in range(40):
        nested = {"a": nested, "b": nested}
    torch.save({"w": torch.ones(1), "more": nested}, tmp_path / "a.pt")
    assert list(checkpoints.read(tmp_path / "a.pt").arrays) == ["w"]


@pytest.mark.parametrize(
    "content", [torch.ones(3), [1, 2], {"epoch": 3}, {}, {"loss": torch.ones(())}]
)
def test_a_file_without_a_state_dict_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "a.pt")
    with pytest.raises(FileError, match="without a state dict"):
        checkpoints.read(tmp_path / "a.pt")


class Bomb:
    """Runs a shell command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.parametrize("legacy", [False, True])
def test_a_pickle_bomb_does_not_go_off(tmp_path, legacy):
    proof = tmp_path / "ran"
    bomb = tmp_path / "bomb.pt"
    saved = {"w": torch.ones(2), "x": Bomb(f"touch {proof}")}
    torch.save(saved, bomb, _use_new_zipfile_serialization=not legacy)
    with pytest.raises(FileError, match=r"any\s+code") as caught:
        checkpoints.read(bomb)
    assert not proof.exists()
    assert "weights_only=False" in str(caught.value)
    torch.load(bomb, weights_only=False)  # the bomb is a live one
    assert proof.exists()


def test_other_pickles_are_refused_unread(tmp_path):
    proof = tmp_path / "ran"
    for protocol in range(2, 6):
        data = pickle.dumps({"w": Bomb(f"touch {proof}")}, protocol=protocol)
        (tmp_path / "a.pkl").write_bytes(data)
        with pytest.raises(FileError, match="bare pickle"):
            checkpoints.read(tmp_path / "a.pkl")
    assert not proof.exists()


def test_a_whole_model_is_refused_with_the_way_out(tmp_path):
    torch.save(network(), tmp_path / "model.pt")
    with pytest.raises(FileError, match=r"nn\.modules\.container\.Sequential") as caught:
        checkpoints.read(tmp_path / "model.pt")
    assert "torch.save(model.state_dict()" in str(caught.value)
    assert "\x1b" not in str(caught.value)


@pytest.mark.parametrize("keep", [0.1, 0.5, 0.9, 0.999])
def test_a_file_that_is_cut_off_is_refused(tmp_path, keep):
    torch.save(network().state_dict(), tmp_path / "a.pt")
    whole = (tmp_path / "a.pt").read_bytes()
    (tmp_path / "a.pt").write_bytes(whole[: int(len(whole) * keep)])
    with pytest.raises(FileError, match="cut off"):
        checkpoints.read(tmp_path / "a.pt")


def test_flipped_bits_in_the_data_are_refused(tmp_path):
    torch.save({"w": torch.full((50,), 7.0)}, tmp_path / "a.pt")
    whole = bytearray((tmp_path / "a.pt").read_bytes())
    place = whole.find(np.full(50, 7.0, np.float32).tobytes())
    whole[place + 3] ^= 0x40
    (tmp_path / "a.pt").write_bytes(whole)
    with pytest.raises(FileError, match="damaged"):
        checkpoints.read(tmp_path / "a.pt")


def test_a_file_saved_without_checksums_is_read(tmp_path):
    torch.serialization.set_crc32_options(False)
    try:
        torch.save({"w": torch.ones(3)}, tmp_path / "a.pt")
    finally:
        torch.serialization.set_crc32_options(True)
    assert checkpoints.read(tmp_path / "a.pt").arrays["w"].read().tolist() == [1.0] * 3


def test_a_compressed_archive_is_refused(tmp_path):
    torch.save({"w": torch.zeros(100_000)}, tmp_path / "a.pt")
    bomb = rewritten(tmp_path / "a.pt", tmp_path / "b.pt", zipfile.ZIP_DEFLATED)
    assert bomb.stat().st_size < 10_000
    with pytest.raises(FileError, match="bomb"):
        checkpoints.read(bomb)


def test_overlapping_entries_are_refused(tmp_path):
    torch.save({"w": torch.zeros(1000)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt", "a") as archive:
        big = next(e for e in archive.infolist() if e.filename.endswith("data/0"))
        archive.filelist.extend([big] * 3)  # the table of contents lists its bytes four times
        archive.writestr("a/more", b"")
    with pytest.raises(FileError, match="overlap"):
        checkpoints.read(tmp_path / "a.pt")


def test_a_pickle_that_lies_about_sizes_is_refused(tmp_path):
    torch.save({"w": torch.randn(4)}, tmp_path / "a.pt")
    with zipfile.ZipFile(tmp_path / "a.pt") as archive:
        honest = archive.read("a/data.pkl")
    for one, other in [
        (b"K\x04tq", b"J\x00\x00\x00\x10tq"),
        (b"K\x04\x85", b"J\x00\x00\x00\x10\x85"),
    ]:
        assert one in honest
        lie = honest.replace(one, other, 1)
        file = rewritten(tmp_path / "a.pt", tmp_path / "lie.pt", data_pkl=lie)
        with pytest.raises(FileError, match="does not fit together"):
            checkpoints.read(file)


def test_a_garbled_pickle_is_refused(tmp_path):
    torch.save({"w": torch.ones(2)}, tmp_path / "a.pt")
    for garbage in [b"", b"\x80\x02.", b"\x80\x02}q\x00", b"hello", b"\x80\x02]q\x00(."]:
        with pytest.raises(FileError):
            checkpoints.read(rewritten(tmp_path / "a.pt", tmp_path / "b.pt", data_pkl=garbage))


def test_an_expanded_tensor_cannot_fill_the_memory(tmp_path):
    torch.save({"w": torch.ones(1).expand(10**12), "v": torch.ones(1).expand(5)}, tmp_path / "a.pt")
    arrays = checkpoints.read(tmp_path / "a.pt").arrays
    assert arrays["w"].shape == (10**12,)
    with pytest.raises(FileError, match="more bytes than the whole file"):
        arrays["w"].read()
    assert arrays["v"].read().tolist() == [1.0] * 5


@pytest.mark.parametrize(
    ("tensor", "why"),
    [
        (torch.ones(3, device="meta"), "meta device"),
        (torch.eye(3).to_sparse(), "no plain array"),
        (torch.ones(3).to(torch.float8_e4m3fn), "no counterpart"),
    ],
)
def test_what_is_no_plain_array_is_listed_but_not_read(tmp_path, tensor, why):
    torch.save({"odd": tensor, "w": torch.ones(2)}, tmp_path / "a.pt")
    arrays = checkpoints.read(tmp_path / "a.pt").arrays
    assert arrays["odd"].shape == tuple(tensor.shape)
    with pytest.raises(FileError, match=why):
        arrays["odd"].read()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_torchscript_archive_is_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "a.pt")
    with pytest.raises(FileError, match="TorchScript"):
        checkpoints.read(tmp_path / "a.pt")
