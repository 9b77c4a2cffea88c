"""Which framework a checkpoint belongs to, and which file a target path asks for."""

from __future__ import annotations

import importlib
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

from evenkeel import checkpoints
from evenkeel.errors import FileError, InputError, explain
from evenkeel.tools._convert._records import Framework

if TYPE_CHECKING:
    import os
    from collections.abc import Generator, Iterable
    from types import ModuleType

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.dialects._layers import Layer, StoredNetwork

#: Ending of a target -> kind of file, and the framework whose names it usually holds.
_ENDINGS: Final[dict[str, tuple[str, Framework | None]]] = {
    ".safetensors": ("safetensors", "torch"),
    ".pt": ("torch", "torch"),
    ".pth": ("torch", "torch"),
    ".keras": ("keras", "keras"),
    ".h5": ("hdf5", "keras"),
    ".msgpack": ("msgpack", "flax"),
    "": ("orbax", "flax"),
    ".onnx": ("onnx", "onnx"),
    ".npz": ("npz", None),
}
#: Kinds of files that hold a framework's names.
_HOLDS: Final[dict[Framework, tuple[str, ...]]] = {
    "torch": ("safetensors", "torch", "npz"),
    "keras": ("keras", "hdf5"),
    "flax": ("msgpack", "orbax", "npz", "safetensors"),
    "onnx": ("onnx",),
}
_OWNER: Final[dict[str, Framework]] = {
    "torch": "torch",
    "keras": "keras",
    "hdf5": "keras",
    "msgpack": "flax",
    "orbax": "flax",
    "onnx": "onnx",
}
#: Kinds that cannot be made from names and arrays alone, and how to make an example.
NEEDS_LIKE: Final = {
    "keras": 'build the model in Keras, model.save("like.keras"), and pass like="like.keras"',
    "hdf5": 'build the model in Keras, model.save_weights("like.weights.h5"), and pass that',
    "onnx": 'export the model with any weights, torch.onnx.export(model, args, "like.onnx"), '
    "and pass that as like",
}


@dataclass(frozen=True, slots=True)
class Target:
    """Where a conversion goes: path, kind of file, framework."""

    path: Path
    kind: str
    framework: Framework


@dataclass(frozen=True, slots=True)
class Like:
    """What ``like`` gives: layers with their names, and a file where the format needs one."""

    said: str
    layers: tuple[Layer, ...]
    checkpoint: Checkpoint | None


def framework_of(checkpoint: Checkpoint) -> Framework:
    """The framework whose names the file holds; .safetensors and .npz are told by the names."""
    if checkpoint.kind in _OWNER:
        return _OWNER[checkpoint.kind]
    return "flax" if _has_flax_names(checkpoint.arrays) else "torch"


def _has_flax_names(names: Iterable[str]) -> bool:
    last = [name.rpartition("/") for name in names]
    flax = {"kernel", "bias", "scale", "embedding", "mean", "var", "value", "count", "key"}
    return any(head for head, _, _ in last) and all(leaf in flax for _, _, leaf in last)


def dialect_of(framework: str) -> ModuleType:
    """The package of a framework; no framework is imported."""
    return importlib.import_module(f"evenkeel.dialects.{framework}")


def read_network(checkpoint: Checkpoint, kinds: dict[str, str] | None = None) -> StoredNetwork:
    """What the file's dialect understands of it."""
    dialect = dialect_of(framework_of(checkpoint))
    return (
        dialect.read_network(checkpoint, kinds=kinds) if kinds else dialect.read_network(checkpoint)
    )


def choose_target(path: str | os.PathLike[str], to: str | None, *, overwrite: bool) -> Target:
    """The kind of file and the framework that a target asks for.

    Raises:
        InputError: the ending or the framework is unknown, or they do not go together.
        FileError: the target exists and must not be replaced, or its folder does not.
    """
    place = Path(path)
    frameworks = get_args(Framework)
    if to is not None and to not in frameworks:
        why = f"known are {', '.join(frameworks)}"
        raise _refusal(place, f"to={to!r}", why, "pass one of these, or leave it out")
    suffix = "" if place.is_dir() else place.suffix.lower()
    if suffix not in _ENDINGS:
        known = ", ".join(filter(None, _ENDINGS))
        why = f"the ending decides the format of the target; known are {known}, and none (Orbax)"
        raise _refusal(place, f"a path that ends in {suffix}", why, "choose one of these endings")
    kind, usual = _ENDINGS[suffix]
    framework = cast("Framework | None", to) or usual
    if framework is None:
        why = "any framework's names can stand in such a file"
        raise _refusal(place, "no framework", why, "say which with to= (--to on the command line)")
    if kind not in _HOLDS[framework]:
        why = f"{framework} reads its weights from {', '.join(_HOLDS[framework])} files"
        raise _refusal(place, f"to={framework!r} with {suffix}", why, "change the one or the other")
    _check_place(place, overwrite=overwrite)
    return Target(place, kind, framework)


def _check_place(place: Path, *, overwrite: bool) -> None:
    if place.exists() and not overwrite:
        why = "it would be replaced"
        do = "choose another name, or allow it with overwrite=True (--force)"
        raise _refusal(place, "a target that exists", why, do, FileError)
    if not place.parent.is_dir():
        why = f"there is no folder {place.parent}"
        raise _refusal(place, "a target in no folder", why, "make the folder first", FileError)


@contextmanager
def open_like(like: object, target: Target) -> Generator[Like | None]:
    """Read the example that gives names and structure: a file, or a live model.

    Raises:
        InputError: it is of another framework, or missing where the format needs it.
        FileError: it cannot be read.
    """
    import os

    if like is None:
        if target.kind in NEEDS_LIKE:
            why = "names and structure of such a file cannot be made from arrays alone"
            raise _refusal(target.path, "no like", why, NEEDS_LIKE[target.kind])
        yield None
    elif isinstance(like, str | os.PathLike):
        yield _like_file(Path(cast("str", like)), target)
    else:
        with tempfile.TemporaryDirectory() as folder:
            yield _like_model(like, target, Path(folder))


def _like_file(path: Path, target: Target, said: str = "") -> Like:
    checkpoint = checkpoints.read(path)
    found = framework_of(checkpoint)
    if found != target.framework:
        why = f"it is a file of {found}, and the target is one of {target.framework}"
        do = f"pass a file that {target.framework} wrote, or change the target"
        raise _refusal(target.path, f"like={str(path)!r}", why, do)
    return Like(said or str(path), read_network(checkpoint).layers, checkpoint)


def _like_model(model: Any, target: Target, folder: Path) -> Like:  # noqa: ANN401 - the user's
    from evenkeel.dialects._open import open_network

    network = open_network(model)
    said = f"the model ({type(model).__name__})"
    found = network.framework.partition(" ")[0]
    try:
        if found != target.framework:
            why = f"it is a model of {found}, and the target is one of {target.framework}"
            raise _refusal(target.path, f"like={said}", why, f"pass one of {target.framework}")
        if target.kind in {"keras", "hdf5"}:
            path = folder / f"like{'.keras' if target.kind == 'keras' else '.weights.h5'}"
            model.save(path) if target.kind == "keras" else model.save_weights(path)
            return _like_file(path, target, said)
        if target.kind == "onnx":
            import onnx

            path = folder / "like.onnx"
            onnx.save(model, path)
            return _like_file(path, target, said)
        return Like(said, network.layers(), None)
    finally:
        network.close()


def _refusal(
    path: Path, got: str, why: str, do: str, kind: type[InputError] = InputError
) -> InputError:
    return kind(explain(asked=f"convert to {path}", got=got, why=why, do=do))
