"""A live NNX model as a network.

Nothing is patched: a trace and a step run on a clone, whose layers belong to subclasses that
record their calls or, for dropout, do nothing.
"""

from __future__ import annotations

import functools
from contextvars import ContextVar
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.dialects._layers import Layer
from evenkeel.dialects._network import Step, Trace
from evenkeel.dialects.flax import _codec
from evenkeel.dialects.flax._arrays import (
    check_roles,
    only_array,
    stored_array,
    to_numpy,
    unknown_layer,
)
from evenkeel.dialects.flax._batch_norm import read_module
from evenkeel.dialects.flax._calls import Recorder
from evenkeel.dialects.flax._configure import configure
from evenkeel.dialects.flax._graph import Found, find, modules, variables
from evenkeel.dialects.flax._kinds import cell_of, is_known
from evenkeel.dialects.flax._modes import Modes, require_inference
from evenkeel.dialects.flax._run import check_double, check_inputs, computing, pull_back, to_jax

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Values
    from evenkeel.dialects._network import Loss
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.dialects.flax._types import JaxArray, Module
    from evenkeel.spec import Spec

_RECORDER: ContextVar[Recorder] = ContextVar("recorder")


class NnxNetwork:
    """A ``flax.nnx.Module``; see :class:`evenkeel.dialects._network.Network`."""

    framework = "flax (nnx)"

    def __init__(self, model: Module, modes: Modes, *, double: bool = False) -> None:
        self.model = model
        self._modes = modes
        self._double = double
        self._compiled: tuple[Any, Callable[..., Any]] | None = None

    def layers(self) -> tuple[Layer, ...]:
        frozen = self._frozen()
        return tuple(_layer(found, frozen=found.name in frozen) for found in find(self.model))

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        from flax import nnx

        graph, state = nnx.split(self._clone(train=False))
        arguments = self._modes.call(train=False)

        def forward(x: Any) -> Any:
            return nnx.merge(graph, state, copy=True)(x, **arguments)

        with computing(double=self._double):
            check_inputs(forward, to_jax(inputs, double=self._double), type(self.model))
        return inputs

    def trace(self, inputs: NDArray[Any]) -> Trace:
        import jax

        with computing(double=self._double):
            recorder, output = self._record(inputs)
            if recorder.hidden:
                # Without compilation every value is there to be read.
                with jax.disable_jit():
                    recorder, output = self._record(inputs)
            if self._double:
                check_double(output)
        return Trace(tuple(recorder.calls), to_numpy(output, "the output"))

    def write(self, values: Values) -> None:
        found = {layer.name: layer for layer in find(self.model)}
        with computing(double=self._double):
            new = [pair for name, roles in values.items() for pair in _news(found, name, roles)]
            for variable, array in new:
                variable.set_value(array)

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        found = {each.name: each for each in find(self.model)}
        if layer not in found or found[layer].known.kind != "batch_norm":
            raise unknown_layer(
                layer, [n for n, f in found.items() if f.known.kind == "batch_norm"]
            )
        return configure(found[layer].module, spec)

    def step(self, inputs: NDArray[Any], loss: Loss) -> Step:
        import jax.numpy as jnp
        from flax import nnx

        with computing(double=self._double):
            model = self._clone(train=True)
            graph, parameters, rest = nnx.split(model, nnx.Param, ...)
            x = to_jax(inputs, double=self._double)
            output, pull, updated = self._forward(graph)(parameters, rest, x)
            if self._double:
                check_double(output)
            answer = to_numpy(output, "the output")
            value, cotangent = loss(answer)
            (gradients,) = pull_back(pull, jnp.asarray(cotangent, output.dtype))
            nnx.update(model, gradients)
            slopes = {found.name: _gradients(found) for found in find(model)}
            nnx.update(self.model, updated)
        return Step(
            value,
            answer,
            {name: roles for name, roles in slopes.items() if roles},
            self._statistics(),
            _remarks(self.model),
        )

    def double(self) -> NnxNetwork:
        from flax import nnx

        with computing(double=True):
            model = nnx.clone(self.model)
            for variable in variables(model):
                if _is_floating(variable):
                    variable.set_value(variable.get_value().astype("float64"))
            for module in modules(model):
                _compute_in_float64(module)
        return NnxNetwork(model, self._modes, double=True)

    def close(self) -> None:
        """Nothing is held."""

    def _forward(self, graph: Any) -> Callable[..., Any]:
        """The compiled forward pass of a structure, kept until the structure changes."""
        import jax
        from flax import nnx

        if self._compiled is None or self._compiled[0] != graph:
            arguments = self._modes.call(train=True)

            def run(parameters: Any, rest: Any, x: JaxArray) -> Any:
                model = nnx.merge(graph, parameters, rest, copy=True)
                output = only_array(model(x, **arguments))
                return output, nnx.state(model, nnx.Not(nnx.Any(nnx.Param, nnx.RngState)))

            def forward(parameters: Any, rest: Any, x: JaxArray) -> Any:
                return jax.vjp(functools.partial(run, rest=rest, x=x), parameters, has_aux=True)

            self._compiled = (graph, jax.jit(forward))
        return self._compiled[1]

    def _record(self, inputs: NDArray[Any]) -> tuple[Recorder, Any]:
        model = self._clone(train=False, record=True)
        recorder = Recorder()
        token = _RECORDER.set(recorder)
        try:
            output = model(to_jax(inputs, double=self._double), **self._modes.call(train=False))
        finally:
            _RECORDER.reset(token)
        return recorder, only_array(output)

    def _frozen(self) -> frozenset[str]:
        """Batch-norm layers that are in inference mode while others train."""
        modes = {
            found.name: bool(found.module.use_running_average)
            for found in find(self.model)
            if found.known.kind == "batch_norm"
        }
        mixed = len(set(modes.values())) == 2
        return frozenset(name for name, running in modes.items() if mixed and running)

    def _clone(self, *, train: bool, record: bool = False) -> Any:
        from flax import nnx

        frozen = self._frozen()
        model = nnx.clone(self.model)
        model.train() if train else model.eval()
        for found in find(model):
            if found.name in frozen:
                found.module.use_running_average = True
            if record and is_known(found.module):
                _record_calls(found.module, found.name)
        for module in [*modules(model)]:
            if record and cell_of(module) is not None:
                _record_calls(module, "")
            if isinstance(module, nnx.Dropout):
                module.__class__ = _without_dropout()
        return model

    def _statistics(self) -> dict[str, dict[str, NDArray[Any]]]:
        trained = {"weight", "bias"}
        return {
            found.name: {
                role: array.read()
                for role, array in _codec.roles(found.known.codec, _stored(found)).items()
                if role not in trained
            }
            for found in find(self.model)
            if found.known.kind == "batch_norm"
        }


def _layer(found: Found, *, frozen: bool) -> Layer:
    from flax import nnx

    spec = None
    if found.known.kind == "batch_norm":
        spec, _ = read_module(found.module, found.name)
        options = {k: v for k, v in spec.options.items() if k != "use_running_average"}
        spec = replace(spec, options=options, statistics_frozen=frozen or spec.statistics_frozen)
    return Layer(
        found.name,
        found.known.kind,
        _codec.roles(found.known.codec, _stored(found)),
        found.known.settings,
        spec=spec,
        trainable=any(isinstance(each, nnx.Param) for each in found.variables.values()),
    )


def _stored(found: Found) -> dict[str, Any]:
    return {
        path: stored_array(variable.get_value(), _join(found.name, path))
        for path, variable in found.variables.items()
    }


def _news(
    found: Mapping[str, Found], name: str, roles: Mapping[str, NDArray[Any]]
) -> list[tuple[Any, Any]]:
    """Variables with their new values."""
    import jax.numpy as jnp

    if name not in found:
        raise unknown_layer(name, found)
    layer = found[name]
    own = _codec.roles(layer.known.codec, _stored(layer))
    arrays = {role: np.asarray(array) for role, array in roles.items()}
    check_roles(name, arrays, {role: array.shape for role, array in own.items()})
    return [
        (layer.variables[path], jnp.asarray(array, layer.variables[path].dtype))
        for path, array in _codec.parts(layer.known.codec, arrays).items()
    ]


def _gradients(found: Found) -> dict[str, NDArray[Any]]:
    from flax import nnx

    own = {
        path: to_numpy(variable.get_value(), _join(found.name, path))
        for path, variable in found.variables.items()
        if isinstance(variable, nnx.Param)
    }
    return _codec.gradients(found.known.codec, own)


def _is_floating(variable: Any) -> bool:
    """Whether the variable holds floating-point numbers."""
    import jax.numpy as jnp

    return bool(jnp.issubdtype(variable.dtype, jnp.floating))


def _compute_in_float64(module: Any) -> None:
    import jax.numpy as jnp

    for name in ("dtype", "param_dtype"):
        dtype = getattr(module, name, None)
        if dtype is not None and jnp.issubdtype(dtype, jnp.floating):
            setattr(module, name, jnp.float64)


def _record_calls(module: Any, name: str) -> None:
    module.__class__ = _recording(type(module))
    module.evenkeel_name = name


@functools.cache
def _recording(kind: type[Any]) -> type[Any]:
    """A subclass that records its calls under the name that the instance bears."""
    from flax import nnx

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        recorder, name = _RECORDER.get(), self.evenkeel_name
        function = functools.partial(kind.__call__, self)
        if cell_of(self) is not None:
            return recorder.run_sequence(self, function, args, kwargs)
        if hasattr(self, "initialize_carry"):
            return recorder.run_cell(name, function, args, kwargs)
        axis = -1
        if isinstance(self, nnx.BatchNorm):
            axis = self.axis
            require_inference(self, args, kwargs, name)
        return recorder.run(name, axis, function, args, kwargs)

    return type(kind.__name__, (kind,), {"__call__": call, "passes_for_base": True})


@functools.cache
def _without_dropout() -> type[Any]:
    from flax import nnx

    def call(self: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: ARG001 - the signature of the layer
        return inputs

    return type("Dropout", (nnx.Dropout,), {"__call__": call, "passes_for_base": True})


def _remarks(model: Any) -> tuple[str, ...]:
    from flax import nnx

    active = any(isinstance(module, nnx.Dropout) and module.rate for module in modules(model))
    return ("Dropout was switched off.",) if active else ()


def _join(name: str, path: str) -> str:
    return f"{name}/{path}" if name else path
