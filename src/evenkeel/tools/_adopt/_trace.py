"""The code of one module's own forward, as a graph in which its children are single nodes.

A trace takes for granted what Python decides while it runs: the mode, flags, the type of an
argument, random numbers. The mode and the type are settled by tracing once for each; flags are
written down with the graph; what cannot be settled makes the module untraceable.
"""

from __future__ import annotations

import inspect
import warnings
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import torch
from torch import fx, nn

from evenkeel.tools._adopt._draws import Draws
from evenkeel.tools._adopt._followed import in_place

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Generator

    from torch.fx.node import Argument, Node


class UntraceableError(Exception):
    """Why the code of a module cannot be known beforehand."""


def required_arguments(module: nn.Module) -> list[str]:
    """Names of the arguments that a call must give; the others have their defaults."""
    _, *parameters = inspect.signature(type(module).forward).parameters.values()
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise UntraceableError("its forward() takes any number of arguments")
    return [p.name for p in parameters if p.default is p.empty and p.kind is not p.VAR_KEYWORD]


def trace_own_code(
    module: nn.Module, inlined: Collection[nn.Module] = (), *, training: bool, tensors: bool
) -> fx.Graph:
    """Trace one module in one mode, for arguments that are tensors or anything else.

    Args:
        module: its forward runs with stand-ins.
        inlined: children whose code belongs to it.
        training: the mode.
        tensors: whether all arguments are tensors; otherwise none of them is.

    Raises:
        UntraceableError: the code depends on values, or changes or draws something.
    """
    tracer = _OwnCode(required_arguments(module), inlined, tensors=tensors)
    with _unchanged(module), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        vars(module)["training"] = training
        try:
            graph = tracer.trace(module)
        except Exception as error:
            lines = str(error).splitlines() or [type(error).__name__]
            raise UntraceableError(f"torch.fx cannot trace its forward(): {lines[0]}") from error
    for node in graph.nodes:
        node.type = None  # annotations may name what generated code does not import
    return graph


class _OwnCode(fx.Tracer):
    """A tracer that stays in one module's own code."""

    proxy_buffer_attributes = True

    def __init__(self, names: list[str], inlined: Collection[nn.Module], *, tensors: bool) -> None:
        super().__init__()
        self._names, self._inlined, self._tensors = names, inlined, tensors

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:  # noqa: ARG002 - torch's signature
        return m not in self._inlined

    def create_args_for_root(
        self,
        root_fn: Callable[..., Any],
        is_module: bool,  # noqa: ARG002, FBT001 - torch's signature
        concrete_args: Any = None,  # noqa: ANN401, ARG002 - likewise
    ) -> tuple[Any, list[Any]]:
        """Stand-ins for the required arguments alone; the others keep their defaults."""
        stand_ins = [self.create_proxy("placeholder", name, (), {}) for name in self._names]
        return root_fn, [self.root, *stand_ins]

    def proxy(self, node: Node) -> fx.Proxy:
        if self._tensors and node.op == "placeholder":
            return _TensorProxy(node, self)
        return _Proxy(node, self)

    def create_arg(self, a: Any) -> Argument:  # noqa: ANN401 - torch's signature
        # Before torch asks whether it is a tensor.
        return a.node if isinstance(a, fx.Proxy) else super().create_arg(a)


class _Proxy(fx.Proxy):
    """A stand-in that knows ``+=`` from ``+``, as torch's own does not."""


def _in_place_method(operation: str) -> Callable[[_Proxy, object], fx.Proxy]:
    def method(self: _Proxy, other: object) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", in_place, (operation, self, other), {})

    return method


_OPERATIONS: Final = "iadd isub imul itruediv ifloordiv imod ipow imatmul iand ior ixor"
for _operation in _OPERATIONS.split():
    setattr(_Proxy, f"__{_operation}__", _in_place_method(_operation))


class _TensorProxy(_Proxy):
    """A stand-in that says of itself that it is a tensor."""

    @property  # what isinstance() asks where the type itself does not answer
    def __class__(self) -> type:  # pyright: ignore[reportIncompatibleMethodOverride] - nobody sets it
        return torch.Tensor


@contextmanager
def _unchanged(module: nn.Module) -> Generator[None]:
    """Put attributes and random numbers back; a forward that touched them is no plain code."""
    attributes = dict(vars(module))
    tables = {key: dict(attributes[key]) for key in ("_parameters", "_buffers", "_modules")}
    identities, draws = _identities(module), Draws()
    try:
        yield
    finally:
        touched, drew = _identities(module) != identities, draws.happened()
        vars(module).clear()
        vars(module).update(attributes)
        for key, table in tables.items():
            attributes[key].clear()
            attributes[key].update(table)
        draws.undo()
    if touched:
        raise UntraceableError("its forward() changes attributes or makes tensors of its own")
    if drew:
        raise UntraceableError("its forward() draws random numbers outside of its layers")


def _identities(module: nn.Module) -> dict[str, int]:
    """Which objects a module holds; the mode, which the trace sets, does not count."""
    own = vars(module)
    held = {key: id(value) for key, value in own.items() if key != "training"}
    for key in ("_parameters", "_buffers", "_modules"):
        held |= {f"{key}.{name}": id(value) for name, value in own[key].items()}
    return held
