"""One picture of each class for the report."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

#: Most pictures that the report shows.
MAX_PICTURES: Final = 10


def first_of_each(
    x: npt.NDArray[Any], y: npt.NDArray[np.int64], classes: int, *, ink: bool
) -> tuple[npt.NDArray[np.uint8], ...]:
    """The first sample of up to ten classes as it is to be shown, or nothing if x is no picture.

    Args:
        x: (N, H, W) is grey; (N, H, W, C) and (N, C, H, W) are grey for C = 1 and red, green
            and blue for C = 3.
        y: (N,), from 0 on; every class occurs.
        classes: how many there are.
        ink: large values of grey pictures are dark, as on paper.

    Returns:
        Arrays of (H, W) or (H, W, 3), 0 = black. Bytes are shown as they are, except ink; other
        values are spread over the whole range from black to white, alike for all pictures.
    """
    shown = _channels_last(x[[int(np.argmax(y == k)) for k in range(min(classes, MAX_PICTURES))]])
    if shown is None:
        return ()
    inverted = ink and shown.ndim == 3
    if shown.dtype == np.uint8 and not inverted:
        return tuple(shown)
    wide = shown.astype(np.float64)
    low, high = wide.min(), wide.max()
    shares = (wide - low) / (high - low or 1.0)
    return tuple((255 * (1 - shares if inverted else shares)).round().astype(np.uint8))


def _channels_last(x: npt.NDArray[Any]) -> npt.NDArray[Any] | None:
    if x.ndim == 4 and x.shape[3] not in {1, 3} and x.shape[1] in {1, 3}:
        x = x.transpose(0, 2, 3, 1)
    if x.ndim == 4 and x.shape[3] == 1:
        x = x[..., 0]
    return x if x.ndim == 3 or (x.ndim == 4 and x.shape[3] == 3) else None
