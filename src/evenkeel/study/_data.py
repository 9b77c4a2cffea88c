"""From raw arrays to a checked, split and standardised data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

import numpy as np
import numpy.typing as npt

from evenkeel.errors import DTypeError, InputError, ShapeError, explain
from evenkeel.study._formats import read

if TYPE_CHECKING:
    from evenkeel.study._formats import RawData

#: Share of the samples kept for testing where the source has no split of its own.
TEST_SHARE: Final = 0.25
#: Seed of the split and of the choice of test samples; fixed, so all studies share one split.
SPLIT_SEED: Final = 0
#: Most test samples that are used: accuracy is then known to about a percentage point at worst.
MAX_TEST: Final = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class DataInfo:
    """What ``results.json`` and the report say about the data."""

    source: str
    name: str
    checksum: str
    classes: tuple[str, ...]
    sample_shape: tuple[int, ...]
    train: int
    test: int
    test_available: int
    majority: float
    scaling: str
    split: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataset:
    """Standardised inputs (float32, (N, features)) and labels (int64, (N,)), split in two."""

    info: DataInfo
    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int64]
    samples: tuple[npt.NDArray[np.float64], ...]


def load_dataset(source: str) -> Dataset:
    """Read, check, split and standardise the data named on the command line.

    Args:
        source: ``digits``, ``npz:FILE`` or ``idx:DIR``.

    Raises:
        InputError: wrong shape or type, one class only, NaN or Inf, too few samples.
        FileError: a file is missing or damaged.
    """
    raw = read(source)
    _check(raw.x, raw.y, source)
    if raw.test_x is not None and raw.test_y is not None:
        _check(raw.test_x, raw.test_y, f"{source} (test part)")
        _check_same_kind(raw, source)
    classes, y = _encode(raw, source)
    train, test, split = _split(raw, y, source)
    scaled, scaling = _standardise(train[0], test[0], source)
    kept = np.random.default_rng(SPLIT_SEED).permutation(len(test[1]))[:MAX_TEST]
    counts = np.bincount(train[1], minlength=len(classes))
    return Dataset(
        info=DataInfo(
            source=source if source == "digits" else f"{source.partition(':')[0]}:{raw.name}",
            name=raw.name,
            checksum=_checksum(raw),
            classes=tuple(classes),
            sample_shape=tuple(raw.x.shape[1:]),
            train=len(train[1]),
            test=len(kept),
            test_available=len(test[1]),
            majority=float(counts.max() / counts.sum()),
            scaling=scaling,
            split=split,
        ),
        train_x=scaled[0],
        train_y=train[1],
        test_x=scaled[1][kept],
        test_y=test[1][kept],
        samples=_samples(train[0], train[1], len(classes)),
    )


def _refuse(source: str, got: str, why: str, do: str) -> InputError:
    return InputError(explain(asked=f"--data {source}", got=got, why=why, do=do))


def _check(x: npt.NDArray[Any], y: npt.NDArray[Any], source: str) -> None:
    """Refuse arrays that no classifier could be trained on, each with its own reason."""
    if x.ndim < 2 or y.ndim != 1 or len(x) != len(y) or x.size == 0:
        raise ShapeError(
            explain(
                asked=f"--data {source}",
                got=f"x of shape {x.shape}, y of shape {y.shape}",
                why="x has to be (N, features...) and y has to be (N,), with the same N > 0",
                do="reshape them; for one-hot labels pass y.argmax(axis=1)",
            )
        )
    if x.dtype.kind not in "buif" or y.dtype.kind not in "buifU":
        raise DTypeError(
            explain(
                asked=f"--data {source}",
                got=f"x of type {x.dtype}, y of type {y.dtype}",
                why="x has to be real numbers; y has to be whole numbers or names",
                do="convert the arrays before saving them",
            )
        )
    _check_finite("x", x, source)
    _check_finite("y", y, source)
    if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
        raise _refuse(
            source,
            f"labels such as {y[y != np.round(y)][0]}",
            "a class label is a whole number; this looks like a regression target",
            "give each class a number from 0 on",
        )


def _check_finite(name: str, array: npt.NDArray[Any], source: str) -> None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = np.argwhere(~np.isfinite(array))
    raise _refuse(
        source,
        f"{len(bad)} NaN or infinite values in {name}, the first in sample {bad[0][0]}",
        "one NaN in a batch makes its mean, and every output of that batch, NaN",
        "drop or fill those samples before the study",
    )


def _check_same_kind(raw: RawData, source: str) -> None:
    if raw.test_x is not None and raw.test_x.shape[1:] != raw.x.shape[1:]:
        raise ShapeError(
            explain(
                asked=f"--data {source}",
                got=f"samples of {raw.x.shape[1:]} for training, {raw.test_x.shape[1:]} for test",
                why="both parts have to hold samples of one shape",
                do="use the two parts of one data set",
            )
        )


def _encode(raw: RawData, source: str) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Number the classes from 0 on, in sorted order."""
    known, y = np.unique(raw.y, return_inverse=True)
    if len(known) < 2:
        raise _refuse(
            source,
            f"one class only ({known[0]})",
            "there is nothing to tell apart",
            "pass data with at least two classes",
        )
    if raw.test_y is not None and not np.isin(raw.test_y, known).all():
        strange = np.setdiff1d(raw.test_y, known)
        raise _refuse(
            source,
            f"classes in the test part that training never shows: {strange[:5].tolist()}",
            "they can never be predicted",
            "use the two parts of one data set",
        )
    if len(y) // len(known) < 2:
        raise _refuse(
            source,
            f"{len(known)} classes in {len(y)} samples",
            "too few samples per class; whole-number labels are read as classes",
            "check that y holds class labels",
        )
    return [str(name) for name in known.tolist()], y.astype(np.int64)


_Part = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]


def _split(raw: RawData, y: npt.NDArray[np.int64], source: str) -> tuple[_Part, _Part, str]:
    """Use the split of the source, or make the fixed stratified one."""
    if raw.test_x is not None and raw.test_y is not None:
        test_y = np.searchsorted(np.unique(raw.y), raw.test_y).astype(np.int64)
        return (raw.x, y), (raw.test_x, test_y), "as the source has it"
    from sklearn.model_selection import train_test_split

    try:
        train, test = cast(
            "tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]",
            train_test_split(
                np.arange(len(y)), test_size=TEST_SHARE, stratify=y, random_state=SPLIT_SEED
            ),
        )
    except ValueError as error:
        smallest = np.bincount(y).min()
        raise _refuse(
            source,
            f"{len(y)} samples, {smallest} of the rarest class",
            f"a quarter is kept for testing, with every class in it ({error})",
            "pass more samples, at least two and better hundreds per class",
        ) from error
    return (
        (raw.x[train], y[train]),
        (raw.x[test], y[test]),
        f"stratified, {TEST_SHARE:.0%} for testing",
    )


def _standardise(
    train: npt.NDArray[Any], test: npt.NDArray[Any], source: str
) -> tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], str]:
    """Subtract the mean and divide by the standard deviation of the training part.

    Pixels of an image share one mean and one deviation: scaled one by one, a pixel at the
    border that is almost never set would outweigh all others. Columns of a table have units of
    their own and are scaled one by one; a constant column becomes 0.
    """
    images = train.ndim > 2
    flat = train.reshape(len(train), -1).astype(np.float64)
    mean = flat.mean() if images else flat.mean(axis=0)
    std = flat.std() if images else flat.std(axis=0)
    if not np.any(std > 0):
        raise _refuse(
            source, "the same value everywhere in x", "nothing can be learned", "check the file"
        )
    safe = np.where(std > 0, std, 1.0)

    def scale(part: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        wide = part.reshape(len(part), -1).astype(np.float64)
        return np.ascontiguousarray((wide - mean) / safe, np.float32)

    what = "one mean and deviation for all pixels" if images else "mean and deviation per column"
    return (scale(train), scale(test)), f"{what}, taken from the training part"


def _checksum(raw: RawData) -> str:
    """Return the SHA-256 of types, shapes and values as read."""
    digest = hashlib.sha256()
    for array in (raw.x, raw.y, raw.test_x, raw.test_y):
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).tobytes())
    return f"sha256:{digest.hexdigest()}"


def _samples(
    x: npt.NDArray[Any], y: npt.NDArray[np.int64], classes: int
) -> tuple[npt.NDArray[np.float64], ...]:
    """Return the first training image of up to ten classes, or nothing if x is no image."""
    if x.ndim != 3:
        return ()
    return tuple(x[int(np.argmax(y == k))].astype(np.float64) for k in range(min(classes, 10)))
