"""A live Keras model behind the network interface, on every backend."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.dialects._network import Step, Trace
from evenkeel.dialects.keras._batch_norm import read_spec
from evenkeel.dialects.keras._double import double, double_precision
from evenkeel.dialects.keras._features import first_to_last, last_to_first
from evenkeel.dialects.keras._live import LiveLayer, computes_channels_first, live_layers
from evenkeel.dialects.keras._quiet import quiet
from evenkeel.dialects.keras._step import forward_and_backward
from evenkeel.dialects.keras._trace import record
from evenkeel.dialects.keras._unsayable import unsayable
from evenkeel.dialects.keras._variables import assign, to_numpy
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Generator

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.dialects._network import Loss
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Spec


def open_network(model: Any) -> KerasNetwork:
    """The network interface of a live Keras model.

    Args:
        model: Functional, Sequential or subclassed, built, with one input and one output.

    Raises:
        InputError: it has no arrays yet, or several inputs or outputs.
    """
    if not model.built:
        raise _refusal(model, "it was never called", "call it once on an example, or build it")
    for what in ("inputs", "outputs"):
        number = len(getattr(model, what, None) or [None])
        if number != 1:
            raise _refusal(
                model, f"it has {number} {what}", "wrap it in a model of one input and one output"
            )
    return KerasNetwork(model)


class KerasNetwork:
    """One Keras model; see :class:`evenkeel.dialects._network.Network`."""

    # Any here and below, because Keras has no types.
    def __init__(self, model: Any, *, is_double: bool = False) -> None:
        import keras

        self.model = model
        self.framework = f"keras ({keras.backend.backend()})"
        self._is_double = is_double
        self._channels_first = computes_channels_first(model)
        self._live = live_layers(model)
        self._compiled: dict[tuple[int, ...], Any] = {}

    def layers(self) -> tuple[Layer, ...]:
        """All layers that hold arrays or are preprocessing."""
        return tuple(layer for live in self._live for layer in live.as_layers())

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Inputs in the model's own layout as channels last."""
        inputs = np.asarray(inputs)
        wanted = self._input_shape()
        if wanted is not None and not _fits(inputs.shape, wanted):
            raise InputError(
                explain(
                    asked=f"run the model {self.model.name!r}",
                    got=f"inputs of shape {inputs.shape}",
                    why=f"it was built for {wanted}",
                    do="pass inputs as the model itself takes them",
                )
            )
        return first_to_last(inputs) if self._channels_first else inputs

    def trace(self, inputs: NDArray[Any]) -> Trace:
        """Run in inference mode; nothing in the model changes."""
        with self._numbers():
            calls: list[Any] = []
            with record(self._live, calls, channels_first=self._channels_first):
                output = self._call(inputs)
            return Trace(tuple(calls), self._output(output))

    def write(self, values: Values) -> None:
        """Write canonical arrays in place, all or none."""
        with self._numbers():
            targets = self._targets()
            plan = [
                (*_target(targets, name, role), np.asarray(value), name, role)
                for name, roles in values.items()
                for role, value in roles.items()
            ]
            for _, weight, value, name, role in plan:
                _require_shape(name, role, weight.shape, value.shape)
            for live, weight, value, _, _ in plan:
                _write_one(live, weight.place, value)

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        """Make a batch-norm layer mean eps, momentum and variance convention of ``spec``."""
        live = self._batch_norm(layer)
        now = read_spec(live.layer, layer)
        wanted = replace(
            now,
            eps=spec.eps,
            momentum=spec.momentum.as_weighing("old"),
            variance=spec.variance,
            average=spec.average,
        )
        kind = type(live.layer)
        found = unsayable(wanted, None, kind)
        ours = _our_class() if kind.__module__.startswith("keras.") else None
        if found and ours is not None:
            found = unsayable(wanted, None, ours)
            kind = ours
        found = tuple(item for item in found if item.effect != "none")
        if not found:
            _set(live.layer, wanted, kind)
            self._live = live_layers(self.model)
            self._forget_compiled()
        return found

    def step(self, inputs: NDArray[Any], loss: Loss) -> Step:
        """One pass in training mode; statistics move, parameters do not."""
        with self._numbers(), quiet(self.model) as remarks:
            own = self._own_layout(inputs)
            value, output, gradients = forward_and_backward(
                self.model, own, loss, self._output, self._raw_output, self._compiled
            )
            return Step(
                loss=value,
                output=output,
                gradients=self._by_role(gradients),
                statistics=self._statistics(),
                remarks=tuple(remarks),
            )

    def double(self) -> KerasNetwork:
        """An independent copy that computes in float64."""
        return KerasNetwork(double(self.model), is_double=True)

    def close(self) -> None:
        """Nothing is held beside the model."""

    @contextmanager
    def _numbers(self) -> Generator[None]:
        with ExitStack() as stack:
            if self._is_double:
                stack.enter_context(double_precision())
            yield

    def _input_shape(self) -> tuple[int | None, ...] | None:
        tensors = getattr(self.model, "inputs", None)
        return tuple(tensors[0].shape) if tensors else None

    def _own_layout(self, inputs: NDArray[Any]) -> NDArray[Any]:
        inputs = np.asarray(inputs)
        return last_to_first(inputs) if self._channels_first else inputs

    def _call(self, inputs: NDArray[Any]) -> Any:
        import keras

        own = keras.ops.convert_to_tensor(self._own_layout(inputs))
        if keras.backend.backend() == "torch":
            import torch

            with torch.no_grad():
                return self.model(own, training=False)
        return self.model(own, training=False)

    def _output(self, output: Any) -> NDArray[Any]:
        if isinstance(output, list | tuple | dict):
            raise _refusal(
                self.model, "it returns several outputs", "wrap it in a model of one output"
            )
        array = to_numpy(output)
        return first_to_last(array) if self._channels_first else array

    def _raw_output(self, cotangent: NDArray[Any]) -> NDArray[Any]:
        return last_to_first(cotangent) if self._channels_first else cotangent

    def _targets(self) -> dict[str, dict[str, tuple[LiveLayer, Any]]]:
        return {
            live.name + part.suffix: {weight.role: (live, weight) for weight in part.weights}
            for live in self._live
            for part in live.parts
        }

    def _by_role(self, gradients: dict[int, NDArray[Any]]) -> dict[str, dict[str, NDArray[Any]]]:
        """Gradients by layer and role from gradients by identity of the variable."""
        found: dict[str, dict[str, NDArray[Any]]] = {}
        for name, roles in self._targets().items():
            for role, (live, weight) in roles.items():
                gradient = gradients.get(id(live.variables.get(weight.place)))
                if gradient is not None:
                    found.setdefault(name, {})[role] = gradient.reshape(weight.shape)
        return found

    def _statistics(self) -> dict[str, dict[str, NDArray[Any]]]:
        return {
            live.name: {
                weight.role: live.stored(weight).read()
                for weight in live.parts[0].weights
                if weight.role not in {"weight", "bias"}
            }
            for live in self._live
            if live.parts[0].kind == "batch_norm"
        }

    def _batch_norm(self, name: str) -> LiveLayer:
        for live in self._live:
            if live.name == name and live.parts[0].kind == "batch_norm":
                return live
        raise InputError(
            explain(
                asked=f"configure the batch-norm layer {name!r}",
                got=f"a model without it: {self.model.name!r}",
                why="there is no such batch-norm layer",
                do="take the name from layers()",
            )
        )

    def _forget_compiled(self) -> None:
        """Compiled functions hold the old eps and momentum as constants."""
        self._compiled.clear()
        for name in ("train_function", "test_function", "predict_function"):
            setattr(self.model, name, None)


def _set(layer: Any, spec: Spec, kind: type[Any]) -> None:
    if kind is not type(layer):
        kind.evenkeel_take_over(layer)
    if hasattr(kind, "evenkeel_says"):
        layer.configure(momentum=spec.momentum.value, variance=spec.variance)
    else:
        layer.momentum = spec.momentum.value
    layer.epsilon = spec.eps


def _our_class() -> Any:
    import keras

    return keras.saving.get_registered_object("evenkeel>BatchNormalization")


def _target(
    targets: dict[str, dict[str, tuple[LiveLayer, Any]]], name: str, role: str
) -> tuple[LiveLayer, Any]:
    try:
        return targets[name][role]
    except KeyError:
        known = targets.get(name)
        raise InputError(
            explain(
                asked=f"write {role!r} of the layer {name!r}",
                got="a model without it",
                why=f"its layers are {sorted(targets)[:8]}"
                if known is None
                else f"the layer has {sorted(known)}",
                do="take names and roles from layers()",
            )
        ) from None


def _require_shape(name: str, role: str, wanted: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if wanted != shape:
        raise InputError(
            explain(
                asked=f"write {role!r} of the layer {name!r}",
                got=f"shape {shape}",
                why=f"the layer's own is {wanted} in the canonical layout",
                do="pass an array of that shape",
            )
        )


def _write_one(live: LiveLayer, place: str, value: NDArray[Any]) -> None:
    if place in live.constants:
        live.constants[place][...] = value
        layer = live.layer
        layer.input_mean = live.constants["mean"].tolist()
        layer.input_variance = live.constants["variance"].tolist()
        layer.build(layer.get_build_config()["input_shape"])
        return
    variable = live.variables[place]
    assign(variable, value.reshape(tuple(variable.shape)))
    if live.class_name == "Normalization":
        live.layer.finalize_state()


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    return len(shape) == len(wanted) and all(
        size is None or size == own for own, size in zip(shape, wanted, strict=True)
    )


def _refusal(model: Any, why: str, do: str) -> InputError:
    return InputError(
        explain(
            asked="open a Keras model as a network",
            got=f"{type(model).__name__} {getattr(model, 'name', '')!r}",
            why=why,
            do=do,
        )
    )
