"""Fast paths and the choice among them: the contract, the dispatcher and the providers.

Importing this package loads no framework; a provider is loaded when it is first chosen.
"""

from evenkeel.kernels._contract import Moments, Norm, Problem, Provider, Sums
from evenkeel.kernels._dispatch import (
    Candidate,
    Explanation,
    choose,
    explain,
    load,
    providers,
    select,
    use,
)

__all__ = [
    "Candidate",
    "Explanation",
    "Moments",
    "Norm",
    "Problem",
    "Provider",
    "Sums",
    "choose",
    "explain",
    "load",
    "providers",
    "select",
    "use",
]
