"""The law: batch normalization in NumPy, float64, two passes.

Every fast path of this package is judged by these functions, so they are written to be read
beside ``docs/math.md``. All work on the canonical view (N, C, S) of x, that is samples,
channels, and all other positions in one axis, with an optional mask bool (N, S), True = keep.
An input of ``numpy.longdouble`` stays longdouble, so that float64 results can be judged, too;
everything else is computed in float64.
"""

from evenkeel.reference._activations import activate, activation_gradient
from evenkeel.reference._backward import (
    Gradients,
    Sums,
    backward,
    backward_input,
    backward_reduce,
)
from evenkeel.reference._forward import forward, normalize, standardize
from evenkeel.reference._moments import Moments, merge, moments
from evenkeel.reference._parameters import fold, gradient_descent_step
from evenkeel.reference._running import Running, stored_variance, update_running

__all__ = [
    "Gradients",
    "Moments",
    "Running",
    "Sums",
    "activate",
    "activation_gradient",
    "backward",
    "backward_input",
    "backward_reduce",
    "fold",
    "forward",
    "gradient_descent_step",
    "merge",
    "moments",
    "normalize",
    "standardize",
    "stored_variance",
    "update_running",
]
