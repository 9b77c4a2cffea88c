"""A file whose bytes are fetched later, and only while it is still the same file."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from evenkeel.checkpoints._checkpoint import refusal

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Source:
    """A regular file as it was when it was opened.

    An array that is read late from a file that was replaced meanwhile would be bytes of
    something else, so every read compares inode, size and time of change first.
    """

    path: Path
    inode: int
    size: int
    changed: int

    @classmethod
    def of(cls, path: Path) -> Self:
        """The file as it is now."""
        return cls(path, *_identity(path.stat()))

    def values(self, name: str, dtype: str, shape: tuple[int, ...], offset: int) -> NDArray[Any]:
        """Values of one array, read from the file.

        Args:
            name: of the array, for the error.
            dtype: NumPy's name of the element type, with its byte order.
            shape: of the array.
            offset: of its first byte in the file.

        Raises:
            FileError: the file was changed, cut or removed since it was opened.
        """
        count = int(np.prod(shape, dtype=object))
        try:
            with self.path.open("rb") as file:
                if _identity(os.fstat(file.fileno())) == (self.inode, self.size, self.changed):
                    found = np.fromfile(file, dtype=dtype, count=count, offset=offset)
                    if found.size == count:
                        return found.reshape(shape)
        except OSError as error:
            raise self._changed(name) from error
        raise self._changed(name)

    def _changed(self, name: str) -> Exception:
        return refusal(
            self.path,
            got=f"another file than the one that was opened, while fetching {name}",
            why="another process changed or removed the file, or it was written anew",
            do="read it again once it is complete",
        )


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_ino, status.st_size, status.st_mtime_ns
