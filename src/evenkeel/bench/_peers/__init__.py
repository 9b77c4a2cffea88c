"""Who is timed: one module for each framework, imported in a process of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["PEERS", "VARIANTS", "Peer"]


@dataclass(frozen=True, slots=True)
class Peer:
    """One way to run a batch norm, or a network with many.

    Args:
        name: in tables.
        module: below ``evenkeel.bench._peers``, with ``prepare(case, variant)``, which returns a
            function that runs the case once, to its end.
        variant: which of the ways of the module.
        environment: set before the module is imported; ``{threads}`` is filled in.
        packages: what has to be installed.
    """

    name: str
    module: str
    variant: str
    packages: tuple[str, ...]
    environment: Mapping[str, str]


_XLA: Final = {
    "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=true intra_op_parallelism_threads={threads}",
    "JAX_PLATFORMS": "cpu",
}
_TENSORFLOW: Final = {
    "TF_NUM_INTRAOP_THREADS": "{threads}",
    "TF_NUM_INTEROP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
}

PEERS: Final = (
    Peer("evenkeel", "_evenkeel", "", ("torch",), {}),
    Peer("torch", "_torch", "eager", ("torch",), {}),
    Peer("compile", "_torch", "compiled", ("torch",), {}),
    Peer("keras-tf", "_tensorflow", "", ("keras", "tensorflow"), _TENSORFLOW),
    Peer("keras-jax", "_jax", "keras", ("keras", "jax"), {**_XLA, "KERAS_BACKEND": "jax"}),
    Peer("flax", "_jax", "flax", ("flax", "jax"), _XLA),
    Peer("floor", "_floor", "", ("torch",), {}),
)

#: Ways to run a training step of a whole network; torchvision has the definitions.
VARIANTS: Final = (
    Peer("torch", "_network", "eager", ("torch", "torchvision"), {}),
    Peer("compile", "_network", "compiled", ("torch", "torchvision"), {}),
    Peer("evenkeel", "_network", "adopted", ("torch", "torchvision"), {}),
    Peer("evenkeel-fused", "_network", "fused", ("torch", "torchvision"), {}),
)
