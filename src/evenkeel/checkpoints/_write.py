"""The one way out: everything is checked, written beside the target, and renamed into its place."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints._atomic import FolderInTheWayError, NoSwapError, commit, workspace
from evenkeel.checkpoints._read import MODULES
from evenkeel.checkpoints._sniff import is_orbax
from evenkeel.checkpoints._values import write_refusal
from evenkeel.errors import FileError

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping
    from types import ModuleType

    from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray

#: Ending of the file name -> kind; a longer ending comes before the ending it contains.
SUFFIXES: Final = {
    ".safetensors": "safetensors",
    ".pt": "torch",
    ".pth": "torch",
    ".keras": "keras",
    ".weights.h5": "hdf5",
    ".h5": "hdf5",
    ".hdf5": "hdf5",
    ".msgpack": "msgpack",
    ".npz": "npz",
    ".onnx": "onnx",
}


def write(
    path: str | os.PathLike[str],
    arrays: Mapping[str, StoredArray],
    *,
    kind: str | None = None,
    like: Checkpoint | None = None,
    metadata: Mapping[str, Any] | None = None,
    overwrite: bool = False,
) -> None:
    """Write a checkpoint; a crash at any moment leaves what was there before.

    The new file is made under another name in the same folder, flushed to the disk, and renamed.
    Arrays are read one after the other, and one at a time is in memory, except for torch (whose
    format is written at once) and for what an ONNX model holds inside its own file. After the
    process was killed, a hidden folder ``.<name>.<random>.partial`` can be left; the next
    call with the same path removes it.

    Arrays may come from the file at ``path`` itself: it is replaced only after all of them have
    been read. They cannot be read from it again afterwards, and say so.

    Args:
        path: the target. Its ending decides the kind where ``kind`` does not; a name without
            an ending becomes an Orbax folder.
        arrays: name to array, in the order in which they are written.
        kind: ``"safetensors"``, ``"torch"``, ``"keras"``, ``"hdf5"``, ``"msgpack"``, ``"orbax"``,
            ``"npz"`` or ``"onnx"``.
        like: a checkpoint of the same kind whose structure is copied. Needed for Keras, HDF5
            and ONNX, whose files hold more than arrays.
        metadata: what the file shall say beside its arrays, as strings (safetensors, ONNX) or
            JSON values (Orbax).
        overwrite: replace a checkpoint that is there.

    Raises:
        FileError: the target exists, the format cannot hold an array, values are not what was
            declared, or the system failed; nothing was changed then.

    Example:
        >>> import numpy as np, tempfile
        >>> from evenkeel import checkpoints
        >>> mean = np.zeros(3, np.float32)
        >>> array = checkpoints.StoredArray(mean.shape, "float32", lambda: mean)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     checkpoints.write(f"{folder}/a.npz", {"bn.running_mean": array})
        ...     checkpoints.read(f"{folder}/a.npz").arrays["bn.running_mean"].read().tolist()
        [0.0, 0.0, 0.0]
    """
    # A link keeps pointing to where it points; the file behind it is replaced.
    target = Path(path).resolve()
    chosen = kind or _kind(target)
    module = importlib.import_module(f"evenkeel.checkpoints.{_module(target, chosen)}")
    _check_target(target, chosen, overwrite=overwrite)
    _check_arrays(target, arrays)
    if like is not None and like.kind != chosen:
        raise write_refusal(
            target,
            got=f"`like` of kind {like.kind}",
            why=f"the target is of kind {chosen}, which has another structure",
            do=f"pass a checkpoint of kind {chosen}, or none",
        )
    try:
        with workspace(target) as place:
            _write_there(module, place, target, arrays, like, dict(metadata or {}))
            commit(place, target, overwrite=overwrite)
    except FileExistsError as error:
        raise _exists(target) from error
    except (FolderInTheWayError, NoSwapError) as error:
        raise _cannot_swap(target, str(error)) from error
    except ModuleNotFoundError as error:
        raise write_refusal(
            target,
            got=f"no package {error.name}",
            why=f"files of kind {chosen} are written with it",
            do='pip install "evenkeel[formats]", or [torch], or [flax]',
        ) from error
    except OSError as error:
        raise write_refusal(
            target,
            got=f"{type(error).__name__}: {error.strerror or error}",
            why="the system does not let this process write it; nothing was changed",
            do="check the folder, its permissions, and the room on the disk",
        ) from error


def _write_there(
    module: ModuleType,
    place: Path,
    target: Path,
    arrays: Mapping[str, StoredArray],
    like: Checkpoint | None,
    metadata: dict[str, Any],
) -> None:
    try:
        module.write(place, arrays, like=like, metadata=metadata)
    except FileError as error:
        # The user knows the target, and not the place where it is made.
        raise FileError(str(error).replace(str(place), str(target))) from error


def _kind(target: Path) -> str:
    name = target.name.lower()
    found = next((kind for suffix, kind in SUFFIXES.items() if name.endswith(suffix)), None)
    if found is None and (not target.suffix or is_orbax(target)):
        return "orbax"
    if found is None:
        raise write_refusal(
            target,
            got=f"a name that ends in {target.suffix}",
            why="the ending does not tell the kind of file",
            do=f"use an ending of {', '.join(SUFFIXES)}, none for an Orbax folder, or pass `kind`",
        )
    return found


def _module(target: Path, kind: str) -> str:
    if kind not in MODULES:
        raise write_refusal(
            target,
            got=f"the kind {kind!r}",
            why="there is no such kind of checkpoint here",
            do=f"choose one of {', '.join(MODULES)}",
        )
    return MODULES[kind]


def _check_target(target: Path, kind: str, *, overwrite: bool) -> None:
    if not target.parent.is_dir():
        raise write_refusal(
            target,
            got="a folder that is not there",
            why="a checkpoint is written into a folder that exists",
            do=f"make {target.parent}, or check the spelling",
        )
    if not target.exists():
        return
    if not overwrite:
        raise _exists(target)
    if (target.is_dir() and not is_orbax(target)) or not (target.is_dir() or target.is_file()):
        raise write_refusal(
            target,
            got="a folder that is no checkpoint, or something that is no regular file",
            why="only a checkpoint is replaced",
            do="choose another name",
        )
    if target.is_dir() != (kind == "orbax"):
        raise _cannot_swap(
            target, "a file cannot take the place of a folder, nor a folder a file's"
        )


def _check_arrays(target: Path, arrays: Mapping[str, StoredArray]) -> None:
    for name, array in arrays.items():
        if not name or not name.isprintable():
            raise write_refusal(
                target,
                got=f"an array called {name!r}",
                why="a name is text that can be printed, of at least one character",
                do="rename it",
            )
        if any(n < 0 for n in array.shape):
            raise write_refusal(
                target,
                got=f"{name} of shape {array.shape}",
                why="a size is negative",
                do="declare the shape that read() returns",
            )


def _exists(target: Path) -> Exception:
    return write_refusal(
        target,
        got="a target that exists",
        why="nothing is replaced unless it was asked for",
        do="pass overwrite=True, or choose another name",
    )


def _cannot_swap(target: Path, why: str) -> Exception:
    return write_refusal(
        target,
        got="a target that exists and cannot be replaced in one step",
        why=why,
        do="choose another name, or remove it first",
    )
