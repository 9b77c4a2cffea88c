"""From raw arrays to a checked, split and standardised data set."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np

from evenkeel.study._data._checks import check_raw, encode, refuse
from evenkeel.study._data._formats import read
from evenkeel.study._data._pictures import first_of_each
from evenkeel.study._data._scaling import standardise

if TYPE_CHECKING:
    import numpy.typing as npt

    from evenkeel.study._data._formats import RawData

    _Part: TypeAlias = tuple[npt.NDArray[Any], npt.NDArray[np.int64]]

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
    """Standardised inputs (float32, (N, features)) and labels (int64, (N,)), split in two.

    ``samples`` are pictures to be shown, one per class, uint8 with 0 = black: (H, W) where the
    data is grey, (H, W, 3) where it is red, green and blue; none where it is no picture.
    """

    info: DataInfo
    train_x: npt.NDArray[np.float32]
    train_y: npt.NDArray[np.int64]
    test_x: npt.NDArray[np.float32]
    test_y: npt.NDArray[np.int64]
    samples: tuple[npt.NDArray[np.uint8], ...]


def load_dataset(source: str) -> Dataset:
    """Read, check, split and standardise the data named on the command line.

    Args:
        source: ``digits``; ``npz:FILE`` with arrays ``x`` and ``y``; ``idx:DIR`` in MNIST's
            format; or ``folder:DIR`` with a folder of images per class. A split of the source's
            own is kept; else a quarter of each class is kept for testing.

    Raises:
        InputError: wrong shape or type, one class only, NaN or Inf, too few samples.
        FileError: a file is missing or damaged.
    """
    raw = read(source)
    check_raw(raw, source)
    classes, y = encode(raw, source)
    (train_x, train_y), (test_x, test_y), split = _split(raw, y, source)
    kept = np.random.default_rng(SPLIT_SEED).permutation(len(test_y))[:MAX_TEST]
    scaled, scaling = standardise(train_x, test_x[kept], source)
    counts = np.bincount(train_y, minlength=len(classes))
    return Dataset(
        info=DataInfo(
            source=source if source == "digits" else f"{source.partition(':')[0]}:{raw.name}",
            name=raw.name,
            checksum=_checksum(raw),
            classes=tuple(classes),
            sample_shape=tuple(raw.x.shape[1:]),
            train=len(train_y),
            test=len(kept),
            test_available=len(test_y),
            majority=float(counts.max() / counts.sum()),
            scaling=scaling,
            split=split,
        ),
        train_x=scaled[0],
        train_y=train_y,
        test_x=scaled[1],
        test_y=test_y[kept],
        samples=first_of_each(train_x, train_y, len(classes), ink=raw.ink),
    )


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
        raise refuse(
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


def _checksum(raw: RawData) -> str:
    """Return the SHA-256 of types, shapes and values as read."""
    digest = hashlib.sha256()
    for array in (raw.x, raw.y, raw.test_x, raw.test_y):
        if array is not None:
            digest.update(f"{array.dtype.str}{array.shape}".encode())
            digest.update(np.ascontiguousarray(array).data)
    return f"sha256:{digest.hexdigest()}"
