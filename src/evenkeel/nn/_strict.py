"""The switch for the three documented deviations from torch."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator

_strict = False


def is_strict() -> bool:
    """Whether :func:`strict_torch` is in force."""
    return _strict


@contextmanager
def strict_torch() -> Generator[None]:
    """Switch off the three deviations from ``torch.nn.BatchNorm*`` inside a ``with`` block.

    Inside, a non-finite batch enters the running statistics, an empty batch moves the counter,
    and statistics follow ``.half()`` and ``.to(bfloat16)``, all as in torch. The switch holds
    for the whole process. Statistics already cast to 16 bits become float32 again at the next
    forward pass outside.

    Example:
        >>> import torch, evenkeel as ek
        >>> layer = ek.nn.BatchNorm1d(2)
        >>> with ek.nn.strict_torch():
        ...     _ = layer(torch.empty(0, 2))
        >>> int(layer.num_batches_tracked)
        1
    """
    global _strict  # noqa: PLW0603 - one switch per process, as documented
    before, _strict = _strict, True
    try:
        yield
    finally:
        _strict = before
