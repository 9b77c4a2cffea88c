"""Names the folders that are no checkpoint of Orbax, and says what to pass instead."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.checkpoints._checkpoint import refusal
from evenkeel.checkpoints._sniff import is_orbax

if TYPE_CHECKING:
    from pathlib import Path

#: Usual endings of checkpoints, for advice only: the content decides.
_SUFFIXES: Final = (
    *(".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".keras", ".h5", ".msgpack", ".onnx", ".npz"),
)
#: Files and folders named in the advice.
_NAMED: Final = 5


def folder_refusal(path: Path) -> Exception:
    """The error for a folder that is not read."""
    got, why, do = _looks(path) or ("a directory", "one file is read at a time", _choice(path))
    return refusal(path, got=got, why=why, do=do)


def _looks(path: Path) -> tuple[str, str, str] | None:
    names = {inner.name for inner in path.iterdir()}
    inner = [folder for folder in sorted(path.iterdir()) if is_orbax(folder)]
    if inner:
        return (
            "a folder of Orbax checkpoints, as a CheckpointManager keeps them",
            "one of them is read at a time",
            f"pass one of its folders: {', '.join(folder.name for folder in _latest(inner))}",
        )
    if names & {"saved_model.pb", "saved_model.pbtxt"}:
        return (
            "a TensorFlow SavedModel",
            "it holds a program beside the weights, and only TensorFlow can read it",
            'save the Keras model itself: model.save("model.keras")',
        )
    if "checkpoint" in names or any(name.endswith(".index") for name in names):
        return (
            "a checkpoint of tf.train.Checkpoint, or a legacy one of Flax",
            "only the library that wrote it can read it",
            "restore it there, and save a .weights.h5 (Keras) or a .msgpack file (Flax)",
        )
    if any(name.endswith(".distcp") for name in names):
        return (
            "a distributed checkpoint of torch",
            "its pieces belong to several processes",
            "join it: torch.distributed.checkpoint.format_utils.dcp_to_torch_save(folder, 'a.pt')",
        )
    return None


def _latest(folders: list[Path]) -> list[Path]:
    steps = sorted((f for f in folders if f.name.isdigit()), key=lambda f: int(f.name))
    return (steps or folders)[-_NAMED:]


def _choice(folder: Path) -> str:
    """Which file of a folder to pass, naming only files that are there."""
    found = sorted(p.name for p in folder.iterdir() if p.suffix in _SUFFIXES and p.is_file())
    if not found:
        return f"pass a checkpoint file; none in it ends in {', '.join(_SUFFIXES)}"
    more = f" or one of {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"pass one file in it: {', '.join(found[:_NAMED])}{more}"
