"""Reader and writer of torch's zip format; no code of the file runs (``weights_only=True``)."""

from __future__ import annotations

import re
import warnings
import zipfile
from functools import partial
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray, refusal, widen_bfloat16
from evenkeel.checkpoints._nested import find_parts
from evenkeel.checkpoints._sniff import save_again
from evenkeel.checkpoints._values import (
    BFLOAT16,
    PLAIN,
    fetch,
    require_dtypes,
    require_no_metadata,
    write_refusal,
)

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray
    from torch import Tensor

#: A view may repeat elements (``expand``), so a few bytes can declare any size. Beyond the size
#: of the file, but never below this many bytes, a single array is refused.
_SMALLEST_LIMIT: Final = 1 << 20
_DO_COPY: Final = "copy or download it again, and compare the sizes"


def read(path: Path) -> Checkpoint:
    """Read a file that ``torch.save`` wrote; every storage is loaded into memory."""
    _check_archive(path)
    parts, left = find_parts(path, _load(path))
    limit = max(path.stat().st_size, _SMALLEST_LIMIT)
    arrays: dict[str, StoredArray] = {}
    for part, tensors in parts.items():
        prefix = f"{part}/" if part and len(parts) > 1 else ""
        for name, tensor in tensors.items():
            if prefix + name in arrays:
                raise _twice(path, prefix + name)
            arrays[prefix + name] = _stored(path, prefix + name, tensor, limit)
    return Checkpoint(path, "torch", MappingProxyType(arrays), tuple(filter(None, parts)), left)


def write(
    path: Path,
    arrays: Mapping[str, StoredArray],
    *,
    like: Checkpoint | None = None,  # noqa: ARG001 - every writer is called alike
    metadata: Mapping[str, Any] | None = None,
) -> None:
    """Write a state dict with the names and the order given; torch holds all of it in memory.

    Raises:
        FileError: an element type that torch has not, metadata, or no room on the disk.
    """
    import torch

    require_dtypes(path, arrays, (*PLAIN, BFLOAT16), "torch")
    require_no_metadata(path, metadata or {}, "torch")
    state = {name: _tensor(path, name, array) for name, array in arrays.items()}
    try:
        torch.save(state, path)
    except RuntimeError as error:  # torch's own file writer has no other
        raise write_refusal(
            path,
            got=f"a failure of torch.save ({(str(error).strip() or 'no message').splitlines()[0]})",
            why="torch could not bring all of it to the disk; nothing was changed",
            do="check the folder, its permissions, and the room on the disk",
        ) from error


def _tensor(path: Path, name: str, array: StoredArray) -> Tensor:
    import torch

    # A copy, because values that are read late can be a view that may not be written to.
    values = torch.from_numpy(fetch(path, name, array).copy())
    return values.view(torch.bfloat16) if array.dtype == BFLOAT16 else values


def _check_archive(path: Path) -> None:
    """Refuse archives that unpack to more than they are, and bytes that changed on the way."""
    with zipfile.ZipFile(path) as archive:
        entries = archive.infolist()
        size, declared = path.stat().st_size, sum(entry.file_size for entry in entries)
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in entries)
        if packed or declared > size:
            raise refusal(
                path,
                got=f"{size} bytes that declare {declared} bytes of content",
                why="torch.save never compresses: entries overlap, are packed, or are a bomb",
                do="use the file as torch.save wrote it, unpacked and not packed again",
            )
        for entry in entries:
            # torch.serialization.set_crc32_options(False) leaves every checksum 0.
            if entry.CRC:
                _check_entry(path, archive, entry)


def _check_entry(path: Path, archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> None:
    try:
        with archive.open(entry) as file:
            while file.read(1 << 20):
                pass
    except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
        raise refusal(
            path,
            got=f"the entry {entry.filename!r} damaged ({error})",
            why="its checksum or its header does not fit its bytes",
            do=_DO_COPY,
        ) from error


def _load(path: Path) -> object:
    import torch

    try:
        # An open file, because given a path torch looks at the extension.
        with warnings.catch_warnings(), path.open("rb") as file:
            warnings.simplefilter("ignore")  # torch warns of storage classes in old files
            # mmap=True would not check the sizes of the entries against the pickle.
            return torch.load(file, map_location="cpu", weights_only=True, mmap=False)
    except Exception as error:
        raise _load_refusal(path, str(error)) from error


def _load_refusal(path: Path, message: str) -> Exception:
    """A crafted pickle can make the restricted unpickler fail in any way; say which it was."""
    plain = re.sub(r"\x1b\[[0-9;]*m", "", message)
    found = re.search(r"GLOBAL (\S+)", plain) or re.search(r"function (\S+)", plain)
    if found or "Weights only load failed" in plain:
        wants = f"asks for {found[1]}" if found else "asks for more than tensors"
        return refusal(
            path,
            got=f"a pickle that {wants}",
            why="this is no plain tensor data, and running what a pickle asks for can run any "
            "code; nothing of it was run",
            do=save_again(),
        )
    first = (plain.strip() or "no message").splitlines()[0]
    return refusal(
        path,
        got=f"an archive whose content does not fit together ({first[:200]})",
        why="the file is damaged, or was not written by torch.save",
        do=_DO_COPY,
    )


def _stored(path: Path, name: str, tensor: Tensor, limit: int) -> StoredArray:
    values = partial(_values, path, name, tensor, limit)
    return StoredArray(tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."), values)


def _values(path: Path, name: str, tensor: Tensor, limit: int) -> NDArray[Any]:
    import torch

    why = ""
    if tensor.is_meta:
        why = "it was saved from the meta device, without values"
    elif tensor.layout is not torch.strided or tensor.is_quantized:
        why = f"layout {tensor.layout}, dtype {tensor.dtype} is no plain array"
    elif tensor.numel() * tensor.element_size() > limit:
        why = f"it declares {tensor.numel()} elements, more bytes than the whole file has"
    if why:
        got = f"the tensor {name}, {tuple(tensor.shape)}"
        raise refusal(path, got=got, why=why, do="save it as a plain dense tensor")
    plain = tensor.detach().resolve_conj().resolve_neg()
    if plain.dtype == torch.bfloat16:
        return widen_bfloat16(plain.contiguous().view(torch.uint16).numpy())
    try:
        return plain.numpy()
    except TypeError as error:
        why = f"{tensor.dtype} has no counterpart in NumPy"
        raise refusal(path, got=f"the tensor {name}", why=why, do="store it as float32") from error


def _twice(path: Path, name: str) -> Exception:
    return refusal(
        path,
        got=f"two tensors that are both called {name}",
        why="a nested dict and a name with slashes meet, so one would hide the other",
        do="save one state dict per file",
    )
