"""The update rules that drive both sides of a comparison, in float64.

Keras's and torch's optimizers differ at equal settings (where epsilon is added, when the momentum
is scaled), so neither drives the other: one written rule drives both.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias

import numpy as np

from evenkeel.errors import InputError, explain
from evenkeel.reference import gradient_descent_step

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Values

Optimizer: TypeAlias = Literal["sgd", "adam"]
OPTIMIZERS: Final[tuple[Optimizer, ...]] = ("sgd", "adam")
#: Layer, role.
Key: TypeAlias = tuple[str, str]

_SGD_RATE: Final = 0.01
_SGD_MOMENTUM: Final = 0.9
_ADAM_RATE: Final = 0.001
_ADAM_BETAS: Final = (0.9, 0.999)
_ADAM_EPS: Final = 1e-8


@dataclass(slots=True)
class Updates:
    """One update rule and what it remembers of each parameter.

    ``"sgd"``: ``v <- 0.9 v + g``, ``p <- p - 0.01 v``. ``"adam"``: Algorithm 1 of Kingma and Ba
    (2015) with step size 0.001, decays 0.9 and 0.999, and epsilon 1e-8 outside the root.
    """

    rule: Optimizer
    steps: int = 0
    first: dict[Key, NDArray[Any]] = field(default_factory=dict[Key, "NDArray[Any]"])
    second: dict[Key, NDArray[Any]] = field(default_factory=dict[Key, "NDArray[Any]"])

    def apply(
        self, state: Values, gradients: Values, statistics: Values
    ) -> dict[str, dict[str, NDArray[Any]]]:
        """The state after one step: parameters by the rule, statistics as the pass left them."""
        self.steps += 1
        new = {name: {**arrays, **statistics.get(name, {})} for name, arrays in state.items()}
        for name, arrays in gradients.items():
            for role, gradient in arrays.items():
                new[name][role] = self._updated((name, role), state[name][role], gradient)
        return new

    def _updated(self, key: Key, parameter: NDArray[Any], gradient: NDArray[Any]) -> NDArray[Any]:
        parameter, gradient = parameter.astype(np.float64), gradient.astype(np.float64)
        if self.rule == "sgd":
            self.first[key] = _SGD_MOMENTUM * self.first.get(key, 0.0) + gradient
            return gradient_descent_step(parameter, self.first[key], _SGD_RATE)
        return gradient_descent_step(parameter, self._adam(key, gradient), _ADAM_RATE)

    def _adam(self, key: Key, gradient: NDArray[Any]) -> NDArray[Any]:
        one, two = _ADAM_BETAS
        self.first[key] = one * self.first.get(key, 0.0) + (1 - one) * gradient
        self.second[key] = two * self.second.get(key, 0.0) + (1 - two) * gradient**2
        mean = self.first[key] / (1 - one**self.steps)
        square = self.second[key] / (1 - two**self.steps)
        return mean / (np.sqrt(square) + _ADAM_EPS)


def checked_rules(optimizer: str | Sequence[str]) -> tuple[Optimizer, ...]:
    """The rules by name.

    Raises:
        InputError: one is unknown.
    """
    asked = (optimizer,) if isinstance(optimizer, str) else tuple(optimizer)
    rules: tuple[Optimizer, ...] = tuple(rule for rule in OPTIMIZERS if rule in asked)
    if not asked or len(rules) != len(asked):
        raise InputError(
            explain(
                asked="compare training steps",
                got=f"optimizer={optimizer!r}",
                why="one written update rule drives both networks",
                do='pass "sgd", "adam", or both as a tuple',
            )
        )
    return rules
