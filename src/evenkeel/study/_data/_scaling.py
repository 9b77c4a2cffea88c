"""Mean 0 and deviation 1, in blocks, so that little more than the result has to fit in memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.reference import merge, moments
from evenkeel.study._data._checks import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy.typing as npt

#: Values that are widened to float64 at a time: 32 MiB.
_BLOCK: Final = 2**22


def standardise(
    train: npt.NDArray[Any], test: npt.NDArray[Any], source: str
) -> tuple[tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]], str]:
    """Subtract the mean and divide by the standard deviation of the training part.

    Pixels of an image share one mean and one deviation: scaled one by one, a pixel at the
    border that is almost never set would outweigh all others. Columns of a table have units of
    their own and are scaled one by one; a constant column becomes 0.

    Returns:
        Both parts as (N, features), and a sentence on how they were scaled.

    Raises:
        InputError: all values are the same, or so large that their squares overflow.
    """
    images = train.ndim > 2
    parts = [
        moments(part.reshape(1, 1, -1) if images else part[:, :, np.newaxis])
        for part in _blocks(train)
    ]
    whole = merge(parts)
    if not np.isfinite(whole.var).all():
        got, why = "values too large to be squared", "their standard deviation overflows"
        raise refuse(source, got, why, "rescale x before saving it")
    if not np.any(whole.var > 0):
        got, why = "the same value everywhere in x", "nothing can be learned"
        raise refuse(source, got, why, "check the file")
    std = np.where(whole.var > 0, np.sqrt(whole.var), 1.0)

    def scale(part: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        blocks = ((block.astype(np.float64) - whole.mean) / std for block in _blocks(part))
        scaled = np.empty((len(part), part[0].size), np.float32)
        start = 0
        for block in blocks:
            scaled[start : start + len(block)] = block
            start += len(block)
        return scaled

    what = "one mean and deviation for all pixels" if images else "mean and deviation per column"
    return (scale(train), scale(test)), f"{what}, taken from the training part"


def _blocks(x: npt.NDArray[Any]) -> Iterator[npt.NDArray[Any]]:
    """Parts of x as (n, features), each small enough to be widened."""
    flat = x.reshape(len(x), -1)
    step = max(1, _BLOCK // flat.shape[1])
    for start in range(0, len(flat), step):
        yield flat[start : start + step]
