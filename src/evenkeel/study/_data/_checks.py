"""What no classifier could be trained on; each finding has its own reason and advice."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.errors import DTypeError, InputError, ShapeError, explain

if TYPE_CHECKING:
    import numpy.typing as npt

    from evenkeel.study._data._formats import RawData

#: Most values in one part of the data: as float32 they take 4 GiB.
MAX_VALUES: Final = 2**30


def refuse(
    source: str, got: str, why: str, do: str, kind: type[InputError] = InputError
) -> InputError:
    """The error that says why the data named on the command line cannot be used."""
    return kind(explain(asked=f"--data {source}", got=got, why=why, do=do))


def check_raw(raw: RawData, source: str) -> None:
    """Refuse arrays of a wrong shape or type, with NaN, or of two parts that do not match.

    Raises:
        InputError: the first of these that is found.
    """
    _check(raw.x, raw.y, source)
    if raw.test_x is None or raw.test_y is None:
        return
    _check(raw.test_x, raw.test_y, f"{source} (test part)")
    if raw.test_x.shape[1:] != raw.x.shape[1:]:
        got = f"samples of {raw.x.shape[1:]} for training, {raw.test_x.shape[1:]} for test"
        why = "both parts have to hold samples of one shape"
        raise refuse(source, got, why, "use the two parts of one data set", ShapeError)


def _check(x: npt.NDArray[Any], y: npt.NDArray[Any], source: str) -> None:
    _check_shapes(x, y, source)
    if x.dtype.kind not in "buif" or y.dtype.kind not in "buifU":
        got = f"x of type {x.dtype}, y of type {y.dtype}"
        why = "x has to be real numbers; y has to be whole numbers or names"
        raise refuse(source, got, why, "convert the arrays before saving them", DTypeError)
    _check_finite("x", x, source)
    _check_finite("y", y, source)
    if y.dtype.kind == "f" and not np.array_equal(y, np.round(y)):
        raise refuse(
            source,
            f"labels such as {y[y != np.round(y)][0]}",
            "a class label is a whole number; this looks like a regression target",
            "give each class a number from 0 on",
        )


def _check_shapes(x: npt.NDArray[Any], y: npt.NDArray[Any], source: str) -> None:
    if x.ndim < 2 or x.size == 0:
        got = f"samples x of shape {x.shape}"
        why = "x has to be (N, features) or (N, height, width), none of them 0"
        do = "reshape it; a single feature is x.reshape(-1, 1)"
    elif y.ndim != 1:
        got = f"labels y of shape {y.shape}"
        why = "y has to be (N,): one label for each sample"
        do = "for one-hot labels pass y.argmax(axis=1), for one column y.ravel()"
    elif len(x) != len(y):
        got = f"{len(x)} samples and {len(y)} labels"
        why = "each sample needs its own label"
        do = "take samples and labels of the same part of the data"
    elif x.size > MAX_VALUES:
        got = f"samples x of shape {x.shape}, which is {x.size:.2g} values"
        why = f"at most {MAX_VALUES:.2g} fit in the memory of a usual machine"
        do = "pass fewer samples, or smaller images"
    else:
        return
    raise refuse(source, got, why, do, ShapeError)


def _check_finite(name: str, array: npt.NDArray[Any], source: str) -> None:
    if array.dtype.kind != "f" or np.isfinite(array).all():
        return
    bad = np.argwhere(~np.isfinite(array))
    raise refuse(
        source,
        f"{len(bad)} NaN or infinite values in {name}, the first in sample {bad[0][0]}",
        "one NaN in a batch makes its mean, and every output of that batch, NaN",
        "drop or fill those samples before the study",
    )


def encode(raw: RawData, source: str) -> tuple[list[str], npt.NDArray[np.int64]]:
    """Number the classes of the training part from 0 on, in sorted order.

    Raises:
        InputError: one class only, a class that only the test part has, or hardly any samples
            of each class.
    """
    known, y = np.unique(raw.y, return_inverse=True)
    if len(known) < 2:
        raise refuse(
            source,
            f"one class only ({known[0]})",
            "there is nothing to tell apart",
            "pass data with at least two classes",
        )
    if raw.test_y is not None and not np.isin(raw.test_y, known).all():
        strange = np.setdiff1d(raw.test_y, known)
        raise refuse(
            source,
            f"classes in the test part that training never shows: {strange[:5].tolist()}",
            "they can never be predicted",
            "use the two parts of one data set",
        )
    if len(y) // len(known) < 2:
        raise refuse(
            source,
            f"{len(known)} classes in {len(y)} samples",
            "too few samples per class; whole-number labels are read as classes",
            "pass more samples of each class, and check that the labels are class labels",
        )
    return [str(name) for name in known.tolist()], y.astype(np.int64)
