"""What every reader returns: names, shapes and element types now, values on demand."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class StoredArray:
    """One array of a file; ``read()`` fetches its values.

    ``dtype`` is the element type in the file by its usual name. Values of a type that NumPy
    has no name for (bfloat16) come widened to float32, which changes none of them.
    """

    shape: tuple[int, ...]
    dtype: str
    read: Callable[[], NDArray[Any]] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The arrays of one file.

    ``parts`` says where in a nested file the arrays stood (``("state_dict",)``; ``()`` when
    they stood at the top). With more than one part, every name begins with its part and a
    slash. ``left`` names what stood beside them and was not taken (optimizer, epoch, ...).
    ``config`` is what the file says beside its arrays, as JSON values: the metadata of a
    safetensors file, the configuration of a Keras model, the graph of an ONNX one. Each reader
    documents its keys.
    """

    path: Path
    kind: str
    arrays: Mapping[str, StoredArray]
    parts: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    config: Mapping[str, Any] = field(default_factory=dict[str, Any])


def refusal(path: Path, *, got: str, why: str, do: str) -> FileError:
    """The error of every reader: names the file and answers the four questions."""
    return FileError(explain(asked=f"read the checkpoint {path}", got=got, why=why, do=do))


def widen_bfloat16(bits: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Values of bfloat16 bit patterns: they are the upper halves of float32's."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
