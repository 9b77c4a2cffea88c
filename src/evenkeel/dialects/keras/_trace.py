"""Records what every layer of a live Keras model got and gave."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from evenkeel.dialects._network import Call
from evenkeel.dialects.keras._features import axis_to_last
from evenkeel.dialects.keras._patch import patched
from evenkeel.dialects.keras._variables import to_numpy

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from evenkeel.dialects.keras._live import LiveLayer


@contextmanager
def record(
    layers: Sequence[LiveLayer], calls: list[Call], *, channels_first: bool
) -> Generator[None]:
    """Within, every call of one of the layers is appended to ``calls``.

    The output of a layer with a built-in activation is what the activation gets, because other
    frameworks write the activation as a layer of its own.
    """
    with ExitStack() as stack:
        for live in layers:
            watch = _Watch(live, calls, _axis(live, channels_first=channels_first))
            stack.enter_context(patched(live.layer, "call", watch.call))
            if watch.activation is not None:
                stack.enter_context(patched(live.layer, "activation", watch.activate))
        yield


def _axis(live: LiveLayer, *, channels_first: bool) -> int:
    """Where the channels of a layer's features are."""
    data_format = getattr(live.layer, "data_format", None)
    if data_format is not None:
        return 1 if data_format == "channels_first" else -1
    if live.class_name in {"BatchNormalization", "GroupNormalization"}:
        return int(live.layer.axis)
    if live.class_name in {"PReLU", "Normalization", "Rescaling", ""}:
        return 1 if channels_first else -1
    return -1


class _Watch:
    """The call of one layer, recorded."""

    def __init__(self, live: LiveLayer, calls: list[Call], axis: int) -> None:
        self.live, self.calls, self.axis = live, calls, axis
        self.inner: Callable[..., Any] = live.layer.call
        kinds = {part.kind for part in live.parts}
        has = kinds <= {"dense", "conv", "conv_transpose"}
        self.activation = getattr(live.layer, "activation", None) if has else None
        self.before: Any = None

    def activate(self, features: Any) -> Any:
        self.before = features
        return self.activation(features) if self.activation else features

    def call(self, *args: Any, **kwargs: Any) -> Any:
        self.before = None
        output = self.inner(*args, **kwargs)
        given = args[0] if args else next(iter(kwargs.values()))
        result = output if self.before is None else self.before
        if self.live.class_name == "Bidirectional":
            self._add_directions(args, kwargs, given)
        elif len(self.live.parts) == 2:
            between = self._depthwise(given)
            self._add(self.live.parts[0].suffix, given, between)
            self._add(self.live.parts[1].suffix, between, result)
        else:
            self._add("", given, result)
        return output

    def _add(self, suffix: str, given: Any, result: Any) -> None:
        name = self.live.name + suffix
        self.calls.append(Call(name, self._canonical(given), self._canonical(result)))

    def _canonical(self, features: Any) -> Any:
        while isinstance(features, list | tuple):
            features = features[0]
        return axis_to_last(to_numpy(features), self.axis)

    def _depthwise(self, given: Any) -> Any:
        import keras

        layer = self.live.layer
        return keras.ops.depthwise_conv(
            given,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            dilation_rate=layer.dilation_rate,
            data_format=layer.data_format,
        )

    def _add_directions(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        given: Any,
    ) -> None:
        """Both directions once more, since Keras fuses them; both in the order of time."""
        import keras

        layer = self.live.layer
        mask = kwargs.get("mask", args[2] if len(args) > 2 else None)
        forward = layer.forward_layer(given, mask=mask, training=False)
        backward = layer.backward_layer(given, mask=mask, training=False)
        if layer.return_state:
            forward, backward = forward[0], backward[0]
        if layer.return_sequences:
            backward = keras.ops.flip(backward, axis=1)
        self._add("/forward", given, forward)
        self._add("/backward", given, backward)
