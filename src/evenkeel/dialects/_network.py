"""A live network of any framework, as the verbs ``port`` and ``compare`` see it.

Everything that crosses this interface is NumPy, so that a network may as well live in another
process. Arrays of layers are in the canonical layout (:mod:`evenkeel.dialects._layers`);
features are channels last: (N, *S, C), and (N, C) or (N, T, C) as they are.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.dialects._layers import Layer, Values
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Spec


@dataclass(frozen=True, slots=True)
class Call:
    """One call of one layer. A shared layer has several calls; features are channels last."""

    layer: str
    input: NDArray[Any]
    output: NDArray[Any]


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened in inference mode: calls in execution order, and the network's output."""

    calls: tuple[Call, ...]
    output: NDArray[Any]


class Loss(Protocol):
    """A scalar function of the output, in NumPy, so that all frameworks share its rounding.

    It has to be picklable.
    """

    def __call__(self, output: NDArray[Any]) -> tuple[float, NDArray[Any]]:
        """The loss, and its gradient in ``output`` (same shape and dtype)."""
        ...


@dataclass(frozen=True, slots=True)
class Step:
    """One forward and backward pass in training mode, before any update of parameters.

    Args:
        loss: of this batch.
        output: of this batch, channels last.
        gradients: of every trained parameter, by layer and role, canonical layout.
        statistics: of every batch-norm layer after the pass, by layer and role
            (``running_mean``, ``running_var``, ``batches`` where counted, and others).
        remarks: what was done to make the pass repeatable, such as dropout switched off.
    """

    loss: float
    output: NDArray[Any]
    gradients: Values
    statistics: Values
    remarks: tuple[str, ...] = field(default=())


class Network(Protocol):
    """A live network; the object that the user passed in stays the same object."""

    #: ``"torch"``, ``"keras (tensorflow)"``, ``"keras (jax)"``, ``"keras (torch)"``,
    #: ``"flax (nnx)"``, ``"flax (linen)"``, ``"onnx"``.
    framework: str

    def layers(self) -> tuple[Layer, ...]:
        """All layers that hold arrays or are preprocessing, in the order of the model's code."""
        ...

    def canonical_inputs(self, inputs: NDArray[Any]) -> NDArray[Any]:
        """Inputs in the network's own layout as channels last; token numbers stay as they are.

        Raises:
            InputError: the network does not take such inputs (rank, number of channels).
        """
        ...

    def trace(self, inputs: NDArray[Any]) -> Trace:
        """Run in inference mode on channels-last inputs; nothing in the network changes."""
        ...

    def write(self, values: Values) -> None:
        """Write canonical arrays in place; the network's own dtypes stay.

        Raises:
            InputError: an unknown layer or role, or another shape; then nothing was written.
        """
        ...

    def configure(self, layer: str, spec: Spec) -> tuple[Unsayable, ...]:
        """Make a batch-norm layer mean what ``spec`` says: eps, momentum, variance convention.

        Arrays, axis, dtype and name of the layer stay. Returns what it cannot say; then nothing
        was changed.
        """
        ...

    def step(self, inputs: NDArray[Any], loss: Loss) -> Step:
        """One pass in training mode on channels-last inputs.

        The running statistics of the network are updated, parameters are not; gradients are
        not left behind. Dropout and other random layers are switched off for the pass.
        """
        ...

    def double(self) -> Network:
        """An independent copy of the same network that computes in float64."""
        ...

    def close(self) -> None:
        """Give back what the network holds beside the user's object (a process, a session)."""
        ...


def no_such_part(framework: str, asked: str, got: str) -> InputError:
    """The error for a layer or role that a network does not have."""
    return InputError(
        explain(
            asked=f"write {asked} of a model of {framework}",
            got=got,
            why="there is no such thing in it",
            do="use the names and roles of layers()",
        )
    )
