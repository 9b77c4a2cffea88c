"""The activation that a fused layer applies after scale and shift."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from evenkeel.errors import InputError, explain

#: Name of every activation -> its default parameter (None: it has no parameter).
ACTIVATIONS: Final[dict[str, float | None]] = {
    "identity": None,
    "relu": None,
    "leaky_relu": 0.01,
    "relu6": None,
    "silu": None,
    "gelu": None,
    "hardswish": None,
    "elu": 1.0,
}


@dataclass(frozen=True, slots=True)
class Activation:
    """An elementwise activation: its name and its parameter, where it has one.

    The functions are those of eq. (12) in ``docs/math.md``; ``gelu`` is the exact form with
    the error function. The parameter of ``leaky_relu`` is the slope below 0, that of ``elu`` the
    distance alpha of its lower limit from 0.
    """

    name: str = "identity"
    parameter: float = 0.0

    @classmethod
    def parse(cls, value: str | tuple[str, float] | Activation | None) -> Activation:
        """Read ``None``, a name, or ``(name, parameter)``; refuse anything else.

        Raises:
            InputError: the name is unknown, or a parameter is given where none exists.
        """
        if isinstance(value, Activation):
            return value
        name, parameter = value if isinstance(value, tuple) else (value or "identity", None)
        if name not in ACTIVATIONS or (parameter is not None and ACTIVATIONS[name] is None):
            raise InputError(
                explain(
                    asked=f"activation={value!r} for a fused batch-norm layer",
                    got=f"name {name!r}, parameter {parameter!r}",
                    why=f"known are {', '.join(ACTIVATIONS)}; only leaky_relu and elu take a "
                    "parameter",
                    do='pass e.g. "relu" or ("leaky_relu", 0.1), or apply your own after the layer',
                )
            )
        default = ACTIVATIONS[name]
        return cls(name, float(parameter if parameter is not None else default or 0.0))


IDENTITY: Final = Activation()
