"""The random numbers of Python, NumPy and torch: whether any were drawn, and taking them back."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch


class Draws:
    """The state of the generators when this object was made."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()  # noqa: NPY002 - what a model's code may use
        self._torch = torch.get_rng_state()
        self._devices = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else []

    def happened(self) -> bool:
        """Whether a number was drawn since, on the host."""
        now = Draws()
        return (
            now._python != self._python
            or now._numpy[2:] != self._numpy[2:]
            or bool((now._numpy[1] != self._numpy[1]).any())
            or not torch.equal(now._torch, self._torch)
        )

    def undo(self) -> None:
        """Let the next numbers be those that would have come then."""
        random.setstate(self._python)
        np.random.set_state(self._numpy)  # noqa: NPY002 - likewise
        torch.set_rng_state(self._torch)
        if self._devices:
            torch.cuda.set_rng_state_all(self._devices)
