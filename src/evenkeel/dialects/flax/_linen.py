"""A live Linen model, a module and its variables, as a network.

A Linen module without its input does not say which layers it has: they are made while it runs.
Until the network has seen an input, layers are told by the names and shapes of the variables.
"""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeAlias

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
from evenkeel.dialects.flax._batch_norm import read_spec
from evenkeel.dialects.flax._calls import Recorder
from evenkeel.dialects.flax._configure import fixed_in_code
from evenkeel.dialects.flax._files import NOT_STORED, stored_spec
from evenkeel.dialects.flax._intercept import Interceptor
from evenkeel.dialects.flax._kinds import classify, is_known
from evenkeel.dialects.flax._names import guess
from evenkeel.dialects.flax._run import check_double, check_inputs, computing, pull_back, to_jax
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from evenkeel.checkpoints import StoredArray
    from evenkeel.dialects._layers import Values
    from evenkeel.dialects._network import Loss
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.dialects.flax._kinds import Known
    from evenkeel.dialects.flax._modes import Modes
    from evenkeel.dialects.flax._types import JaxArray, Module, Variables
    from evenkeel.spec import Spec

#: Collections whose arrays belong to layers.
_COLLECTIONS = ("params", "batch_stats")


#: Module (None while unknown), what it is, and paths of its arrays by their own names.
_Found: TypeAlias = "tuple[Any, Known, dict[str, Path]]"
Path: TypeAlias = tuple[str, ...]


class LinenNetwork:
    """A Linen module with its variables; see :class:`evenkeel.dialects._network.Network`.

    What changes is written into the nested dictionaries of ``variables``.
    """

    framework = "flax (linen)"

    def __init__(
        self,
        module: Module,
        variables: Variables,
        modes: Modes,
        *,
        double: bool = False,
    ) -> None:
        self.model = (module, variables)
        self._module = module
        self._variables = variables
        self._modes = modes
        self._double = double
        #: Modules by path, in the order of their calls, once an input was seen.
        self._seen: dict[str, Any] | None = None
        self._dropped = False
        self._compiled: Callable[..., Any] | None = None
        #: Batch-norm layers that use their running statistics in training.
        self._frozen: frozenset[str] = frozenset()

    def layers(self) -> tuple[Layer, ...]:
        return tuple(self._layer(name, *found) for name, found in self._find().items())

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        with computing(double=self._double):
            self._look(inputs)
        return inputs

    def trace(self, inputs: NDArray[Any]) -> Trace:
        import jax

        with computing(double=self._double):
            self._look(inputs)
            recorder, output = self._record(inputs)
            if recorder.hidden:
                # Without compilation every value is there to be read.
                with jax.disable_jit():
                    recorder, output = self._record(inputs)
            if self._double:
                check_double(output)
        return Trace(tuple(recorder.calls), to_numpy(output, "the output"))

    def write(self, values: Values) -> None:
        self._require_mutable()
        found = self._find()
        with computing(double=self._double):
            for path, array in [
                pair for name, roles in values.items() for pair in self._news(found, name, roles)
            ]:
                self._set(path, array)

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        """Nothing can be set, because Linen makes the layer anew in every call."""
        own = {each.name: each for each in self.layers() if each.kind == "batch_norm"}
        if layer not in own:
            raise unknown_layer(layer, own)
        return fixed_in_code(own[layer], spec)

    def step(self, inputs: NDArray[Any], loss: Loss) -> Step:
        import jax.numpy as jnp

        self._require_mutable()
        with computing(double=self._double):
            self._look(inputs, train=True)
            x = to_jax(inputs, double=self._double)
            others = {k: v for k, v in self._variables.items() if k != "params"}
            parameters = self._variables.get("params", {})
            with Interceptor(train=True, double=self._double):
                output, pull, updated = self._forward()(parameters, others, x)
            if self._double:
                check_double(output)
            answer = to_numpy(output, "the output")
            value, cotangent = loss(answer)
            (gradients,) = pull_back(pull, jnp.asarray(cotangent, output.dtype))
            for path, array in _flat(dict(updated)).items():
                self._set(path, array)
        remarks = ("Dropout was switched off.",) if self._dropped else ()
        return Step(value, answer, self._slopes(gradients), self._statistics(), remarks)

    def double(self) -> LinenNetwork:
        import jax
        import jax.numpy as jnp
        from flax.core import unfreeze

        def widen(array: Any) -> Any:
            floating = jnp.issubdtype(array.dtype, jnp.floating)
            return jnp.asarray(array, jnp.float64) if floating else jnp.asarray(array)

        with computing(double=True):
            variables = jax.tree.map(widen, unfreeze(self._variables))
        other = LinenNetwork(self._module, variables, self._modes, double=True)
        other._seen, other._frozen = self._seen, self._frozen
        return other

    def close(self) -> None:
        """Nothing is held."""

    def _apply(self, variables: Any, x: Any, *, train: bool) -> tuple[Any, Any]:
        module = self._modes.place(self._module, train=train)
        mutable = ["batch_stats"] if train and "batch_stats" in variables else []
        output, updated = module.apply(
            variables, x, mutable=mutable, **self._modes.call(train=train)
        )
        return only_array(output), updated

    def _forward(self) -> Callable[..., Any]:
        """The compiled forward pass in training."""
        import jax

        if self._compiled is None:

            def forward(parameters: Variables, others: Variables, x: JaxArray) -> Any:
                def run(parameters: Variables) -> Any:
                    return self._apply({"params": parameters, **others}, x, train=True)

                return jax.vjp(run, parameters, has_aux=True)

            self._compiled = jax.jit(forward)
        return self._compiled

    def _look(self, inputs: NDArray[Any], *, train: bool = False) -> None:
        """Find the modules by the shapes of an input, and refuse one that does not fit.

        A layer is described as it is in training, because in inference every batch-norm layer
        is told to use its running statistics, frozen or not.
        """
        for mode in dict.fromkeys((train, True)):
            with Interceptor(train=mode, double=self._double) as interceptor:
                try:
                    check_inputs(
                        functools.partial(self._output, train=mode),
                        to_jax(inputs, double=self._double),
                        type(self._module),
                    )
                except InputError:
                    # A model that cannot train here (an axis of pmap) can still be run.
                    if mode == train:
                        raise
                    continue
            self._seen, self._dropped = interceptor.modules, interceptor.dropped
            self._frozen = interceptor.running if mode else frozenset()

    def _output(self, x: Any, *, train: bool) -> Any:
        return self._apply(self._variables, x, train=train)[0]

    def _record(self, inputs: NDArray[Any]) -> tuple[Recorder, Any]:
        recorder = Recorder()
        with Interceptor(recorder, train=False, double=self._double):
            x = to_jax(inputs, double=self._double)
            output, _ = self._apply(self._variables, x, train=False)
        return recorder, output

    def _find(self) -> dict[str, _Found]:
        arrays = {
            path: array for path, array in _flat(self._variables).items() if path[0] in _COLLECTIONS
        }
        if self._seen is None:
            names = {path: "/".join(path[1:]) for path in arrays}
            shapes = {names[path]: tuple(array.shape) for path, array in arrays.items()}
            place = {name: path for path, name in names.items()}
            return {
                name: (None, known, {own: place[full] for own, full in parts.items()})
                for name, (known, parts) in guess(shapes, strict=True).items()
            }
        owners: dict[str, dict[str, Path]] = {name: {} for name in self._seen}
        for path in arrays:
            owner = self._owner(path[1:])
            own = "/".join(path[1:])[len(owner) :].lstrip("/")
            owners.setdefault(owner, {})[own] = path
        return {
            name: (self._seen.get(name), self._known(name, parts, arrays), parts)
            for name, parts in owners.items()
            if parts
        }

    def _owner(self, path: Path) -> str:
        """The layer of Flax above an array, else the module that holds the array itself."""
        assert self._seen is not None  # noqa: S101 - asked for only then
        for end in range(len(path)):
            module = self._seen.get("/".join(path[:end]))
            if module is not None and is_known(module):
                return "/".join(path[:end])
        return "/".join(path[:-1])

    def _known(self, name: str, parts: Mapping[str, Any], arrays: Mapping[Any, Any]) -> Known:
        assert self._seen is not None  # noqa: S101 - asked for only then
        shapes = {own: tuple(arrays[path].shape) for own, path in parts.items()}
        return classify(self._seen.get(name), shapes)

    def _layer(
        self,
        name: str,
        module: Module,
        known: Known,
        parts: Mapping[str, Path],
    ) -> Layer:
        own = self._stored(parts)
        spec, assumed = None, ()
        if known.kind == "batch_norm" and module is None:
            spec, assumed = stored_spec(name, own), NOT_STORED
        elif known.kind == "batch_norm":
            dtypes = {key: array.dtype for key, array in own.items()}
            spec = read_spec(module, name, dtypes, own["mean"].shape[0])
            # It says how this call was made.
            options = {k: v for k, v in spec.options.items() if k != "use_running_average"}
            spec = replace(spec, options=options, statistics_frozen=name in self._frozen)
        return Layer(
            name, known.kind, _codec.roles(known.codec, own), known.settings, spec, assumed
        )

    def _stored(self, parts: Mapping[str, Path]) -> dict[str, StoredArray]:
        arrays = _flat(self._variables)
        return {own: stored_array(arrays[path], "/".join(path)) for own, path in parts.items()}

    def _news(
        self,
        found: Mapping[str, _Found],
        name: str,
        roles: Mapping[str, NDArray[Any]],
    ) -> list[tuple[Path, NDArray[Any]]]:
        """Paths in the variables with their new values."""
        if name not in found:
            raise unknown_layer(name, found)
        _, known, parts = found[name]
        own = _codec.roles(known.codec, self._stored(parts))
        arrays = {role: np.asarray(array) for role, array in roles.items()}
        check_roles(name, arrays, {role: array.shape for role, array in own.items()})
        new = _codec.parts(known.codec, arrays)
        return [(parts[part], array) for part, array in new.items()]

    def _slopes(self, gradients: Any) -> dict[str, dict[str, NDArray[Any]]]:
        flat: dict[Path, Any] = {
            ("params", *path): array for path, array in _flat(gradients).items()
        }
        slopes = {
            name: _codec.gradients(
                known.codec,
                {own: to_numpy(flat[p], "/".join(p)) for own, p in parts.items() if p in flat},
            )
            for name, (_, known, parts) in self._find().items()
        }
        return {name: roles for name, roles in slopes.items() if roles}

    def _statistics(self) -> dict[str, dict[str, NDArray[Any]]]:
        return {
            layer.name: {
                role: array.read()
                for role, array in layer.arrays.items()
                if role not in {"weight", "bias"}
            }
            for layer in self.layers()
            if layer.kind == "batch_norm"
        }

    def _set(self, path: Sequence[str], array: Any) -> None:
        import jax.numpy as jnp

        *above, last = path
        holder = self._variables
        for key in above:
            holder = holder[key]
        holder[last] = jnp.asarray(array, holder[last].dtype)

    def _require_mutable(self) -> None:
        if not _mutable(self._variables):
            raise InputError(
                explain(
                    asked="change the variables of a Linen model",
                    got=f"a {type(self._variables).__qualname__}",
                    why="it cannot be changed in place",
                    do="pass flax.core.unfreeze(variables), and keep that dictionary",
                )
            )


def _flat(tree: Any, path: Path = ()) -> dict[Path, Any]:
    """Arrays of nested dictionaries by path, in their order."""
    from collections.abc import Mapping

    if not isinstance(tree, Mapping):
        return {path: tree}
    return {p: a for key, value in tree.items() for p, a in _flat(value, (*path, str(key))).items()}


def _mutable(tree: Any) -> bool:
    from collections.abc import Mapping

    if not isinstance(tree, Mapping):
        return True
    return isinstance(tree, dict) and all(map(_mutable, tree.values()))
