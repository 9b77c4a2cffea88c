"""Which kind of checkpoint a file is, by its first bytes and never by its extension."""

from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING, Final

from evenkeel.checkpoints._checkpoint import refusal

if TYPE_CHECKING:
    from pathlib import Path

SAFETENSORS: Final = "safetensors"
TORCH: Final = "torch"

_READABLE: Final = "a .safetensors file or what torch.save wrote in its zip format (.pt, .pth)"
_SAVE_AGAIN: Final = (
    "where you trust the file, load it with torch.load(path, weights_only=False) and save its "
    'tensors alone: torch.save(model.state_dict(), "weights.pt")'
)
#: First bytes of formats that are recognized in order to name them in the refusal.
_FOREIGN: Final = {
    b"\x89HDF\r\n\x1a\n": "an HDF5 file (Keras .h5)",
    b"\x93NUMPY": "a single NumPy array (.npy)",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"<!DO": "an HTML page (a download that failed?)",
    b"<htm": "an HTML page (a download that failed?)",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` to fetch the file itself",
}


def sniff(path: Path) -> str:
    """The kind of the file, :data:`SAFETENSORS` or :data:`TORCH`.

    Raises:
        FileError: the file is empty, a legacy pickle, or of no kind that is read.
    """
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise refusal(path, got="an empty file", why="it holds nothing", do="save it again")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return SAFETENSORS
    # Protocol 2 and later begin so; the text protocols 0 and 1 of a dict begin "(dp" and "}q".
    if head[0] == 0x80 or head.startswith((b"(dp", b"(lp", b"}q")):
        raise refusal(
            path,
            got="a bare pickle (torch.save before 1.6, joblib or pickle.dump)",
            why="reading a pickle can run any code that its author put into it",
            do=_SAVE_AGAIN,
        )
    looks = next((text for magic, text in _FOREIGN.items() if head.startswith(magic)), None)
    raise refusal(
        path,
        got=looks or f"a file that begins with {head[:8]!r}",
        why="its content is of no kind that is read here; the extension does not count",
        do=f"pass {_READABLE}",
    )


def _sniff_zip(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
        raise refusal(
            path,
            got=f"a zip archive that cannot be opened ({error})",
            why="its table of contents is missing or damaged; the file may be cut off",
            do="copy or download it again, and compare the sizes",
        ) from error
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner and "constants.pkl" not in inner:
        return TORCH
    looks = "a zip archive without data.pkl"
    if "constants.pkl" in inner:
        looks = "a TorchScript archive, which holds code beside the weights"
    elif "model.weights.h5" in names:
        looks = "a Keras archive (.keras)"
    elif names and all(name.endswith(".npy") for name in names):
        looks = "a NumPy archive (.npz)"
    do = "save the weights alone: torch.save(torch.jit.load(path).state_dict(), ...)"
    raise refusal(
        path,
        got=looks,
        why="it is not what torch.save writes for weights",
        do=do if "constants.pkl" in inner else f"pass {_READABLE}",
    )


def save_again() -> str:
    """What to do about a file that only a pickle could read."""
    return _SAVE_AGAIN
