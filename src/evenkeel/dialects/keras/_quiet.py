"""Switches the random layers of a model off for one pass in training mode."""

from __future__ import annotations

import inspect
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from evenkeel.dialects.keras._batch_norm import is_batch_norm
from evenkeel.dialects.keras._patch import patched
from evenkeel.dialects.keras._variables import children

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator


@contextmanager
def quiet(model: Any) -> Generator[list[str]]:
    """Within, layers with random numbers compute as in inference; gives what was done."""
    remarks: list[str] = []
    with ExitStack() as stack:
        for layer in _random_layers(model):
            if any(map(is_batch_norm, _below(layer))):
                remarks.append(
                    f"{layer.name} draws random numbers and holds batch norm; it was left as it is"
                )
            elif "training" in inspect.signature(layer.call).parameters:
                stack.enter_context(patched(layer, "call", _in_inference(layer.call)))
                remarks.append(f"{layer.name} ({type(layer).__name__}) was switched off")
            else:
                remarks.append(f"{layer.name} draws random numbers and cannot be switched off")
        yield remarks


def _random_layers(model: Any) -> list[Any]:
    """Outermost layers that draw random numbers, other than the model."""
    found: dict[int, Any] = {}
    for _, child in children(model):
        if _is_random(child):
            found[id(child)] = child
        else:
            found |= {id(layer): layer for layer in _random_layers(child)}
    return list(found.values())


def _is_random(layer: Any) -> bool:
    import keras

    cell = getattr(layer, "cell", layer)
    rates = [getattr(cell, name, None) for name in ("dropout", "recurrent_dropout")]
    # Recurrent cells have a generator also where nothing is dropped; where something is, the
    # layer around the cell drops, too.
    return rates != [0, 0] and any(
        isinstance(value, keras.random.SeedGenerator) for value in vars(cell).values()
    )


def _below(layer: Any) -> Iterator[Any]:
    for _, child in children(layer):
        yield child
        yield from _below(child)


def _in_inference(call: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(call)

    def silent(*args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(*args, **kwargs)
        bound.arguments["training"] = False
        return call(*bound.args, **bound.kwargs)

    return silent
