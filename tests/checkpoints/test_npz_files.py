"""NumPy's archives, plain and packed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from evenkeel import checkpoints
from evenkeel.errors import FileError

from .test_hdf5_files import GOLDENS


def archive(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w") as file:
        for name, data in entries.items():
            file.writestr(f"{name}.npy", data)
    return path


def npy(values: np.ndarray, **options: object) -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array(buffer, values, **options)
    return buffer.getvalue()


def header(text: str, data: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode() + data


@pytest.mark.parametrize("golden", ["plain.npz", "packed.npz"])
def test_arrays_are_those_that_numpy_reads(golden):
    file = checkpoints.read(GOLDENS / golden)
    with np.load(GOLDENS / golden) as wanted:
        assert [*file.arrays] == wanted.files
        for name, array in file.arrays.items():
            values = wanted[name]
            assert (array.shape, array.dtype) == (values.shape, values.dtype.name)
            np.testing.assert_array_equal(array.read(), values, strict=True)


@pytest.mark.parametrize(
    "values",
    [
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(3, dtype=">f4"),
        np.array(7),
        np.zeros((0, 3), np.float16),
        np.array([True, False]),
        np.array([1 + 2j], np.complex64),
        np.arange(3, dtype=np.uint8),
    ],
)
def test_every_order_and_element_type(tmp_path, values):
    np.savez(tmp_path / "x.npz", w=values)
    array = checkpoints.read(tmp_path / "x.npz").arrays["w"]
    native = values.astype(values.dtype.newbyteorder("="))
    np.testing.assert_array_equal(array.read(), native, strict=True)
    assert array.dtype == native.dtype.name


def test_what_is_no_number_is_listed_but_not_read(tmp_path):
    np.savez(tmp_path / "x.npz", text=np.array(["a", "bc"]), pairs=np.zeros(2, "V2"))
    found = checkpoints.read(tmp_path / "x.npz").arrays
    for name in ("text", "pairs"):
        with pytest.raises(FileError, match="elements of type"):
            found[name].read()


def test_objects_are_refused_and_no_pickle_is_loaded(tmp_path):
    class Bad:
        def __reduce__(self):
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "x.npz", w=np.array([Bad()], object))
    with pytest.raises(FileError, match="only a pickle"):
        checkpoints.read(tmp_path / "x.npz")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (10**9,)}"), "no header"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (999999999,)}"), "does not fit"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,)}"), "does not fit"),
        (header("{'descr': '<f4', 'fortran_order': False, 'shape': (1,)}", bytes(8)), "fit its"),
        (header("[" * 5000), "no header"),
        (b"\x93NUMPY\x09\x00", "no header"),
        (b"nothing", "no header"),
        (npy(np.zeros(3))[:-1], "does not fit"),
    ],
)
def test_headers_that_lie_are_refused(tmp_path, data, named):
    with pytest.raises(FileError, match=named):
        checkpoints.read(archive(tmp_path / "x.npz", w=data))


def test_a_bomb_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.npz", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("w.npy", npy(np.zeros(9 * 10**6)))
    assert (tmp_path / "x.npz").stat().st_size < 10**6
    with pytest.raises(FileError, match="bytes of content"):
        checkpoints.read(tmp_path / "x.npz")


def test_entries_that_overlap_are_refused(tmp_path):
    archive(tmp_path / "x.npz", a=npy(np.arange(2.0)), b=npy(np.arange(2.0)))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    table = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", table + 4)
    for at, value in ((second + 42, bytes(4)), (second + 46, b"a")):
        data[at : at + len(value)] = value
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(FileError, match="two entries of one name"):
        checkpoints.read(tmp_path / "x.npz")
    data[second + 46 : second + 47] = b"b"
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(FileError, match=r"overlap|cannot be opened"):
        checkpoints.read(tmp_path / "x.npz")


def test_an_entry_that_the_table_lost_is_missed(tmp_path):
    # A comment that is said to be long takes the rest of the table; zipfile sees one entry.
    archive(tmp_path / "x.npz", a=npy(np.arange(2.0)), b=npy(np.arange(2.0)))
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[data.index(b"PK\x01\x02") + 33] = 0x80
    (tmp_path / "x.npz").write_bytes(data)
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == ["a"]
    with pytest.raises(FileError, match=r"bytes in no entry after 'a\.npy'"):
        checkpoints.read(tmp_path / "x.npz")


def test_a_wrong_bit_is_noticed_when_it_is_opened_and_when_it_is_read(tmp_path):
    np.savez(tmp_path / "x.npz", w=np.arange(100.0))
    array = checkpoints.read(tmp_path / "x.npz").arrays["w"]
    data = bytearray((tmp_path / "x.npz").read_bytes())
    data[len(data) // 2] ^= 1
    (tmp_path / "x.npz").write_bytes(data)
    with pytest.raises(FileError, match="CRC"):
        checkpoints.read(tmp_path / "x.npz")
    with pytest.raises(FileError, match="another process"):
        array.read()


def test_a_written_file_is_numpys(tmp_path):
    values = {"a/b": np.arange(6.0, dtype=np.float32).reshape(2, 3).T, "n": np.array(3)}
    arrays = {
        name: checkpoints.StoredArray(v.shape, v.dtype.name, lambda v=v: v)
        for name, v in values.items()
    }
    for target in ("x.npz", "y.npz"):
        checkpoints.write(tmp_path / target, arrays)
    assert (tmp_path / "x.npz").read_bytes() == (tmp_path / "y.npz").read_bytes()
    with np.load(tmp_path / "x.npz") as found:
        assert found.files == [*values]
        for name, wanted in values.items():
            np.testing.assert_array_equal(found[name], wanted, strict=True)
    again = checkpoints.read(tmp_path / "x.npz").arrays
    np.testing.assert_array_equal(again["a/b"].read(), values["a/b"], strict=True)


def test_what_numpy_has_no_name_for_is_not_written(tmp_path):
    ones = np.ones(2, np.float32)
    arrays = {"w": checkpoints.StoredArray((2,), "bfloat16", lambda: ones)}
    with pytest.raises(FileError, match="bfloat16"):
        checkpoints.write(tmp_path / "x.npz", arrays)
    plain = {"w": checkpoints.StoredArray((2,), "float32", lambda: ones)}
    with pytest.raises(FileError, match="metadata"):
        checkpoints.write(tmp_path / "x.npz", plain, metadata={"a": "b"})
    assert not any(tmp_path.iterdir())
