"""How a model is told whether it trains: by an argument or a field, under one of some names."""

from __future__ import annotations

import dataclasses
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Name of the argument -> its value in training.
MODES: Final = {
    "train": True,
    "training": True,
    "is_training": True,
    "use_running_average": False,
    "deterministic": False,
    "inference": False,
}


@dataclass(frozen=True, slots=True)
class Modes:
    """How one model is told to train, with the values in training.

    Args:
        arguments: of its ``__call__``.
        fields: of the module, a Linen one.
    """

    arguments: dict[str, bool]
    fields: dict[str, bool]

    def call(self, *, train: bool) -> dict[str, bool]:
        """The arguments of ``__call__`` for one of the two modes."""
        return {name: value == train for name, value in self.arguments.items()}

    def place(self, module: Any, *, train: bool) -> Any:
        """The Linen module, its fields set for one of the two modes."""
        fields = {name: value == train for name, value in self.fields.items()}
        return module.clone(**fields) if fields else module


def find_modes(model: Any, given: Mapping[str, bool]) -> Modes:
    """How a model is told to train.

    Args:
        model: an NNX or a Linen module.
        given: what the caller says; these replace the names that are known.

    Raises:
        InputError: neither ``__call__`` nor the module knows a given name.
    """
    parameters = inspect.signature(type(model).__call__).parameters
    anything = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in parameters.values())
    # A field that says nothing leaves the choice to the call.
    set_fields = {
        field.name
        for field in (dataclasses.fields(model) if dataclasses.is_dataclass(model) else ())
        if isinstance(getattr(model, field.name, None), bool)
    }
    unknown = [n for n in given if n not in parameters and n not in set_fields and not anything]
    if unknown:
        raise InputError(
            explain(
                asked=f"switch a {type(model).__qualname__} to training by {dict(given)}",
                got=f"__call__ with the arguments {[*parameters][1:]}",
                why=f"it takes no {', '.join(unknown)}",
                do="name the arguments of __call__ that choose the mode, with their values in "
                "training",
            )
        )
    chosen = given or {name: on for name, on in MODES.items() if name in {*parameters, *set_fields}}
    fields = {} if _is_layer(model) else {n: v for n, v in chosen.items() if n in set_fields}
    arguments = {n: v for n, v in chosen.items() if n not in set_fields}
    return Modes(arguments, fields)


def _is_layer(model: Any) -> bool:
    """Flax's own layer: a mode in its fields is part of what it is, such as frozen statistics."""
    return type(model).__module__.startswith("flax.")


def one_input(model: Any, modes: Mapping[str, bool]) -> None:
    """Refuse a model that needs several inputs.

    Raises:
        InputError: ``__call__`` has more than one argument that is neither a mode nor optional.
    """
    needed = [
        name
        for name, parameter in [*inspect.signature(type(model).__call__).parameters.items()][1:]
        if parameter.default is inspect.Parameter.empty
        and parameter.kind not in {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
        and name not in {*MODES, *modes}
    ]
    if len(needed) > 1:
        raise InputError(
            explain(
                asked=f"open a {type(model).__qualname__} as a network",
                got=f"__call__ with the inputs {', '.join(needed)}",
                why="a network here has one input array",
                do="wrap the model in one whose __call__ takes one array",
            )
        )


def uses_running(
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
) -> bool:
    """Whether a batch-norm layer that is called so normalizes with its running statistics."""
    told = kwargs.get("use_running_average", args[1] if len(args) > 1 else None)
    frozen = bool(getattr(layer, "frozen", False))
    return frozen or bool(layer.use_running_average if told is None else told)


def require_inference(
    layer: Any,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
) -> None:
    """Refuse a batch-norm layer that is called in training mode in a pass for inference.

    Raises:
        InputError: the layer would use the statistics of the batch.
    """
    if not uses_running(layer, args, kwargs):
        raise InputError(
            explain(
                asked="run a Flax model in inference mode",
                got=f"the batch-norm layer {name!r} in training mode",
                why="how this model is told to train or not is not known, or is fixed inside it",
                do="pass the argument of its __call__ with its value in training, as (model, "
                '{"train": True}) or (linen module, variables, {"train": True})',
            )
        )
