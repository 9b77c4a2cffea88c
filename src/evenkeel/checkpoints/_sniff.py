"""Which kind of checkpoint a file is, by its first bytes and never by its extension."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.checkpoints._checkpoint import refusal
from evenkeel.checkpoints._zips import table

if TYPE_CHECKING:
    from pathlib import Path

#: Files that mark a folder as an Orbax checkpoint.
_ORBAX: Final = ("_METADATA", "manifest.ocdbt", "_CHECKPOINT_METADATA")
_READABLE: Final = (
    "a file of safetensors, torch.save (.pt, .pth), Keras (.keras, .weights.h5, .h5), Flax "
    "(.msgpack, an Orbax folder), ONNX or NumPy (.npz)"
)
_SAVE_AGAIN: Final = (
    "where you trust the file, load it with torch.load(path, weights_only=False) and save its "
    'tensors alone: torch.save(model.state_dict(), "weights.pt")'
)
#: First bytes of formats that are recognized in order to name them in the refusal.
_FOREIGN: Final = {
    b"\x93NUMPY": "a single NumPy array (.npy)",
    b"GGUF": "a GGUF file",
    b"\x1f\x8b": "a gzip archive",
    b"<!DO": "an HTML page (a download that failed?)",
    b"<htm": "an HTML page (a download that failed?)",
    b"version https://git-lfs": "a Git LFS pointer; run `git lfs pull` to fetch the file itself",
}


def sniff(path: Path) -> str:
    """The kind of the file or folder, a key of ``_read.MODULES``.

    Raises:
        FileError: the file is empty, a legacy pickle, or of no kind that is read.
    """
    if is_orbax(path):
        return "orbax"
    with path.open("rb") as file:
        head = file.read(64)
    if not head:
        raise refusal(path, got="an empty file", why="it holds nothing", do="save it again")
    if head.startswith(b"PK\x03\x04"):
        return _sniff_zip(path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        return "hdf5"
    if _is_msgpack_map(head):
        return "msgpack"
    # Protocol 2 and later begin so; the text protocols 0 and 1 of a dict begin "(dp" and "}q".
    if (head[0] == 0x80 and head[1:2] <= b"\x05") or head.startswith((b"(dp", b"(lp", b"}q")):
        raise refusal(
            path,
            got="a bare pickle (torch.save before 1.6, joblib or pickle.dump)",
            why="reading a pickle can run any code that its author put into it",
            do=_SAVE_AGAIN,
        )
    # The first field of an ONNX model is ir_version, a small number.
    if head[0] == 0x08 and b"" < head[1:2] < b"\x40":
        return "onnx"
    looks = next((text for magic, text in _FOREIGN.items() if head.startswith(magic)), None)
    raise refusal(
        path,
        got=looks or f"a file that begins with {head[:8]!r}",
        why="its content is of no kind that is read here; the extension does not count",
        do=f"pass {_READABLE}",
    )


def is_orbax(path: Path) -> bool:
    """Whether the path is a folder that Orbax wrote."""
    return path.is_dir() and any((path / name).is_file() for name in _ORBAX)


def _is_msgpack_map(head: bytes) -> bool:
    """A map with a string as its first key; 0x80, a pickle's first byte, is the empty map."""
    start = {0xDE: 3, 0xDF: 5}.get(head[0], 1 if 0x81 <= head[0] <= 0x8F else 0)
    key = head[start : start + 1]
    return bool(start and key) and (0xA0 <= key[0] <= 0xBF or key in {b"\xd9", b"\xda"})


def _sniff_zip(path: Path) -> str:
    names = [*table(path)]
    inner = {name.partition("/")[2] for name in names}
    if "data.pkl" in inner and "constants.pkl" not in inner:
        return "torch"
    if {"config.json", "model.weights.h5"} <= {*names}:
        return "keras"
    if names and all(name.endswith(".npy") for name in names):
        return "npz"
    looks = "a zip archive without data.pkl"
    if "constants.pkl" in inner:
        looks = "a TorchScript archive, which holds code beside the weights"
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
