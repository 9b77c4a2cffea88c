"""Looks into a running Linen model: which modules it has, and what goes in and out of them."""

from __future__ import annotations

import dataclasses
import functools
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, Self

from evenkeel.dialects.flax._kinds import cell_of, is_known
from evenkeel.dialects.flax._modes import require_inference, uses_running

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from evenkeel.dialects.flax._calls import Recorder


class Interceptor:
    """A context in which every method of a Linen module passes through :meth:`_call`.

    Dropout does nothing in it, and with ``double`` every module computes in float64. Without
    ``train`` a batch-norm layer that takes the moments of its batch is refused.

    Attributes:
        modules: that were called, by name, in the order of their first calls.
        running: batch-norm layers that used their running statistics.
        dropped: whether a dropout layer was skipped.
    """

    def __init__(
        self, recorder: Recorder | None = None, *, train: bool, double: bool = False
    ) -> None:
        self.modules: dict[str, Any] = {}
        self.running: frozenset[str] = frozenset()
        self.dropped = False
        self._recorder = recorder
        self._train = train
        self._double = double
        self._context: AbstractContextManager[Any] | None = None

    def __enter__(self) -> Self:
        from flax import linen

        self._context = linen.intercept_methods(self._call)
        self._context.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:  # noqa: PYI036 - as every context manager
        if self._context is not None:
            self._context.__exit__(*error)

    def _call(
        self,
        function: Callable[..., Any],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        context: Any,
    ) -> Any:
        from flax import linen

        module = context.module
        if context.method_name == "__call__":
            if isinstance(module, linen.Dropout):
                self.dropped = self.dropped or bool(module.rate)
                return args[0] if args else kwargs["inputs"]
            name = "/".join(module.path)
            self.modules.setdefault(name, module)
            if isinstance(module, linen.BatchNorm):
                self._see(module, name, args, kwargs)
            if self._recorder is not None and (is_known(module) or cell_of(module) is not None):
                function = functools.partial(self._recorded, module, function)
        with _in_float64(module) if self._double else _as_is():
            return function(*args, **kwargs)

    def _see(self, module: Any, name: str, args: Any, kwargs: Any) -> None:
        if not self._train:
            require_inference(module, args, kwargs, name)
        if uses_running(module, args, kwargs):
            self.running |= {name}

    def _recorded(
        self,
        module: Any,
        function: Callable[..., Any],
        *args: Any,
        **kwargs: Any,
    ) -> Any:
        from flax import linen

        recorder, name = self._recorder, "/".join(module.path)
        assert recorder is not None  # noqa: S101 - asked before
        if cell_of(module) is not None:
            return recorder.run_sequence(module, function, args, kwargs)
        if isinstance(module, linen.RNNCellBase):
            return recorder.run_cell(name, function, args, kwargs)
        axis = -1
        if isinstance(module, linen.BatchNorm):
            axis = module.axis
        return recorder.run(name, axis, function, args, kwargs)


@contextmanager
def _in_float64(module: Any) -> Generator[None]:
    """Replace the element types that are fixed in a module's fields for one call.

    Modules are frozen, and made anew by every call of the model. A recurrent layer asks its
    cell for the first carry before it calls it.
    """
    import jax.numpy as jnp

    cell = cell_of(module)
    modules = [module] if cell is None else [module, cell]
    old = [
        (each, name, dtype)
        for each in modules
        for name in {field.name for field in dataclasses.fields(each)} & {"dtype", "param_dtype"}
        if (dtype := getattr(each, name)) is not None and jnp.issubdtype(dtype, jnp.floating)
    ]
    try:
        for each, name, _ in old:
            object.__setattr__(each, name, jnp.float64)
        yield
    finally:
        for each, name, dtype in old:
            object.__setattr__(each, name, dtype)


@contextmanager
def _as_is() -> Generator[None]:
    yield
