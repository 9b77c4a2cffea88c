"""Flax's msgpack files: real ones, and every way in which one can lie."""

from __future__ import annotations

import re
import struct

import msgpack
import numpy as np
import pytest

from evenkeel import checkpoints
from evenkeel.checkpoints import StoredArray, _msgpack, write
from evenkeel.errors import FileError


def ext(array, code=1, **lies) -> msgpack.ExtType:
    """An array as ``flax.serialization`` packs it."""
    told = {"shape": array.shape, "dtype": array.dtype.name, "data": array.tobytes(), **lies}
    return msgpack.ExtType(code, msgpack.packb(tuple(told.values()), use_bin_type=True))


def saved(path, tree, extra=b""):
    path.write_bytes(msgpack.packb(tree, strict_types=True) + extra)
    return path


ONES = np.ones((2, 3), np.float32)


def test_names_values_and_everything_else(tmp_path):
    tree = {
        "params": {"Conv_0": {"kernel": ext(ONES)}, "layers": {0: {"bias": ext(ONES[0])}}},
        "batch_stats": {"BatchNorm_0": {"mean": ext(np.float16([1, 2]))}},
        "list": [ext(ONES[:1]), 5],
        "scalar": ext(np.asarray(np.float32(2.5)), code=3),
        "step": 3,
        "note": None,
        "complex": msgpack.ExtType(2, msgpack.packb((1.0, 2.0))),
        "raw": b"bytes",
        "opt_state": {"0": {"mu": {"kernel": ext(ONES)}, "count": 4}},
    }
    file = checkpoints.read(saved(tmp_path / "a.msgpack", tree))
    assert file.kind == "msgpack"
    assert {name: array.shape for name, array in file.arrays.items()} == {
        "params/Conv_0/kernel": (2, 3),
        "params/layers/0/bias": (3,),
        "batch_stats/BatchNorm_0/mean": (2,),
        "list/0": (1, 3),
        "scalar": (),
    }
    assert file.config == {"values": {"list/1": 5, "step": 3, "note": None}}
    assert file.left == ("opt_state", "complex", "raw")
    assert file.arrays["scalar"].read() == 2.5
    assert file.arrays["batch_stats/BatchNorm_0/mean"].read().dtype == np.float16


def test_float8_is_listed_but_not_read(tmp_path):
    lie = ext(np.zeros(3, np.uint8), dtype="float8_e4m3fn")
    array = checkpoints.read(saved(tmp_path / "a", {"w": lie})).arrays["w"]
    assert (array.shape, array.dtype) == ((3,), "float8_e4m3fn")
    with pytest.raises(FileError, match="w with elements of type float8"):
        array.read()


def test_numbers_and_texts_of_like_are_written_again(tmp_path):
    tree = {"params": {"w": ext(ONES)}, "step": 3, "name": "résumé", "rate": 0.5, "none": None}
    like = checkpoints.read(saved(tmp_path / "a", tree))
    write(tmp_path / "b.msgpack", like.arrays, like=like)
    assert (tmp_path / "b.msgpack").read_bytes() == (tmp_path / "a").read_bytes()


def chunked(**lies):
    array = np.arange(10, dtype=np.float32)
    chunks = {str(i): ext(array[i * 4 : i * 4 + 4]) for i in range(3)}
    told = {"shape": {"0": 5, "1": 2}, "chunks": chunks, **lies}
    return {"w": {"__msgpack_chunked_array__": True, **told}, "b": ext(ONES)}


def test_an_array_in_pieces_is_joined(tmp_path):
    array = checkpoints.read(saved(tmp_path / "a", chunked())).arrays["w"]
    assert (array.shape, array.dtype) == ((5, 2), "float32")
    assert array.read().tolist() == np.arange(10.0).reshape(5, 2).tolist()


@pytest.mark.parametrize(
    "lies",
    [
        {"shape": {"0": 5, "1": 3}},
        {"shape": {"0": -5, "1": -2}},
        {"shape": {"0": 5, "2": 2}},
        {"shape": 10},
        {"chunks": {}},
        {"chunks": {"0": ext(np.arange(5.0)), "1": ext(np.arange(5, dtype=np.float32))}},
        {"chunks": {"0": ext(np.zeros((5, 2), np.float32))}},
        {"chunks": {"0": 3}},
        {"more": 3},
    ],
)
def test_pieces_that_do_not_fit_are_refused(tmp_path, lies):
    with pytest.raises(FileError, match="w, a cut array"):
        checkpoints.read(saved(tmp_path / "a", chunked(**lies)))


def deep(levels):
    tree = {"w": ext(ONES)}
    for _ in range(levels):
        tree = {"a": tree}
    return tree


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        ({"w": ext(ONES, shape=(2, 4))}, r"shape \(2, 4\) of float32"),
        ({"w": ext(ONES, shape=(2**40, 2**40))}, "does not fit"),
        ({"w": ext(ONES, shape=(-2, -3))}, "without a shape"),
        ({"w": ext(ONES, shape=(2.0, 3))}, "without a shape"),
        ({"w": ext(ONES, shape=(True, 6))}, "without a shape"),
        ({"w": ext(ONES, shape=6)}, "without a shape"),
        ({"w": ext(ONES, dtype=4)}, "without a shape"),
        ({"w": ext(ONES, dtype="object")}, "type 'object'"),
        ({"w": ext(ONES, dtype="<U6")}, "type '<U6'"),
        ({"w": ext(ONES, data=[1, 2])}, "no bytes where"),
        ({"w": ext(ONES, data=ONES.tobytes(), more=1)}, "without a shape"),
        ({"w": msgpack.ExtType(1, b"")}, "inside the object"),
        ({"w": msgpack.ExtType(9, b"abc")}, "extension of type 9"),
        ({"a": {"b/c": ext(ONES)}, "a/b": {"c": ext(ONES)}}, "two entries called a/b/c"),
        ({"a": {1: ext(ONES), "1": ext(ONES)}}, "twice in one dict"),
        ({"a": {None: ext(ONES)}}, "a key of type NoneType"),
        (deep(100), "64 dicts in dicts"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, tree, message):
    path = saved(tmp_path / "bad.msgpack", tree)
    with pytest.raises(FileError, match=message) as caught:
        checkpoints.read(path)
    for part in ("bad.msgpack", "got:", "why:", "do:"):
        assert part in str(caught.value)


def test_a_file_cut_anywhere_is_refused(tmp_path):
    whole = saved(tmp_path / "a", {"a": {"w": ext(ONES)}, "step": 3, "n": "x" * 40}).read_bytes()
    for end in range(3, len(whole)):
        (tmp_path / "a").write_bytes(whole[:end])
        with pytest.raises(FileError, match=re.escape(str(tmp_path / "a"))):
            checkpoints.read(tmp_path / "a")


@pytest.mark.parametrize(
    "content",
    [
        b"\xdf\xff\xff\xff\xff\xa1a\x01",  # 4 billion entries
        b"\x81\xa1a\xdd\xff\xff\xff\xff\xc0",
        b"\x81\xa1a\xc9\xff\xff\xff\xff\x01abc",  # an array of 4 GiB
        b"\x81\xa1a\xc6\xff\xff\xff\xff",
        b"\x81\xa1a\xdb\xff\xff\xff\xffabc",
        b"\x81\xa1a\xdd" + struct.pack(">I", 300_000) + b"\xc0" * 300_000,
        b"\x81\xa1a\x01extra",
        b"\x81\xa1a\xc1",
    ],
)
def test_lengths_that_lie_are_refused_at_once(tmp_path, content):
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(FileError, match="a msgpack file with"):
        checkpoints.read(tmp_path / "a")


@pytest.mark.slow
def test_flax_reads_what_is_written_and_the_other_way_round(tmp_path, monkeypatch):
    jnp = pytest.importorskip("jax.numpy")
    serialization = pytest.importorskip("flax.serialization")
    tree = {
        "params": {"w": jnp.arange(6.0).reshape(2, 3), "h": jnp.ones(3, jnp.bfloat16)},
        "batch_stats": {"mean": np.arange(40, dtype=np.float32).reshape(8, 5)},
        "count": np.int32(3),
    }
    (tmp_path / "a").write_bytes(serialization.to_bytes(tree))
    whole = checkpoints.read(tmp_path / "a")
    for name in ("serialization.MAX_CHUNK_SIZE", "_LARGEST_PIECE"):
        module = _msgpack if name.startswith("_") else serialization
        monkeypatch.setattr(module, name.rpartition(".")[2], 48)
    (tmp_path / "cut").write_bytes(serialization.to_bytes(tree))
    cut = checkpoints.read(tmp_path / "cut")
    assert whole.arrays["params/h"].dtype == "bfloat16"
    write(tmp_path / "b.msgpack", whole.arrays)
    restored = serialization.msgpack_restore((tmp_path / "b.msgpack").read_bytes())
    for name, array in whole.arrays.items():
        leaf = restored
        for key in name.split("/"):
            leaf = leaf[key]
        np.testing.assert_array_equal(np.asarray(leaf, array.read().dtype), array.read())
        np.testing.assert_array_equal(cut.arrays[name].read(), array.read())
    assert restored["params"]["h"].dtype == jnp.bfloat16


def test_pieces_of_a_large_array_come_back(tmp_path, monkeypatch):
    monkeypatch.setattr(_msgpack, "_LARGEST_PIECE", 50)
    values = np.arange(40, dtype=np.float32).reshape(8, 5)
    write(tmp_path / "a.msgpack", {"w": StoredArray((8, 5), "float32", lambda: values)})
    assert b"__msgpack_chunked_array__" in (tmp_path / "a.msgpack").read_bytes()
    found = checkpoints.read(tmp_path / "a.msgpack").arrays["w"].read()
    np.testing.assert_array_equal(found, values)
