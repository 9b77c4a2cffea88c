"""The layers of a live Keras model: their names, kinds and variables."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import Layer
from evenkeel.dialects.keras._batch_norm import is_batch_norm, read_spec
from evenkeel.dialects.keras._kinds import KNOWN, Part, Weight, read_parts
from evenkeel.dialects.keras._variables import children, dtype_of, to_numpy, weights_by_name

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Layers whose inner layers make up one computation; they are not taken apart.
_WHOLE: Final = frozenset({"LSTM", "GRU", "SimpleRNN", "Bidirectional"})


@dataclass(frozen=True, slots=True)
class LiveLayer:
    """One layer of the model's own, which is one canonical layer, or several.

    Args:
        name: path of names in the model.
        layer: the Keras layer.
        class_name: Keras's class that says what it computes; empty where there is none.
        parts: canonical layers.
        variables: by place.
        constants: arrays that the layer holds as plain values, by place.
    """

    name: str
    layer: Any
    class_name: str
    parts: tuple[Part, ...]
    variables: dict[str, Any]
    constants: dict[str, Any] = field(default_factory=dict[str, Any])

    def as_layers(self) -> Iterator[Layer]:
        """The canonical layers; values are read when they are asked for."""
        for part in self.parts:
            yield Layer(
                name=self.name + part.suffix,
                kind=part.kind,
                arrays={weight.role: self.stored(weight) for weight in part.weights},
                settings=part.settings,
                spec=read_spec(self.layer, self.name) if part.kind == "batch_norm" else None,
                trainable=bool(self.layer.trainable),
            )

    def stored(self, weight: Weight) -> StoredArray:
        """One array in its canonical shape."""
        held = self.constants if weight.place in self.constants else self.variables
        value = held[weight.place]
        return StoredArray(
            weight.shape, dtype_of(value), lambda: to_numpy(value).reshape(weight.shape)
        )


def live_layers(model: Any) -> tuple[LiveLayer, ...]:
    """All layers of the model that hold arrays or are preprocessing, each once."""
    channels_first = computes_channels_first(model)
    found: list[LiveLayer] = []
    taken: Counter[str] = Counter()
    for path, layer in _walk(model, "", set()):
        class_name = known_class(layer)
        variables = weights_by_name(layer, inner=class_name in _WHOLE)
        if not variables and class_name not in {"Rescaling", "Normalization"}:
            continue
        taken[path] += 1
        name = path if taken[path] == 1 else f"{path}#{taken[path]}"
        found.append(_describe(name, layer, class_name, variables, channels_first))
    return tuple(found)


def known_class(layer: Any) -> str:
    """Keras's class that the layer computes as; empty for a forward pass of somebody else."""
    if is_batch_norm(layer):
        return "BatchNormalization"
    if getattr(layer, "quantization_mode", None) or getattr(layer, "lora_enabled", False):
        return ""
    for kind in type(layer).__mro__:
        if kind.__module__.startswith("keras.") and kind.__name__ in KNOWN:
            return kind.__name__ if type(layer).call is kind.call else ""
    return ""


def computes_channels_first(model: Any) -> bool:
    """Whether the layers that have a data format have channels first."""
    formats = [
        getattr(layer, "data_format", None) for _, layer in _walk(model, "", set(), inside=True)
    ]
    return next((known == "channels_first" for known in formats if known), False)


def _walk(
    layer: Any,
    path: str,
    seen: set[int],
    *,
    inside: bool = False,
) -> Iterator[tuple[str, Any]]:
    """Layers in the order of the model, with their paths; ``inside`` takes whole ones apart."""
    for _, child in children(layer):
        if id(child) in seen:
            continue
        seen.add(id(child))
        own = f"{path}/{child.name}" if path else child.name
        yield own, child
        if inside or known_class(child) not in _WHOLE:
            yield from _walk(child, own, seen, inside=inside)


def _describe(
    name: str,
    layer: Any,
    class_name: str,
    variables: dict[str, Any],
    channels_first: bool,  # noqa: FBT001 - private
) -> LiveLayer:
    constants = _constants(layer) if class_name == "Normalization" else {}
    shapes = {place: tuple(map(int, value.shape)) for place, value in variables.items()}
    shapes |= {place: value.shape for place, value in constants.items()}
    config: dict[str, Any] = {}
    if class_name:
        built = getattr(layer, "_build_shapes_dict", None) or {}
        config = layer.get_config() | {"channels_first": channels_first}
        config["input_shape"] = built.get("input_shape")
    parts = read_parts(class_name, config, shapes)
    if parts[0].kind == "other":
        parts[0].settings["class"] = type(layer).__name__
    return LiveLayer(name, layer, class_name, parts, variables, constants)


def _constants(layer: Any) -> dict[str, Any]:
    """Mean and variance that were given to the constructor, one number per channel."""
    if layer.input_mean is None or layer.mean is None:
        return {}
    values = {"mean": layer.mean, "variance": layer.variance}
    return {place: to_numpy(value).reshape(-1) for place, value in values.items()}
