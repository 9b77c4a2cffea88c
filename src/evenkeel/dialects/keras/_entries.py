"""The layers that the configuration in a file names, each with its place in the file."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenkeel.dialects.keras._kinds import KNOWN
from evenkeel.dialects.keras._shapes import Shape, output_shape, sources, stored_input_shape
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping


@dataclass(frozen=True, slots=True)
class Entry:
    """One layer.

    Args:
        path: names from the model down to the layer.
        group: of the layer in a file of Keras 3.
        class_name: Keras's, empty where somebody else wrote the class.
        config: of the layer, with its ``input_shape`` where it is known.
        trainable: neither the layer nor a model around it is frozen.
        flattened: shape (*S, C) of the picture that was flattened just before the layer.
    """

    path: tuple[str, ...]
    group: str
    class_name: str
    config: dict[str, Any]
    trainable: bool
    flattened: tuple[int, ...] | None = None

    @property
    def name(self) -> str:
        """The layer's name in its network."""
        return "/".join(self.path)


def read_entries(model: Mapping[str, Any]) -> tuple[Entry, ...]:
    """All layers of a model that Keras describes layer by layer; none of a subclassed model.

    Raises:
        InputError: the configuration has another form than Keras writes.
    """
    try:
        walk = _Walk()
        entries = tuple(walk.layers(model, (), "", None, trainable=True))
    except (KeyError, TypeError, AttributeError, IndexError, ValueError, RecursionError) as error:
        raise InputError(
            explain(
                asked="read the configuration of a Keras model",
                got=f"{type(error).__name__}: {error}",
                why="it has another form than Keras writes",
                do="save the model again with Keras, or pass the .weights.h5 file",
            )
        ) from error
    first = any(entry.config.get("data_format") == "channels_first" for entry in entries)
    for entry in entries:
        entry.config["channels_first"] = first
    return entries


def is_described(layer: Mapping[str, Any]) -> bool:
    """Whether the configuration lists the layers inside."""
    return bool(_inner(layer))


def snake_case(class_name: str) -> str:
    """Keras's own rule for the names of groups."""
    name = re.sub(r"\W+", "", class_name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()


class _Walk:
    """Follows shapes and flattened pictures from layer to layer."""

    def layers(
        self,
        model: Mapping[str, Any],
        path: tuple[str, ...],
        group: str,
        given: Shape | None,
        *,
        trainable: bool,
    ) -> Generator[Entry, None, Shape | None]:
        """The layers in the order of the file; returns the shape of the model's output."""
        counts: Counter[str] = Counter()
        shapes: dict[str, Shape | None] = {}
        flattened: dict[str, tuple[int, ...] | None] = {}
        before = ""
        for layer in _inner(model):
            class_name, config = str(layer["class_name"]), dict(layer.get("config") or {})
            name = str(layer.get("name") or config["name"])
            kind = snake_case(class_name)
            own = f"{kind}_{counts[kind]}" if counts[kind] else kind
            counts[kind] += 1
            came = (sources(layer) or [before])[0]
            shape = stored_input_shape(layer) or shapes.get(came, given)
            picture = _picture(class_name, config, shape, flattened.get(came))
            flattened[name] = picture
            before = name
            entry = Entry(
                path=(*path, name),
                group=f"{group}layers/{own}",
                class_name=_known(layer),
                config=config | {"input_shape": shape, "class": class_name},
                trainable=trainable and bool(config.get("trainable", True)),
                flattened=flattened.get(came) if class_name == "Dense" else None,
            )
            if is_described(layer):
                inside = self.layers(
                    layer, entry.path, f"{entry.group}/", shape, trainable=entry.trainable
                )
                shapes[name] = yield from inside
            else:
                yield entry
                shapes[name] = output_shape(class_name, config, shape)
        return shapes.get(_last(model, before))


def _picture(
    class_name: str,
    config: Mapping[str, Any],
    shape: Shape | None,
    before: tuple[int, ...] | None,
) -> tuple[int, ...] | None:
    """The picture whose rows a layer's output still has, channels last."""
    if class_name == "Flatten" and shape is not None and len(shape) > 2:
        known = tuple(size for size in shape[1:] if size is not None)
        last = config.get("data_format") != "channels_first"
        return known if last and len(known) == len(shape) - 1 else None
    passes = {"Dropout", "Activation", "ReLU", "LeakyReLU", "BatchNormalization", "GaussianNoise"}
    return before if class_name in passes else None


def _inner(layer: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The layers of a Functional or Sequential model."""
    config = layer.get("config")
    # The oldest Sequential models are a bare list.
    found = config if isinstance(config, list) else (config or {}).get("layers")
    if not isinstance(found, list):
        return []
    return [item for item in found if isinstance(item, dict) and "class_name" in item]


def _last(model: Mapping[str, Any], before: str) -> str:
    """The layer that gives the model's output; of a Sequential one the last."""
    config = model.get("config")
    outputs = config.get("output_layers") if isinstance(config, dict) else None
    while isinstance(outputs, list) and outputs:
        outputs = outputs[0]
    return outputs if isinstance(outputs, str) else before


def _known(layer: Mapping[str, Any]) -> str:
    """Keras's class or ours; a class of the user's may have the same name."""
    class_name = str(layer["class_name"])
    registered = str(layer.get("registered_name") or class_name)
    home = str(layer.get("module") or "keras")
    name = class_name.rpartition(">")[2]
    package = registered.rpartition(">")[0]
    if package not in {"", "evenkeel"} or not home.startswith(("keras", "tf_keras", "evenkeel")):
        return ""
    return name if name in KNOWN else ""
