"""What a batch-norm layer is, in no framework's words."""

from evenkeel.spec._activation import ACTIVATIONS, IDENTITY, Activation
from evenkeel.spec._momentum import Momentum
from evenkeel.spec._spec import Renorm, Spec
from evenkeel.spec._state import State
from evenkeel.spec._view import canonical_view, from_canonical

__all__ = [
    "ACTIVATIONS",
    "IDENTITY",
    "Activation",
    "Momentum",
    "Renorm",
    "Spec",
    "State",
    "canonical_view",
    "from_canonical",
]
