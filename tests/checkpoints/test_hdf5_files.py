"""HDF5 files: what Keras writes, what it never writes, and the child process of libhdf5."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import h5py
import numpy as np
import pytest

from evenkeel import checkpoints
from evenkeel.checkpoints import _child, _hdf5
from evenkeel.checkpoints._child import HDF5
from evenkeel.errors import FileError

GOLDENS = Path(__file__).parent / "goldens"


def content(path: Path) -> dict[str, np.ndarray]:
    """Every array as h5py reads it."""
    found: dict[str, np.ndarray] = {}
    with h5py.File(path) as file:
        file.visititems(
            lambda name, item: (
                found.update({name: item[()]}) if isinstance(item, h5py.Dataset) else None
            )
        )
    return found


def bfloat16(bits: np.ndarray) -> np.ndarray:
    return (np.frombuffer(bits.tobytes(), "<u2").astype(np.uint32) << 16).view(np.float32)


def with_values(file: checkpoints.Checkpoint, seed: int) -> dict[str, checkpoints.StoredArray]:
    """New values that each element type can hold."""
    rng = np.random.default_rng(seed)
    arrays = {}
    for name, array in file.arrays.items():
        values = rng.uniform(0.5, 2, array.shape).astype(np.float32)
        if array.dtype == "bfloat16":
            values = (values.view(np.uint32) & 0xFFFF0000).view(np.float32)
        arrays[name] = checkpoints.StoredArray(array.shape, array.dtype, lambda v=values: v)
    return arrays


@pytest.mark.parametrize(
    "golden",
    ["keras3.weights.h5", "keras3.h5", "keras2.weights.h5", "keras2.h5", "keras2_old.h5"],
)
def test_names_and_values_are_those_that_h5py_reads(golden):
    file = checkpoints.read(GOLDENS / golden)
    wanted = content(GOLDENS / golden)
    assert file.kind == "hdf5"
    assert {*file.arrays} == {*wanted}
    for name, array in file.arrays.items():
        if array.dtype == "bfloat16":
            np.testing.assert_array_equal(array.read().ravel(), bfloat16(wanted[name]))
        else:
            assert array.dtype == wanted[name].dtype.name
            np.testing.assert_array_equal(array.read(), wanted[name], strict=True)
        assert array.read().shape == array.shape == wanted[name].shape


def test_config_of_the_older_format():
    config = checkpoints.read(GOLDENS / "keras2.h5").config
    layers = [layer["config"] for layer in config["model"]["config"]["layers"]]
    norm = next(layer for layer in layers if layer["name"] == "norm")
    assert (norm["epsilon"], norm["momentum"]) == (2e-3, 0.9)
    assert config["metadata"]["backend"] == "tensorflow"
    assert config["attributes"]["model_weights/norm"]["weight_names"] == [
        *("norm/gamma:0", "norm/beta:0", "norm/moving_mean:0", "norm/moving_variance:0"),
    ]


def test_config_of_the_newer_format():
    config = checkpoints.read(GOLDENS / "keras3.weights.h5").config
    assert config["attributes"]["layers/batch_normalization/vars"] == {"name": "norm"}
    assert (config["model"], config["metadata"]) == (None, {})


def test_other_element_types_and_layouts(tmp_path):
    arrays = {
        "big": np.arange(3, dtype=">f4"),
        "half": np.arange(3, dtype=">f2"),
        "none": np.zeros((0, 3), ">f4"),
        "scalar": np.array(7, ">i8"),
        "truth": np.array([True, False]),
    }
    with h5py.File(tmp_path / "x.h5", "w") as file:
        for name, values in arrays.items():
            file[name] = values
        packed = np.arange(1000, dtype=">f4").reshape(50, 20)
        file.create_dataset("packed", data=packed, compression="gzip", shuffle=True)
        file.create_dataset("text", data=["a", "b"])
    found = checkpoints.read(tmp_path / "x.h5").arrays
    for name, values in {**arrays, "packed": packed}.items():
        native = values.astype(values.dtype.newbyteorder("="))
        np.testing.assert_array_equal(found[name].read(), native, strict=True)
    with pytest.raises(FileError, match="element type"):
        found["text"].read()


def test_long_lists_of_names_are_joined(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["a/gamma"], file["a/beta"] = np.zeros(2), np.ones(2)
        file["a"].attrs["weight_names0"] = ["gamma"]
        file["a"].attrs["weight_names1"] = ["beta"]
        file.attrs["layer_names0"] = ["a"]
    config = checkpoints.read(tmp_path / "x.h5").config
    assert config["attributes"]["a"] == {"weight_names": ["gamma", "beta"]}
    assert config["attributes"][""] == {"layer_names": ["a"]}


def soft_link(file):
    file["link"] = h5py.SoftLink("/w")


def external_link(file):
    file["link"] = h5py.ExternalLink("/etc/passwd", "/")


def hard_link(file):
    file["again"] = file["w"]


def cycle(file):
    file["group/up"] = file["/"]


def external_values(file):
    file.create_dataset("out", (4,), "f4", external=[("secret.bin", 0, 16)])


def virtual(file):
    layout = h5py.VirtualLayout((2,), "f4")
    layout[:] = h5py.VirtualSource("other.h5", "w", (2,))
    file.create_virtual_dataset("virtual", layout)


def named_type(file):
    file["type"] = np.dtype("f4")


def never_written(file):
    file.create_dataset("huge", (10**6, 10**6), "f4")


def sparse_bomb(file):
    file.create_dataset("huge", (10**6, 10**6), "f4", chunks=(1000, 1000), compression="gzip")


def other_filter(file):
    file.create_dataset("scaled", data=np.arange(100), chunks=(10,), scaleoffset=0)


def mixed_orders(file):
    file["big"] = np.ones(2, ">f4")


def misnamed(file):
    file.attrs["layer_names"] = ["other"]


def mislisted(file):
    file["layer/gamma"] = np.ones(2, "<f4")
    file["layer"].attrs["weight_names"] = ["beta"]


def gap(file):
    del file["w"]
    file["vars/0"], file["vars/2"] = np.ones(2), np.ones(2)


def astray(file):
    file["vars/0"] = np.ones(2)


def no_text(file):
    file.attrs["note"] = np.void(b"\xff\xfe")


def no_json(file):
    file.attrs["model_config"] = "{"


@pytest.mark.parametrize(
    ("build", "named"),
    [
        (soft_link, "link to another place"),
        (external_link, "link to another place"),
        (hard_link, "stands at two places"),
        (cycle, "stands at two places"),
        (external_values, "another file"),
        (virtual, "put together from other arrays"),
        (named_type, "neither an array nor a group"),
        (never_written, "does not fit its bytes"),
        (sparse_bomb, "bytes of arrays"),
        (other_filter, "packed with filters"),
        (mixed_orders, "mixes byte orders"),
        (misnamed, "lists other layers"),
        (mislisted, "lists other arrays"),
        (gap, "with gaps"),
        (astray, "called 'vars'"),
        (no_text, "cannot be used"),
        (no_json, "no JSON"),
    ],
)
def test_what_keras_never_writes_is_refused(tmp_path, build, named):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["w"] = np.ones(2, "<f4")
        build(file)
    with pytest.raises(FileError, match=named):
        checkpoints.read(tmp_path / "x.h5")


@pytest.mark.parametrize("cut", [1, 100, 10_000])
def test_a_file_of_another_size_than_it_says_is_refused(tmp_path, cut):
    whole = (GOLDENS / "keras3.weights.h5").read_bytes()
    for name, data in {"short": whole[:-cut], "long": whole + bytes(cut)}.items():
        (tmp_path / name).write_bytes(data)
        with pytest.raises(FileError, match="says that it has 17488 bytes"):
            checkpoints.read(tmp_path / name)


def altered(tmp_path: Path, name: str, at: int, value: int) -> Path:
    """The golden with one byte of the header of an array replaced."""
    whole = bytearray((GOLDENS / "keras3.weights.h5").read_bytes())
    with h5py.File(GOLDENS / "keras3.weights.h5") as file:
        start = h5py.h5o.get_info(file[name].id).addr
    assert whole[start + at] != value
    whole[start + at] = value
    (tmp_path / "x.h5").write_bytes(whole)
    return tmp_path / "x.h5"


def test_a_float_that_became_an_integer_by_one_bit_is_refused(tmp_path):
    path = altered(tmp_path, "layers/conv2d/vars/0", 104, 0x10)
    with h5py.File(path) as file:  # libhdf5 sees nothing wrong
        assert file["layers/conv2d/vars/0"].dtype == np.uint32
    with pytest.raises(FileError, match="parts that are not used"):
        checkpoints.read(path)


def test_values_that_would_be_taken_from_a_header_are_refused(tmp_path):
    # The byte is the second of the address of the values.
    path = altered(tmp_path, "layers/conv2d/vars/0", 155, 0x22)
    with pytest.raises(FileError, match=r"puts .* over"):
        checkpoints.read(path)


def test_a_file_that_changed_since_it_was_opened_is_noticed(tmp_path):
    path = tmp_path / "x.h5"
    path.write_bytes((GOLDENS / "keras3.weights.h5").read_bytes())
    array = checkpoints.read(path).arrays["layers/conv2d/vars/0"]
    path.write_bytes((GOLDENS / "keras2.weights.h5").read_bytes())
    with pytest.raises(FileError, match="another file than the one that was opened"):
        array.read()


@pytest.mark.parametrize("golden", ["keras3.weights.h5", "keras2.h5", "keras3.h5"])
def test_writing_replaces_the_values_and_nothing_else(tmp_path, golden):
    like = checkpoints.read(GOLDENS / golden)
    arrays = with_values(like, 1)
    checkpoints.write(tmp_path / "new.h5", arrays, like=like)
    found = checkpoints.read(tmp_path / "new.h5")
    assert (found.config, found.left) == (like.config, like.left)
    assert {n: (a.shape, a.dtype) for n, a in found.arrays.items()} == {
        n: (a.shape, a.dtype) for n, a in like.arrays.items()
    }
    for name, array in found.arrays.items():
        np.testing.assert_array_equal(array.read(), arrays[name].read(), strict=True)
    checkpoints.write(tmp_path / "back.h5", like.arrays, like=checkpoints.read(tmp_path / "new.h5"))
    assert (tmp_path / "back.h5").read_bytes() == (GOLDENS / golden).read_bytes()


def test_element_types_that_hold_every_value_are_widened(tmp_path):
    like = checkpoints.read(GOLDENS / "keras2.weights.h5")
    arrays = with_values(like, 1)
    name = next(iter(arrays))
    half = np.full(like.arrays[name].shape, 1.5, np.float16)
    arrays[name] = checkpoints.StoredArray(half.shape, "float16", lambda: half)
    checkpoints.write(tmp_path / "new.h5", arrays, like=like)
    np.testing.assert_array_equal(
        checkpoints.read(tmp_path / "new.h5").arrays[name].read(),
        half.astype(np.float32),
        strict=True,
    )
    brain = half.astype(np.float32)
    arrays[name] = checkpoints.StoredArray(half.shape, "bfloat16", lambda: brain)
    checkpoints.write(tmp_path / "brain.h5", arrays, like=like)
    np.testing.assert_array_equal(
        checkpoints.read(tmp_path / "brain.h5").arrays[name].read(), brain, strict=True
    )


def test_what_does_not_fit_the_pattern_is_refused(tmp_path):
    like = checkpoints.read(GOLDENS / "keras2.weights.h5")
    arrays = with_values(like, 1)
    first, *others = arrays
    shape = like.arrays[first].shape
    double = checkpoints.StoredArray(shape, "float64", lambda: np.zeros(shape))
    flat = checkpoints.StoredArray((2,), "float32", lambda: np.zeros(2, np.float32))
    cases = {
        "1 arrays missing": {name: arrays[name] for name in others},
        "1 too many": {**arrays, "more": flat},
        "with shape": {**arrays, first: flat},
        "as float64 where `like` has float32": {**arrays, first: double},
    }
    for named, given in cases.items():
        with pytest.raises(FileError, match=named):
            checkpoints.write(tmp_path / "new.h5", given, like=like)
    with pytest.raises(FileError, match="no `like`"):
        checkpoints.write(tmp_path / "new.h5", arrays)
    with pytest.raises(FileError, match="metadata"):
        checkpoints.write(tmp_path / "new.h5", arrays, like=like, metadata={"a": "b"})
    assert not any(tmp_path.iterdir())


def test_a_packed_pattern_is_refused(tmp_path):
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file.create_dataset("w", data=np.zeros(100, "f4"), compression="gzip")
    like = checkpoints.read(tmp_path / "x.h5")
    with pytest.raises(FileError, match="packed form"):
        checkpoints.write(tmp_path / "new.h5", like.arrays, like=like)


def worker(tmp_path: Path, body: str) -> _child.Child:
    """A child whose task ``go`` is the body of a generator."""
    loop = Path(_child.__file__).with_name("_worker_loop.py")
    script = tmp_path / "worker.py"
    lines = "\n".join(f"    {line}" for line in body.splitlines())
    script.write_text(
        f"import ctypes, os, runpy, time\nloop = runpy.run_path({str(loop)!r})\n"
        f"def go(request):\n{lines}\n    yield b''\n"
        "loop['serve']({'go': go})\n"
    )
    return _child.Child(script, seconds=1.0, memory=64 << 20, library="it")


@pytest.mark.parametrize(
    ("body", "named"),
    [
        ("while True: pass", "it cannot finish within 1 s"),
        ("time.sleep(60)", "it cannot finish within 1 s"),
        ("ctypes.string_at(0)", f"crash .signal {signal.SIGSEGV.value}"),
        ("os.abort()", f"crash .signal {signal.SIGABRT.value}"),
        ("x = bytearray(1 << 30)", "MemoryError"),
        ("os._exit(7)", "end with status 7"),
        ("while True: yield bytes(1 << 20)", "without end"),
        ("os.write(os.open('leftover', os.O_CREAT | os.O_WRONLY), b'x')", "File too large"),
        ("raise ValueError('odd')", "odd"),
    ],
)
def test_a_child_that_dies_is_survived(tmp_path, monkeypatch, body, named):
    monkeypatch.chdir(tmp_path)
    child = worker(tmp_path, body)
    try:
        for _ in range(2):
            with pytest.raises(_child.ChildError, match=named):
                child.ask({"task": "go"}, 1 << 20)
    finally:
        child.close()


def test_a_child_without_its_library_says_so(tmp_path):
    (tmp_path / "worker.py").write_text("import missing_library")
    child = _child.Child(tmp_path / "worker.py", library="missing_library")
    with pytest.raises(_child.ChildError, match="missing_library does not start"):
        child.ask({"task": "go"}, 1)
    child.close()


def test_a_child_that_left_is_started_again():
    checkpoints.read(GOLDENS / "keras3.weights.h5")
    first = HDF5._process.pid
    checkpoints.read(GOLDENS / "keras3.weights.h5")
    assert HDF5._process.pid == first
    os.kill(first, signal.SIGKILL)
    HDF5._process.wait()
    assert checkpoints.read(GOLDENS / "keras3.weights.h5").arrays
    assert HDF5._process.pid != first


def test_the_package_never_loads_h5py():
    assert not hasattr(_hdf5, "h5py")
