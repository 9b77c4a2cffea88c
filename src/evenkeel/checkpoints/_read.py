"""The one entry: look at the file, choose its reader, turn every failure into a FileError."""

from __future__ import annotations

import importlib
import math
from pathlib import Path
from typing import TYPE_CHECKING, Final

from evenkeel.checkpoints._checkpoint import refusal
from evenkeel.checkpoints._folders import folder_refusal
from evenkeel.checkpoints._sniff import is_orbax, sniff

if TYPE_CHECKING:
    import os

    from evenkeel.checkpoints._checkpoint import Checkpoint

#: What NumPy's arrays can have: dimensions, and bytes with empty dimensions counted as one.
_LARGEST_RANK: Final = 64
_LARGEST_SIZE: Final = 2**63 - 1
#: The largest element type has 16 bytes.
_WIDEST: Final = 16
#: Kind -> module with ``read`` and ``write``.
MODULES: Final = {
    "safetensors": "_safetensors",
    "torch": "_torch",
    "keras": "_keras",
    "hdf5": "_hdf5",
    "npz": "_npz",
    "msgpack": "_msgpack",
    "orbax": "_orbax",
    "onnx": "_onnx",
}


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the names, shapes and element types of a checkpoint; runs no code from the file.

    Args:
        path: a file of safetensors, ``torch.save`` (in its zip format; this needs torch, is read
            with ``weights_only=True``, and is held in memory), Keras (``.keras``,
            ``.weights.h5``, ``.h5``), Flax (msgpack), ONNX or NumPy (``.npz``), or a folder of
            Orbax. The content decides, not the extension.

    Raises:
        FileError: missing, another directory, empty, cut off, damaged, of another kind, or only
            readable by running code or with a package that is not installed.

    Example:
        >>> import numpy as np, tempfile
        >>> from safetensors.numpy import save_file
        >>> with tempfile.NamedTemporaryFile() as file:
        ...     save_file({"bn.running_mean": np.zeros(3, np.float32)}, file.name)
        ...     read(file.name).arrays["bn.running_mean"].shape
        (3,)
    """
    place = Path(path)
    try:
        _require_path(place)
        module = importlib.import_module(f"evenkeel.checkpoints.{MODULES[sniff(place)]}")
        found: Checkpoint = module.read(place)
    except OSError as error:
        raise refusal(
            place,
            got=f"{type(error).__name__}: {error.strerror or error}",
            why="the system does not let this process read it",
            do="check the path, its permissions and the disk",
        ) from error
    _require_shapes(found)
    return found


def _require_shapes(found: Checkpoint) -> None:
    """Refuse shapes without bytes behind them that no array can have: 1 x 1 x ..., 0 x 2^63."""
    for name, array in found.arrays.items():
        size = math.prod(max(n, 1) for n in array.shape) * _WIDEST
        if len(array.shape) > _LARGEST_RANK or size > _LARGEST_SIZE:
            shape = f"{len(array.shape)} dimensions" if len(array.shape) > 9 else f"{array.shape}"
            raise refusal(
                found.path,
                got=f"an array {name} of {shape}",
                why="no array can have this shape, so the file is damaged",
                do="copy or export it again",
            )


def _require_path(path: Path) -> None:
    if path.is_file() or is_orbax(path):
        return
    if path.is_dir():
        raise folder_refusal(path)
    raise refusal(
        path,
        got="something that is no regular file" if path.exists() else "no such file",
        why="there is nothing to read" if not path.exists() else "its size is not known",
        do="check the spelling, and the directory that the command runs in",
    )
