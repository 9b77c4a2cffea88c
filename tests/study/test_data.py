from __future__ import annotations

import gzip
import pickle
import struct
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from evenkeel.errors import DTypeError, FileError, InputError, ShapeError
from evenkeel.study import load_dataset

if TYPE_CHECKING:
    from pathlib import Path

RNG = np.random.default_rng(5)


def save(path: Path, **arrays: Any) -> str:
    np.savez(path / "data.npz", **arrays)
    return f"npz:{path / 'data.npz'}"


def images(samples: int = 80, classes: int = 4) -> tuple[np.ndarray, np.ndarray]:
    y = np.arange(samples) % classes
    return RNG.normal(size=(samples, 3, 5)) + y[:, None, None], y


def idx_bytes(array: np.ndarray) -> bytes:
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write_idx(folder: Path, *, zipped: bool = False) -> dict[str, np.ndarray]:
    parts = {
        "train-images-idx3-ubyte": RNG.integers(0, 256, (30, 4, 6)),
        "train-labels-idx1-ubyte": np.arange(30) % 3,
        "t10k-images-idx3-ubyte": RNG.integers(0, 256, (9, 4, 6)),
        "t10k-labels-idx1-ubyte": np.arange(9) % 3,
    }
    for name, array in parts.items():
        content = idx_bytes(array)
        if zipped:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return parts


def test_digits_are_split_once_and_stratified() -> None:
    data = load_dataset("digits")
    assert (data.info.train, data.info.test) == (1347, 450)
    assert data.train_x.dtype == np.float32
    assert data.train_x.shape == (1347, 64)
    shares = [np.bincount(y, minlength=10) / len(y) for y in (data.train_y, data.test_y)]
    np.testing.assert_allclose(shares[0], shares[1], atol=1 / 450)
    assert len(data.samples) == 10
    again = load_dataset("digits")
    assert data.info == again.info
    assert data.test_x.tobytes() == again.test_x.tobytes()


def test_pixels_share_one_scale() -> None:
    data = load_dataset("digits")
    # 86208 float32 values of size 1, each rounded to 2^-24 of itself.
    assert abs(data.train_x.mean(dtype=np.float64)) < 1e-7
    assert abs(data.train_x.std(dtype=np.float64) - 1) < 1e-7
    columns = data.train_x.std(axis=0)
    assert columns.min() < 1e-4  # a border pixel that is never set stays constant
    assert columns.max() > 1


def test_columns_of_a_table_are_scaled_one_by_one(tmp_path: Path) -> None:
    x = np.stack([RNG.normal(size=80), 1e6 * RNG.normal(size=80), np.full(80, 7.0)], axis=1)
    data = load_dataset(save(tmp_path, x=x, y=np.arange(80) % 2))
    np.testing.assert_allclose(data.train_x.std(axis=0, dtype=np.float64), [1, 1, 0], atol=1e-6)
    assert data.samples == ()


def test_checksum_follows_values_labels_and_shape(tmp_path: Path) -> None:
    x, y = images()
    changed = x.copy()
    changed[0, 0, 0] = np.nextafter(changed[0, 0, 0], 9)
    variants = [(x, y), (changed, y), (x, y[::-1]), (x.reshape(80, 15), y)]
    sums = {load_dataset(save(tmp_path, x=a, y=b)).info.checksum for a, b in variants}
    assert len(sums) == 4


def test_string_labels_and_names_without_path(tmp_path: Path) -> None:
    x, y = images()
    data = load_dataset(save(tmp_path, x=x, y=np.array(["ant", "bee", "cat", "dog"])[y]))
    assert data.info.classes == ("ant", "bee", "cat", "dog")
    assert str(tmp_path) not in repr(data.info)


def test_given_split_is_kept_and_large_test_part_is_cut(tmp_path: Path) -> None:
    x, y = images(60)
    test_x, test_y = images(2500)
    data = load_dataset(save(tmp_path, x_train=x, y_train=y, x_test=test_x, y_test=test_y))
    assert (data.info.train, data.info.test, data.info.test_available) == (60, 2000, 2500)


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_folder(tmp_path: Path, zipped: bool) -> None:
    parts = write_idx(tmp_path, zipped=zipped)
    data = load_dataset(f"idx:{tmp_path}")
    raw = parts["train-images-idx3-ubyte"]
    expected = (raw - raw.mean()) / raw.std()
    np.testing.assert_allclose(data.train_x, expected.reshape(30, 24), rtol=1e-6, atol=1e-7)
    assert data.info.sample_shape == (4, 6)
    assert data.test_y.tolist() != []


@pytest.mark.parametrize("source", ["mnist", "npz", "npz:", "digits:x", "csv:a.csv", ""])
def test_unknown_kind(source: str) -> None:
    with pytest.raises(InputError, match="known are digits, npz:FILE, idx:DIR and folder:DIR"):
        load_dataset(source)


@pytest.mark.parametrize(
    ("source", "advice"),
    [
        ("good.npz", "--data npz:good.npz"),
        ("mnist:", "unknown kind 'mnist'"),
        ("digits:foo", "digits takes no path"),
        ("table.csv", "numpy.savez"),
        ("empty", "--data folder:empty for a folder of images per class, idx:"),
        ("digital", "--data idx:digital"),
        ("pets", "--data folder:pets"),
        ("arrays", "--data npz:arrays/a.npz"),
        ("folder", "--data folder:images/"),
    ],
)
def test_what_was_meant_is_suggested(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str, advice: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "good.npz").touch()
    (tmp_path / "table.csv").touch()
    for folder in ("empty", "digital", "pets", "pets/cat", "arrays"):
        (tmp_path / folder).mkdir()
    (tmp_path / "digital" / "train-images-idx3-ubyte").touch()
    (tmp_path / "arrays" / "a.npz").touch()
    with pytest.raises(InputError, match=advice):
        load_dataset(source)


def npz_variants(path: Path) -> dict[str, bytes]:
    x, y = images()
    np.savez(path / "good.npz", x=x, y=y)
    good = (path / "good.npz").read_bytes()
    np.savez(path / "pickled.npz", x=np.array([{}, []], dtype=object), y=y)
    middle = len(good) // 3
    return {
        "empty": b"",
        "truncated": good[: len(good) // 2],
        "flipped": good[:middle] + bytes([good[middle] ^ 0xFF]) + good[middle + 1 :],
        "pickle": pickle.dumps({"x": [1], "y": [1]}),
        "object array": (path / "pickled.npz").read_bytes(),
        "text": b"x,y\n1,2\n",
    }


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("empty", "an empty file"),
        ("truncated", "damaged or cut off"),
        ("flipped", "damaged"),
        ("pickle", "begins with"),
        ("object array", r"numpy.stack\(list\(x\)\)"),
        ("text", "begins with"),
    ],
)
def test_damaged_npz(tmp_path: Path, kind: str, cause: str) -> None:
    path = tmp_path / "bad.npz"
    path.write_bytes(npz_variants(tmp_path)[kind])
    with pytest.raises(FileError, match=cause):
        load_dataset(f"npz:{path}")


def test_npz_that_is_missing_or_a_folder(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such file"):
        load_dataset(f"npz:{tmp_path / 'none.npz'}")
    with pytest.raises(FileError, match="directory"):
        load_dataset(f"npz:{tmp_path}")
    (tmp_path / "cat").mkdir()
    for kind in ("npz", "idx"):
        with pytest.raises(FileError, match=f"images per class.*--data folder:{tmp_path}"):
            load_dataset(f"{kind}:{tmp_path}")


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (["images"], r"arrays images\n"),
        (["x"], "arrays x, but no y\n"),
        (["y"], "arrays y, but no x\n"),
        (["x_train", "y_train", "x_test"], "arrays x_test, x_train, y_train, but no y_test\n"),
        ([], r"arrays \(none\)\n"),
    ],
)
def test_arrays_that_are_not_there(tmp_path: Path, names: list[str], said: str) -> None:
    with pytest.raises(FileError, match=said):
        load_dataset(save(tmp_path, **dict.fromkeys(names, np.ones((3, 2)))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c[:-1], "instead of"),
        (lambda c: c + b"\0", "instead of"),
        (lambda c: c[:7], "starts with"),
        (lambda _: b"", "starts with"),
        (lambda c: b"\1" + c[1:], "starts with"),
        (lambda c: c[:2] + b"\x07" + c[3:], "starts with"),
        (lambda c: c[:4] + b"\xff" * 12 + c[16:], "instead of"),
    ],
)
def test_damaged_idx(tmp_path: Path, change: Any, message: str) -> None:
    write_idx(tmp_path)
    path = tmp_path / "train-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(FileError, match=message):
        load_dataset(f"idx:{tmp_path}")


def test_damaged_gzip(tmp_path: Path) -> None:
    write_idx(tmp_path, zipped=True)
    path = tmp_path / "train-images-idx3-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-20], b"not gzip at all", whole[:40] + b"\xff\xff" + whole[42:]):
        path.write_bytes(content)
        with pytest.raises(FileError):
            load_dataset(f"idx:{tmp_path}")


def test_idx_folder_missing_or_ambiguous(tmp_path: Path) -> None:
    with pytest.raises(FileError, match="no such folder"):
        load_dataset(f"idx:{tmp_path / 'none'}")
    with pytest.raises(FileError, match=r"no such file as train-images-.*t10k-labels-") as caught:
        load_dataset(f"idx:{tmp_path}")
    assert str(caught.value).startswith(f"--data idx:{tmp_path}\n")
    write_idx(tmp_path)
    write_idx(tmp_path, zipped=True)
    with pytest.raises(FileError, match="exactly one file"):
        load_dataset(f"idx:{tmp_path}")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda x, y: (x, y[:-1]), "80 samples and 79 labels"),
        (lambda x, y: (x[:, 0, 0], y), r"samples x of shape \(80,\).*x.reshape\(-1, 1\)"),
        (lambda x, y: (x, np.eye(4)[y]), r"labels y of shape \(80, 4\).*y.argmax\(axis=1\)"),
        (lambda x, y: (x, y[:, None]), r"labels y of shape \(80, 1\).*y.ravel\(\)"),
        (lambda x, y: (x[:0], y[:0]), r"samples x of shape \(0, 3, 5\)"),
        (lambda x, y: (x[:, :0], y), r"samples x of shape \(80, 0, 5\)"),
        (lambda x, y: (np.float64(3), y), r"samples x of shape \(\)"),
        (lambda x, y: (x, y[0]), r"labels y of shape \(\)"),
    ],
)
def test_shapes_that_are_no_data(tmp_path: Path, change: Any, said: str) -> None:
    x, y = change(*images())
    with pytest.raises(ShapeError, match=f"(?s){said}"):
        load_dataset(save(tmp_path, x=x, y=y))


def test_types_that_are_no_data(tmp_path: Path) -> None:
    x, y = images()
    with pytest.raises(DTypeError, match="complex"):
        load_dataset(save(tmp_path, x=x + 1j, y=y))
    with pytest.raises(InputError, match="whole number"):
        load_dataset(save(tmp_path, x=x, y=y + 0.5))


def test_values_that_are_too_many_or_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x, y = images()
    with pytest.raises(InputError, match="too large to be squared"):
        load_dataset(save(tmp_path, x=x * 1e200, y=y))
    monkeypatch.setattr("evenkeel.study._data._checks.MAX_VALUES", x.size)
    source = save(tmp_path, x=x, y=y)
    load_dataset(source)
    monkeypatch.setattr("evenkeel.study._data._checks.MAX_VALUES", x.size - 1)
    with pytest.raises(ShapeError, match="pass fewer samples"):
        load_dataset(source)


def test_blocks_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    x, y = images()
    sources = [save(tmp_path, x=x, y=y)]
    np.savez(tmp_path / "table.npz", x=x.reshape(80, 15) + 1e3, y=y)
    sources.append(f"npz:{tmp_path / 'table.npz'}")
    whole = [load_dataset(source) for source in sources]
    monkeypatch.setattr("evenkeel.study._data._scaling._BLOCK", 15 * 7)
    for before, source in zip(whole, sources, strict=True):
        after = load_dataset(source)
        # Blocks move mean and deviation by a few 2^-53; rounding to float32 may then differ once.
        np.testing.assert_allclose(after.train_x, before.train_x, rtol=2**-22, atol=2**-22)
        np.testing.assert_allclose(after.test_x, before.test_x, rtol=2**-22, atol=2**-22)
        assert after.info == before.info


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_values_that_are_not_finite(tmp_path: Path, bad: float) -> None:
    x, y = images()
    x[17, 1, 2] = bad
    with pytest.raises(InputError, match="1 NaN or infinite values in x, the first in sample 17"):
        load_dataset(save(tmp_path, x=x, y=y))


def test_labels_that_cannot_be_learned(tmp_path: Path) -> None:
    x, y = images()
    with pytest.raises(InputError, match="one class only"):
        load_dataset(save(tmp_path, x=x, y=np.zeros(80, int)))
    with pytest.raises(InputError, match="too few samples per class"):
        load_dataset(save(tmp_path, x=x, y=np.arange(80)))
    with pytest.raises(InputError, match="1 of the rarest class"):
        load_dataset(save(tmp_path, x=x, y=np.where(np.arange(80) == 3, 9, y)))
    with pytest.raises(InputError, match="same value everywhere"):
        load_dataset(save(tmp_path, x=np.ones((80, 2, 2)), y=y))


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    x, y = images()
    with pytest.raises(ShapeError, match="one shape"):
        load_dataset(save(tmp_path, x_train=x, y_train=y, x_test=x[:, :2], y_test=y))
    with pytest.raises(InputError, match="training never shows"):
        load_dataset(save(tmp_path, x_train=x, y_train=y, x_test=x, y_test=y + 1))
