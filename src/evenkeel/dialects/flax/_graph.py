"""The modules and variables of an NNX model, in the order in which its code made them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from evenkeel.dialects.flax._kinds import classify, is_known

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from evenkeel.dialects.flax._kinds import Known
    from evenkeel.dialects.flax._types import Module


@dataclass(frozen=True, slots=True)
class Found:
    """One layer of the model: the module, its own variables by path, and what it is."""

    name: str
    module: Any
    variables: dict[str, Any]
    known: Known


def find(model: Module) -> list[Found]:
    """All modules that hold variables, in the order of their definition."""
    seen: set[int] = set()
    found: list[Found] = []
    for path, module in _walk(model):
        # What a layer of Flax is made of has been seen with it, since it comes first.
        variables = {
            key: variable
            for key, variable in _own_variables(module, deep=is_known(module))
            if id(variable) not in seen
        }
        if variables:
            seen |= {id(variable) for variable in variables.values()}
            shapes = {key: tuple(variable.shape) for key, variable in variables.items()}
            found.append(Found("/".join(path), module, variables, classify(module, shapes)))
    return found


def _own_variables(module: Module, *, deep: bool) -> Iterator[tuple[str, Any]]:
    """Variables of a module without those of the modules in it, or, ``deep``, with them."""
    from flax import nnx

    for key, value in _attributes(module):
        if isinstance(value, nnx.Variable):
            if not isinstance(value, nnx.RngState):
                yield key, value
        elif isinstance(value, nnx.Module):
            if deep:
                yield from ((f"{key}/{k}", v) for k, v in _own_variables(value, deep=True))
        elif isinstance(value, list | tuple | dict):
            yield from ((f"{key}/{k}", v) for k, v in _own_variables(value, deep=deep))


def _walk(node: Module, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every module once, parents first, in the order in which attributes were set."""
    from flax import nnx

    seen: set[int] = set()

    def visit(node: Module, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any]]:
        if isinstance(node, nnx.Module):
            if id(node) in seen:
                return
            seen.add(id(node))
            yield path, node
        for key, value in _attributes(node):
            if isinstance(value, nnx.Module | list | tuple | dict):
                yield from visit(value, (*path, key))

    yield from visit(node, path)


def _attributes(node: Module) -> list[tuple[str, Any]]:
    if isinstance(node, list | tuple):
        return [(str(place), value) for place, value in enumerate(node)]
    entries: Mapping[Any, Any] = node if isinstance(node, dict) else vars(node)
    return [(str(k), v) for k, v in entries.items() if not str(k).startswith("_pytree__")]


def modules(model: Module) -> Iterator[Any]:
    return (module for _, module in _walk(model))


def variables(model: Module) -> Iterator[Any]:
    for found in find(model):
        yield from found.variables.values()
