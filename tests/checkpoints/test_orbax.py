"""Orbax folders: real ones (slow tier), those written here, and damaged ones."""

from __future__ import annotations

import json
import os
import shutil
import signal
from typing import TYPE_CHECKING

import numpy as np
import pytest
import tensorstore

from evenkeel import checkpoints
from evenkeel.checkpoints import StoredArray, _orbax, write
from evenkeel.checkpoints._folders import folder_refusal
from evenkeel.errors import FileError

if TYPE_CHECKING:
    from pathlib import Path


def stored(array, dtype=None) -> StoredArray:
    return StoredArray(array.shape, dtype or array.dtype.name, lambda: array)


ARRAYS = {
    "params/bn/scale": stored(np.float32([1, 2, 3])),
    "params/bn/bias": stored(np.float32([0.5, 0.5, 0.5]), "bfloat16"),
    "batch_stats/bn/mean": stored(np.arange(3000, dtype=np.float32)),
}


@pytest.fixture
def folder(tmp_path) -> Path:
    write(tmp_path / "orbax", ARRAYS)
    return tmp_path / "orbax"


def edited(folder: Path, edit) -> Path:
    top = json.loads((folder / "_METADATA").read_text())
    edit(top)
    (folder / "_METADATA").write_text(json.dumps(top))
    return folder


def test_the_key_value_of_nnx_is_dropped_and_written_again(tmp_path):
    write(tmp_path / "nnx", ARRAYS, metadata={"nnx": True, "note": "kept"})
    like = checkpoints.read(tmp_path / "nnx")
    assert set(like.arrays) == set(ARRAYS)
    assert like.config["nnx"] is True
    assert like.config["metadata"] == {"note": "kept"}
    write(tmp_path / "again", like.arrays, like=like)
    for name in ("nnx", "again"):
        keys = json.loads((tmp_path / name / "_METADATA").read_text())["tree_metadata"]
        assert "('params', 'bn', 'scale', 'value')" in keys


def test_a_step_of_a_manager_is_read_with_its_parts(tmp_path, folder):
    step = tmp_path / "manager" / "5"
    shutil.copytree(folder, step / "state")
    (step / "_CHECKPOINT_METADATA").write_text("{}")
    (step / "metrics").mkdir()
    (step / "metrics" / "metrics").write_text("{}")
    file = checkpoints.read(step)
    assert (file.parts, file.left, set(file.arrays)) == (("state",), ("metrics",), set(ARRAYS))
    shutil.copytree(folder, step / "ema")
    file = checkpoints.read(step)
    assert file.parts == ("ema", "state")
    assert file.arrays["ema/params/bn/scale"].read().tolist() == [1, 2, 3]
    assert set(file.config["items"]) == {"ema", "state"}
    with pytest.raises(FileError, match="several trees"):
        write(tmp_path / "new", file.arrays, like=file)
    assert "do:  pass one of its folders: 5" in str(folder_refusal(tmp_path / "manager"))


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["saved_model.pb"], "SavedModel"),
        (["checkpoint", "ckpt-1.index"], "tf.train.Checkpoint"),
        (["__0_0.distcp"], "distributed checkpoint of torch"),
        (["a.keras", "b.txt"], "pass one file in it: a.keras"),
        ([], "none in it ends in"),
    ],
)
def test_other_folders_are_named(tmp_path, names, message):
    for name in names:
        (tmp_path / name).write_bytes(b"")
    error = folder_refusal(tmp_path)
    assert isinstance(error, FileError)
    assert message in str(error)


def rename(top):
    tree = top["tree_metadata"]
    tree["('params', 'bn', 'other')"] = tree.pop("('params', 'bn', 'scale')")


def misname(top):
    leaf = top["tree_metadata"]["('params', 'bn', 'scale')"]
    leaf["key_metadata"][1]["key"] = "other"


def rename_both(top):
    rename(top)
    top["tree_metadata"]["('params', 'bn', 'other')"]["key_metadata"][2]["key"] = "other"


def escape(top):
    leaf = top["tree_metadata"].pop("('params', 'bn', 'scale')")
    leaf["key_metadata"] = [{"key": "../..", "key_type": 2}, {"key": "x", "key_type": 2}]
    top["tree_metadata"]["('../..', 'x')"] = leaf


def count(top):
    top["tree_metadata"]["('params', 'bn', 'scale')"]["key_metadata"][1]["key_type"] = 1


def without_leaf(top):
    del top["tree_metadata"]["('params', 'bn', 'scale')"]


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (rename, "described as another one"),
        (misname, "described as another one"),
        (rename_both, "do not share, as 'params.bn."),
        (count, "params that is a list and is none"),
        (without_leaf, "do not share, as 'params.bn.scale'"),
        (escape, "the name '../../x'"),
        (lambda top: top.update(use_ocdbt=1), "use_ocdbt that is neither"),
        (lambda top: top.update(use_zarr3=True), "do not share"),
        (lambda top: top.update(use_ocdbt=False), "do not share"),
        (lambda top: top.update(tree_metadata=[]), "tree that is no JSON object"),
    ],
)
def test_a_description_that_does_not_fit_is_refused(folder, edit, message):
    with pytest.raises(FileError, match=message) as caught:
        checkpoints.read(edited(folder, edit))
    for part in (str(folder), "got:", "why:", "do:"):
        assert part in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"{", b"[" * 100_000, b"\xff\xfe", b"3"])
def test_a_description_that_is_no_json_object_is_refused(folder, content):
    (folder / "_METADATA").write_bytes(content)
    with pytest.raises(FileError, match="no JSON"):
        checkpoints.read(folder)


def test_content_that_was_cut_or_removed_is_refused(folder):
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        if path.name == "_CHECKPOINT_METADATA":
            continue
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(FileError, match="orbax"):
            {name: array.read() for name, array in checkpoints.read(folder).arrays.items()}
        path.unlink()
        with pytest.raises(FileError, match="orbax"):
            {name: array.read() for name, array in checkpoints.read(folder).arrays.items()}
        path.write_bytes(whole)
    assert set(checkpoints.read(folder).arrays) == set(ARRAYS)


def test_a_database_that_points_out_of_the_folder_is_refused(folder):
    for path in (folder / "d").iterdir():
        target = folder.parent / path.name
        path.rename(target)
        path.symlink_to(target)
    with pytest.raises(FileError, match="outside of the folder"):
        checkpoints.read(folder)


def zarr(folder: Path, shape, chunks, *, fill=True) -> Path:
    """A folder of plain files with one array, of which only its description is stored."""
    keys = [{"key": "w", "key_type": 2}]
    leaf = {"key_metadata": keys, "value_metadata": {"value_type": "np.ndarray"}}
    top = {"tree_metadata": {"('w',)": leaf}, "use_ocdbt": False}
    folder.mkdir()
    described = {**top, "store_array_data_equal_to_fill_value": fill}
    (folder / "_METADATA").write_text(json.dumps(described))
    spec = {
        "driver": "zarr",
        "kvstore": f"file://{folder}/w/",
        "metadata": {"shape": shape, "chunks": chunks, "dtype": "<f4"},
        "create": True,
    }
    tensorstore.open(spec).result()
    return folder


def test_a_missing_piece_is_no_zero(tmp_path):
    with pytest.raises(FileError, match="0 of 4 pieces of 'w'"):
        checkpoints.read(zarr(tmp_path / "a", [4], [1]))
    array = checkpoints.read(zarr(tmp_path / "b", [4], [1], fill=False)).arrays["w"]
    assert array.read().tolist() == [0, 0, 0, 0]


def test_a_folder_that_declares_more_than_it_holds_is_refused(tmp_path):
    with pytest.raises(FileError, match="bytes that declare 4000000000000 bytes of arrays"):
        checkpoints.read(zarr(tmp_path / "a", [10**12], [10**12], fill=False))


def test_a_parser_that_dies_is_a_refusal_and_the_next_one_lives(folder, monkeypatch):
    child = _orbax._TENSORSTORE
    monkeypatch.setattr(child, "seconds", 1e-3)
    with pytest.raises(FileError, match="TensorStore cannot finish"):
        checkpoints.read(folder)
    monkeypatch.undo()
    assert set(checkpoints.read(folder).arrays) == set(ARRAYS)
    os.kill(child._process.pid, signal.SIGKILL)
    assert set(checkpoints.read(folder).arrays) == set(ARRAYS)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning:orbax")
def test_orbax_and_this_reader_agree_both_ways(tmp_path):
    ocp = pytest.importorskip("orbax.checkpoint")
    jnp = pytest.importorskip("jax.numpy")
    tree = {
        "params": {"w": jnp.arange(6.0).reshape(2, 3), "h": jnp.ones(3, jnp.bfloat16)},
        "batch_stats": {"mean": np.arange(2000, dtype=np.float32)},
        "list": [np.ones(2), np.arange(3)],
        "step": 3,
        "name": "text",
        "none": None,
        "opt_state": {"mu": np.ones(2)},
    }
    plain = {key: tree[key] for key in ("params", "batch_stats")}
    handlers = {
        "plain": ocp.PyTreeCheckpointHandler(use_ocdbt=False),
        "zarr3": ocp.PyTreeCheckpointHandler(use_zarr3=True),
    }
    for name, handler in handlers.items():
        with ocp.Checkpointer(handler) as saver:
            saver.save(tmp_path / name, plain)
    with ocp.PyTreeCheckpointer() as saver:
        saver.save(tmp_path / "all", tree)
        like = checkpoints.read(tmp_path / "all")
        write(tmp_path / "ours", like.arrays, like=like)
        restored = saver.restore(tmp_path / "ours")
    assert like.left == ("opt_state",)
    assert like.config["values"] == {"name": "text", "none": None}
    assert (restored["step"], restored["name"], restored["none"]) == (3, "text", None)
    assert isinstance(restored["list"], list)
    for key in ("params", "batch_stats"):
        for leaf, value in tree[key].items():
            assert restored[key][leaf].dtype == value.dtype
            np.testing.assert_array_equal(restored[key][leaf], value)
            for name in ("plain", "zarr3", "all"):
                found = checkpoints.read(tmp_path / name).arrays[f"{key}/{leaf}"]
                assert (found.shape, found.dtype) == (value.shape, value.dtype.name)
                np.testing.assert_array_equal(found.read(), np.asarray(value, found.read().dtype))
    with ocp.StandardCheckpointer() as saver:
        write(tmp_path / "standard", checkpoints.read(tmp_path / "plain").arrays)
        again = saver.restore(tmp_path / "standard", plain)
    assert again["params"]["h"].dtype == jnp.bfloat16
