"""Shapes between the layers of a configuration, where the file does not say them itself.

Keras 3 stores the input shape of every layer (``build_config``, or beside its inputs); Keras 2
stores that of the model only. None stands for what is not known.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

Shape: TypeAlias = tuple[int | None, ...]


def stored_input_shape(layer: Mapping[str, Any]) -> Shape | None:
    """What the file says about the input of a layer."""
    config = layer.get("config") or {}
    built = (layer.get("build_config") or {}).get("input_shape")
    given = config.get("batch_input_shape") or config.get("batch_shape")
    shape = built or given or _beside_inputs(layer.get("inbound_nodes"))
    if isinstance(shape, list) and shape and isinstance(shape[0], list):
        shape = shape[0]
    if not isinstance(shape, list | tuple) or not all(isinstance(n, int | None) for n in shape):
        return None
    return tuple(shape)


def sources(layer: Mapping[str, Any]) -> list[str]:
    """Names of the layers whose outputs the layer gets in its first call."""
    nodes = layer.get("inbound_nodes") or []
    found: list[str] = []
    _collect_sources(nodes[0] if nodes else [], found)
    return found


def output_shape(class_name: str, config: Mapping[str, Any], shape: Shape | None) -> Shape | None:
    """Shape of what a layer gives for an input of ``shape``."""
    if shape is None or class_name == "InputLayer":
        return shape
    rule = _RULES.get(class_name)
    return rule(config, shape) if rule else (shape if class_name in _SAME else None)


def _beside_inputs(nodes: Any) -> Any:
    """The shape of the first Keras tensor among the arguments."""
    if isinstance(nodes, dict):
        if nodes.get("class_name") == "__keras_tensor__":
            return nodes["config"].get("shape")
        nodes = list(nodes.values())
    if isinstance(nodes, list):
        return next((found for item in nodes if (found := _beside_inputs(item))), None)
    return None


def _collect_sources(node: Any, found: list[str]) -> None:
    if isinstance(node, dict):
        history = (node.get("config") or {}).get("keras_history")
        if node.get("class_name") == "__keras_tensor__" and history:
            found.append(history[0])
        else:
            for item in node.values():
                _collect_sources(item, found)
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str) and isinstance(node[1], int):
            found.append(node[0])
        else:
            for item in node:
                _collect_sources(item, found)


def _channels_first(config: Mapping[str, Any]) -> bool:
    return config.get("data_format") == "channels_first"


def _spatial(
    config: Mapping[str, Any], shape: Shape, channels: int | None, each: Callable[..., int | None]
) -> Shape:
    first = _channels_first(config)
    sizes = shape[2:] if first else shape[1:-1]
    new = [None if size is None else each(size, axis) for axis, size in enumerate(sizes)]
    return (shape[0], channels, *new) if first else (shape[0], *new, channels)


def _at(value: Any, axis: int) -> Any:
    return value[axis] if isinstance(value, list | tuple) else value


def _window(config: Mapping[str, Any], shape: Shape) -> Shape:
    channels = shape[1] if _channels_first(config) else shape[-1]
    if "filters" in config:
        channels = config["filters"]
    elif channels is not None:
        channels *= config.get("depth_multiplier", 1)
    kernel = config.get("kernel_size", config.get("pool_size"))
    strides = config.get("strides") or kernel

    def each(size: int, axis: int) -> int:
        step, dilation = _at(strides, axis), _at(config.get("dilation_rate", 1), axis)
        if config.get("padding") != "valid":
            return math.ceil(size / step)
        return (size - (_at(kernel, axis) - 1) * dilation - 1) // step + 1

    return _spatial(config, shape, channels, each)


def _transposed(config: Mapping[str, Any], shape: Shape) -> Shape:
    def each(size: int, axis: int) -> int | None:
        kernel, step = _at(config["kernel_size"], axis), _at(config["strides"], axis)
        if config.get("output_padding") is not None:
            return None
        same = config.get("padding") == "same"
        return size * step if same else (size - 1) * step + max(kernel, step)

    return _spatial(config, shape, config["filters"], each)


def _padded(config: Mapping[str, Any], shape: Shape) -> Shape:
    padding = config["padding"]

    def each(size: int, axis: int) -> int:
        both = padding[axis] if isinstance(padding[0], list | tuple) else padding
        return size + sum(both)

    return _spatial(config, shape, shape[1] if _channels_first(config) else shape[-1], each)


def _upsampled(config: Mapping[str, Any], shape: Shape) -> Shape:
    def each(size: int, axis: int) -> int:
        return size * _at(config["size"], axis)

    return _spatial(config, shape, shape[1] if _channels_first(config) else shape[-1], each)


def _global(config: Mapping[str, Any], shape: Shape) -> Shape:
    channels = shape[1] if _channels_first(config) else shape[-1]
    return _spatial(config, shape, channels, _one) if config.get("keepdims") else (None, channels)


def _one(*_: int) -> int:
    return 1


def _flattened(_: Mapping[str, Any], shape: Shape) -> Shape:
    sizes = [size for size in shape[1:] if size is not None]
    return (shape[0], math.prod(sizes) if len(sizes) == len(shape) - 1 else None)


def _reshaped(config: Mapping[str, Any], shape: Shape) -> Shape:
    return (shape[0], *(None if size == -1 else size for size in config["target_shape"]))


def _recurrent(config: Mapping[str, Any], shape: Shape) -> Shape:
    inner: Mapping[str, Any] = (config.get("layer") or {}).get("config") or config
    units = inner.get("units")
    if "layer" in config and units is not None:
        merged = config.get("merge_mode", "concat")
        units = 2 * units if merged == "concat" else units
    return (*shape[:2], units) if inner.get("return_sequences") else (shape[0], units)


def _repeated(names: Sequence[str]) -> list[str]:
    return [f"{name}{rank}D" for name in names for rank in (1, 2, 3)]


_SAME: Final = frozenset(
    (
        *("Activation", "ActivityRegularization", "Add", "Average", "BatchNormalization"),
        *("Dropout", "ELU", "GaussianDropout", "GaussianNoise", "GroupNormalization"),
        *("LayerNormalization", "LeakyReLU", "Masking", "Maximum", "Minimum", "Multiply"),
        *("Normalization", "PReLU", "ReLU", "Rescaling", "Softmax", "Subtract"),
        *("SpatialDropout1D", "SpatialDropout2D", "SpatialDropout3D", "ThresholdedReLU"),
    )
)
_RULES: Final[dict[str, Callable[[Mapping[str, Any], Shape], Shape]]] = {
    **dict.fromkeys(_repeated(["Conv", "DepthwiseConv", "SeparableConv"]), _window),
    **dict.fromkeys(_repeated(["MaxPooling", "AveragePooling"]), _window),
    **dict.fromkeys(("Conv1DTranspose", "Conv2DTranspose", "Conv3DTranspose"), _transposed),
    **dict.fromkeys(_repeated(["GlobalMaxPooling", "GlobalAveragePooling"]), _global),
    **dict.fromkeys(_repeated(["ZeroPadding"]), _padded),
    **dict.fromkeys(_repeated(["UpSampling"]), _upsampled),
    **dict.fromkeys(("LSTM", "GRU", "SimpleRNN", "Bidirectional"), _recurrent),
    "Flatten": _flattened,
    "Reshape": _reshaped,
    "Dense": lambda config, shape: (*shape[:-1], config["units"]),
    "Embedding": lambda config, shape: (*shape, config["output_dim"]),
}
