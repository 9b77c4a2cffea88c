"""Writing: what every kind keeps, and that a target is whole or as it was."""

from __future__ import annotations

import fcntl
import os
import random
import signal
import stat
import subprocess
import sys
import tempfile
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pytest

from evenkeel import checkpoints
from evenkeel.checkpoints import StoredArray, write
from evenkeel.errors import FileError

KINDS = ("a.safetensors", "a.pt", "a.msgpack", "a.npz", "orbax")
NO_BFLOAT16 = ("a.npz",)
FLOATS = ("float64", "float32", "float16")
INTEGERS = ("int64", "int32", "int16", "int8", "uint64", "uint32", "uint16", "uint8", "bool")


def stored(values, dtype=None) -> StoredArray:
    array = np.asarray(values)
    return StoredArray(array.shape, dtype or array.dtype.name, lambda: array)


def network(value: float = 1.0, size: int = 4) -> dict[str, StoredArray]:
    return {
        "bn/scale": stored(np.full(size, value, np.float32)),
        "bn/mean": stored(np.arange(size, dtype=np.float32) * value),
        "bn/batches": stored(np.array(7, np.int64)),
    }


def values(path) -> dict[str, np.ndarray]:
    return {name: array.read() for name, array in checkpoints.read(path).arrays.items()}


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def litter(folder: Path) -> list[str]:
    return [name for name in names_in(folder) if name.startswith(".")]


@pytest.mark.parametrize("name", KINDS)
def test_every_element_type_shape_and_name_comes_back(tmp_path, name):
    arrays = {f"x/{t}": stored(np.array([0, 1, 3], t)) for t in (*FLOATS, *INTEGERS)}
    arrays["odd"] = stored(np.array([np.nan, np.inf, -0.0, 1e-45], np.float32))
    arrays["turned"] = stored(np.arange(6, dtype=np.float32).reshape(2, 3).T)
    arrays["big_endian"] = StoredArray((2,), "float32", lambda: np.array([1, 2], ">f4"))
    arrays["empty"] = stored(np.zeros((0, 3), np.float32))
    arrays["batches"] = stored(np.array(7, np.int64))
    write(tmp_path / name, arrays)
    found = checkpoints.read(tmp_path / name).arrays
    assert set(found) == set(arrays)
    for key, array in arrays.items():
        wanted = array.read().astype(array.dtype)
        assert (found[key].shape, found[key].dtype) == (array.shape, array.dtype)
        got = found[key].read()
        assert (got.dtype, got.shape) == (wanted.dtype, wanted.shape)
        assert got.tobytes() == wanted.tobytes(), key


@pytest.mark.parametrize("name", [kind for kind in KINDS if kind not in NO_BFLOAT16])
def test_bfloat16_comes_back_bit_for_bit(tmp_path, name):
    bits = np.array([0x0000, 0x8000, 0x3F80, 0x7F80, 0x7FC1, 0xFFC0, 0x0001], np.uint32)
    array = stored((bits << 16).view(np.float32), "bfloat16")
    write(tmp_path / name, {"w": array, "scalar": stored(np.float32(1.5), "bfloat16")})
    found = checkpoints.read(tmp_path / name).arrays
    assert found["w"].dtype == "bfloat16"
    assert found["w"].read().tobytes() == array.read().tobytes()
    assert found["scalar"].read() == 1.5
    with pytest.raises(FileError, match="no bfloat16") as caught:
        write(tmp_path / f"b{name}", {"w": stored(np.float32([1.001]), "bfloat16")})
    assert str(tmp_path / f"b{name}") in str(caught.value)
    assert not litter(tmp_path)


def test_an_element_type_that_a_format_has_not_is_refused(tmp_path):
    with pytest.raises(FileError, match="float8"):
        write(tmp_path / "a.pt", {"w": StoredArray((1,), "float8_e4m3fn", lambda: None)})
    with pytest.raises(FileError, match="complex128"):
        write(tmp_path / "a.safetensors", {"w": stored(np.zeros(1, complex))})
    assert not names_in(tmp_path)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"": stored(1.0)}, "called ''"),
        ({"a\nb": stored(1.0)}, "can be printed"),
        ({"a": StoredArray((-1,), "float32", lambda: np.zeros(1))}, "negative"),
        ({"a": StoredArray((2,), "float32", lambda: np.zeros(3, np.float32))}, "declared as"),
        ({"a": StoredArray((2,), "float32", lambda: np.zeros(2))}, "float64 values"),
    ],
)
@pytest.mark.parametrize("name", KINDS)
def test_arrays_that_are_not_what_they_say_are_refused(tmp_path, name, arrays, message):
    with pytest.raises(FileError, match=message):
        write(tmp_path / name, arrays)
    assert not names_in(tmp_path)


@pytest.mark.parametrize("name", ["a.msgpack", "orbax"])
@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("a//b",), ("/a",)])
def test_names_that_do_not_nest_are_refused(tmp_path, name, names):
    with pytest.raises(FileError, match="between two slashes"):
        write(tmp_path / name, {key: stored(np.float32(1)) for key in names})
    assert not names_in(tmp_path)


def test_the_ending_or_the_caller_decides_the_kind(tmp_path):
    write(tmp_path / "a.bin", network(), kind="safetensors")
    assert checkpoints.read(tmp_path / "a.bin").kind == "safetensors"
    write(str(tmp_path / "B.PT"), network())
    assert checkpoints.read(tmp_path / "B.PT").kind == "torch"
    with pytest.raises(FileError, match=r"ends in \.bin"):
        write(tmp_path / "b.bin", network())
    with pytest.raises(FileError, match="the kind 'pickle'"):
        write(tmp_path / "b.bin", network(), kind="pickle")
    with pytest.raises(FileError, match="`like` of kind torch"):
        write(tmp_path / "b.npz", network(), like=checkpoints.read(tmp_path / "B.PT"))


@pytest.mark.parametrize("name", ["a.npz", "a.pt", "a.msgpack"])
def test_metadata_are_refused_where_there_is_no_place(tmp_path, name):
    with pytest.raises(FileError, match="no place"):
        write(tmp_path / name, network(), metadata={"made": "by me"})
    assert not names_in(tmp_path)


@pytest.mark.parametrize("name", KINDS)
def test_a_target_is_replaced_only_when_asked(tmp_path, name):
    write(tmp_path / name, network(1.0))
    with pytest.raises(FileError, match="overwrite=True"):
        write(tmp_path / name, network(2.0))
    assert values(tmp_path / name)["bn/scale"][0] == 1.0
    write(tmp_path / name, network(2.0), overwrite=True)
    assert values(tmp_path / name)["bn/scale"][0] == 2.0
    assert names_in(tmp_path) == [name]


def test_a_replaced_file_keeps_its_mode_and_a_new_one_has_the_usual(tmp_path):
    write(tmp_path / "a.npz", network())
    (tmp_path / "plain").write_bytes(b"")
    assert (tmp_path / "a.npz").stat().st_mode == (tmp_path / "plain").stat().st_mode
    (tmp_path / "a.npz").chmod(0o640)
    write(tmp_path / "a.npz", network(), overwrite=True)
    assert stat.S_IMODE((tmp_path / "a.npz").stat().st_mode) == 0o640


def test_the_file_behind_a_link_is_replaced_and_not_the_link(tmp_path):
    (tmp_path / "real").mkdir()
    write(tmp_path / "real" / "a.npz", network(1.0))
    (tmp_path / "link.npz").symlink_to(tmp_path / "real" / "a.npz")
    write(tmp_path / "link.npz", network(2.0), overwrite=True)
    assert (tmp_path / "link.npz").is_symlink()
    assert values(tmp_path / "real" / "a.npz")["bn/scale"][0] == 2.0


def test_what_is_no_checkpoint_is_never_replaced(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "precious").write_text("x")
    with pytest.raises(FileError, match="only a checkpoint is replaced"):
        write(tmp_path / "data", network(), overwrite=True)
    write(tmp_path / "orbax", network())
    with pytest.raises(FileError, match="place of a folder"):
        write(tmp_path / "orbax", network(), kind="npz", overwrite=True)
    os.mkfifo(tmp_path / "pipe.npz")
    with pytest.raises(FileError, match="no regular file"):
        write(tmp_path / "pipe.npz", network(), overwrite=True)
    with pytest.raises(FileError, match="not there"):
        write(tmp_path / "missing" / "a.npz", network())
    assert names_in(tmp_path) == ["data", "orbax", "pipe.npz"]


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("name", KINDS)
def test_a_failure_half_way_leaves_the_old_file_and_nothing_else(tmp_path, name, error):
    def fail():
        raise error

    write(tmp_path / name, network(1.0))
    arrays = {**network(2.0), "last": StoredArray((1,), "float32", fail)}
    with pytest.raises(error):
        write(tmp_path / name, arrays, overwrite=True)
    assert values(tmp_path / name)["bn/scale"][0] == 1.0
    with pytest.raises(error):
        write(tmp_path / f"new{name}", arrays)
    assert names_in(tmp_path) == [name]


def test_of_two_writers_of_a_new_file_one_is_refused(tmp_path):
    def other_writes():
        write(tmp_path / "a.npz", network(2.0))
        return np.zeros(1, np.float32)

    with pytest.raises(FileError, match="target that exists"):
        write(tmp_path / "a.npz", {"w": StoredArray((1,), "float32", other_writes)})
    assert values(tmp_path / "a.npz")["bn/scale"][0] == 2.0
    assert not litter(tmp_path)


@pytest.mark.parametrize("name", ["a.safetensors", "a.msgpack", "a.npz", "orbax"])
def test_a_file_can_be_made_from_itself_and_then_says_that_it_changed(tmp_path, name):
    write(tmp_path / name, network(3.0))
    old = checkpoints.read(tmp_path / name)
    arrays = {"first": stored(np.zeros(9, np.float32)), **old.arrays}
    write(tmp_path / name, arrays, overwrite=True)
    assert values(tmp_path / name)["bn/mean"].tolist() == [0, 3, 6, 9]
    if name in {"a.safetensors", "a.msgpack"}:
        with pytest.raises(FileError, match="another process"):
            old.arrays["bn/mean"].read()


def test_one_array_at_a_time_is_in_memory(tmp_path):
    size = 1 << 18
    arrays = {
        f"w{i}": StoredArray((size,), "float32", lambda: np.zeros(size, np.float32))
        for i in range(16)
    }
    for name, most in (("a.safetensors", 2.5), ("a.msgpack", 5.5), ("a.npz", 3.5)):
        tracemalloc.start()
        write(tmp_path / name, arrays)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < most * 4 * size, name
        assert (tmp_path / name).stat().st_size > 16 * 4 * size


FULL = """
import resource, sys
import numpy as np
from evenkeel.checkpoints import StoredArray, write
from evenkeel.errors import FileError
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
values = np.random.default_rng(0).random(100_000, np.float32)  # nothing packs them
big = StoredArray(values.shape, "float32", lambda: values)
for name in sys.argv[1:]:
    try:
        write(name, {"w": big}, overwrite=True)
    except FileError as error:
        print("refused", "nothing was changed" in str(error))
"""


@pytest.mark.parametrize(
    "kinds",
    [
        [kind for kind in KINDS if kind != "a.pt"],
        pytest.param(["a.pt"], marks=pytest.mark.slow),  # imports torch
    ],
)
def test_a_full_disk_leaves_the_old_file_and_nothing_else(tmp_path, kinds):
    targets = [str(tmp_path / name) for name in kinds]
    for name in targets:
        write(name, network(1.0))
    done = subprocess.run(
        [sys.executable, "-c", FULL, *targets], capture_output=True, text=True, check=False
    )
    assert done.stdout.splitlines() == ["refused True"] * len(kinds), done.stderr
    for name in targets:
        assert values(name)["bn/scale"][0] == 1.0
    assert names_in(tmp_path) == sorted(kinds)


def test_a_folder_that_cannot_be_written_to_is_refused():
    # Not tmp_path, whose parents are closed to everybody else.
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        refuse_in(Path(folder))


def refuse_in(tmp_path):
    (tmp_path / "shut").mkdir(mode=0o555)
    as_root = os.geteuid() == 0  # root may write anywhere, so it is somebody else for a moment
    if as_root:
        os.seteuid(65534)
    try:
        with pytest.raises(FileError, match="Permission"):
            write(tmp_path / "shut" / "a.npz", network())
    finally:
        if as_root:
            os.seteuid(0)
    assert not names_in(tmp_path / "shut")


WRITER = """
import sys
import numpy as np
from evenkeel.checkpoints import StoredArray, write
print("ready", flush=True)
for number in range(1_000_000):
    array = np.full(300_000, number % 100, np.float32)
    arrays = {n: StoredArray(array.shape, "float32", lambda: array) for n in ("a", "b")}
    write(sys.argv[1], arrays, overwrite=True)
"""


@pytest.mark.parametrize("name", ["a.safetensors", "orbax"])
def test_a_killed_writer_leaves_a_whole_file(tmp_path, name):
    """At random moments; the seed is printed by pytest when it fails."""
    target = tmp_path / name
    choice = random.Random(1)
    for _ in range(4):
        write(target, {n: stored(np.zeros(300_000, np.float32)) for n in "ab"}, overwrite=True)
        assert names_in(tmp_path) == [name]  # what the killed one left is gone
        writer = subprocess.Popen(
            [sys.executable, "-c", WRITER, str(target)], stdout=subprocess.PIPE
        )
        assert writer.stdout.readline() == b"ready\n"
        time.sleep(choice.uniform(0.0, 0.15))
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        found = values(target)
        assert found.keys() == {"a", "b"}
        np.testing.assert_array_equal(found["a"], found["b"])
        assert np.ptp(found["a"]) == 0


def test_only_what_no_living_writer_holds_is_removed(tmp_path):
    dead, held = tmp_path / ".a.npz.xyz.partial", tmp_path / ".a.npz.abc.partial"
    other = tmp_path / ".b.npz.abc.partial"
    for folder in (dead, held, other):
        folder.mkdir()
        (folder / "a.npz").write_bytes(b"half")
    lock = os.open(held, os.O_RDONLY)
    fcntl.flock(lock, fcntl.LOCK_EX)
    write(tmp_path / "a.npz", network())
    os.close(lock)
    assert not dead.exists()
    assert (held / "a.npz").exists()
    assert (other / "a.npz").exists()


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "msgpack", None)
    with pytest.raises(FileError, match=r"no package msgpack[\s\S]*evenkeel\[formats\]"):
        write(tmp_path / "a.msgpack", network())
    assert not names_in(tmp_path)
