"""What ``PATH|MODULE:CALLABLE[@PATH]`` names: a network that can be run."""

from __future__ import annotations

from contextlib import redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from evenkeel.dialects._network import Network


@dataclass(frozen=True, slots=True)
class Side:
    """One network, with what is known of its inputs.

    ``shape`` has None where any size is taken; it is None as a whole where nothing is known.
    """

    said: str
    network: Network
    shape: tuple[int | None, ...] | None


def open_side(text: str, backend: str) -> Side:
    """Open the network, in a process of its own where it wants another Keras backend.

    Raises:
        InputError: it cannot be opened, or the weights do not fit.
        FileError: a file cannot be read.
    """
    import sys

    whole = Path(text).exists() or "@" not in text
    target, _, weights = (text, "", "") if whole else text.rpartition("@")
    # What the user's code prints must not mix with --json.
    with redirect_stdout(sys.stderr):
        network, shape = _open(target, backend)
    if weights:
        from evenkeel.tools._convert._load import load_weights

        try:
            load_weights(network, weights)
        except BaseException:
            network.close()
            raise
    return Side(text, network, shape)


def _open(target: str, backend: str) -> tuple[Network, tuple[int | None, ...] | None]:
    from evenkeel.dialects._open import open_network
    from evenkeel.dialects._remote import open_remote, open_target

    if Path(target).exists() or ":" not in target:
        shape = _shape_in_file(Path(target))
        return (open_remote(target, backend) if backend else open_target(target)), shape
    if backend:
        return open_remote(target, backend), None
    from evenkeel.cli._target import load_model

    model = load_model(target)
    shape: Any = getattr(model, "input_shape", None)
    return open_network(model), tuple(shape) if isinstance(shape, tuple) else None


def _shape_in_file(path: Path) -> tuple[int | None, ...] | None:
    """Shape of the only floating-point input of a file with an architecture."""
    from evenkeel import checkpoints

    checkpoint = checkpoints.read(path)
    if checkpoint.kind == "onnx":
        given = [
            item for item in checkpoint.config["inputs"] if item["name"] not in checkpoint.arrays
        ]
        if len(given) != 1 or "float" not in str(given[0]["dtype"]).lower():
            return None
        return _sizes(given[0]["shape"])
    if checkpoint.kind == "keras":
        return _keras_shape(checkpoint.config["model"])
    raise InputError(
        explain(
            asked=f"run the network in {path}",
            got=f"a file of weights ({checkpoint.kind})",
            why="it holds no architecture",
            do=f"name the function that builds the model: MODULE:CALLABLE@{path}",
        )
    )


def _keras_shape(model: dict[str, Any]) -> tuple[int | None, ...] | None:
    layers: list[dict[str, Any]] = model.get("config", {}).get("layers", [])
    inputs = [layer["config"] for layer in layers if layer.get("class_name") == "InputLayer"]
    if len(inputs) > 1:
        return None
    if inputs and "float" not in str(inputs[0].get("dtype", "float32")):
        return None
    built = (model.get("build_config") or {}).get("input_shape")
    return _sizes(inputs[0].get("batch_shape") if inputs else built)


def _sizes(shape: object) -> tuple[int | None, ...] | None:
    """A shape from a file; anything that is no number stands for any size."""
    if not isinstance(shape, list):
        return None
    sizes: list[Any] = [*shape]  # pyright: ignore[reportUnknownArgumentType, reportUnknownVariableType] - JSON
    return tuple(size if isinstance(size, int) and size > 0 else None for size in sizes)
