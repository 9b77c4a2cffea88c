"""The one entry: look at the file, choose its reader, turn every failure into a FileError."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

from evenkeel.checkpoints import _safetensors, _torch
from evenkeel.checkpoints._checkpoint import refusal
from evenkeel.checkpoints._sniff import SAFETENSORS, TORCH, sniff

if TYPE_CHECKING:
    import os
    from collections.abc import Callable

    from evenkeel.checkpoints._checkpoint import Checkpoint

_READERS: Final[dict[str, Callable[[Path], Checkpoint]]] = {
    SAFETENSORS: _safetensors.read,
    TORCH: _torch.read,
}

#: Usual endings of checkpoints, for advice only: the content decides.
_SUFFIXES: Final = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
#: Files named in the advice.
_NAMED: Final = 5


def read(path: str | os.PathLike[str]) -> Checkpoint:
    """Read the names, shapes and element types of a checkpoint; runs no code from the file.

    Args:
        path: a ``.safetensors`` file, or a zip file written by ``torch.save`` (which needs
            torch, is read with ``weights_only=True``, and is held in memory). The content
            decides, not the extension.

    Raises:
        FileError: missing, a directory, empty, cut off, damaged, of another kind, or only
            readable by running code.

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
        _require_file(place)
        return _READERS[sniff(place)](place)
    except OSError as error:
        raise refusal(
            place,
            got=f"{type(error).__name__}: {error.strerror or error}",
            why="the system does not let this process read it",
            do="check the path, its permissions and the disk",
        ) from error


def _choice(folder: Path) -> str:
    """Which file of a folder to pass, naming only files that are there."""
    found = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if not found:
        return f"pass a checkpoint file; none in it ends in {', '.join(_SUFFIXES)}"
    more = f" or one of {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"pass one file in it: {', '.join(found[:_NAMED])}{more}"


def _require_file(path: Path) -> None:
    if path.is_file():
        return
    if path.is_dir():
        raise refusal(
            path,
            got="a directory",
            why="one file is read at a time",
            do=_choice(path),
        )
    raise refusal(
        path,
        got="something that is no regular file" if path.exists() else "no such file",
        why="there is nothing to read" if not path.exists() else "its size is not known",
        do="check the spelling, and the directory that the command runs in",
    )
