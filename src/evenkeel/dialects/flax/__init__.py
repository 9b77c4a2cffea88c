"""Flax's batch normalization as Spec and State, and whole Flax networks: NNX and Linen."""

from evenkeel.dialects.flax._batch_norm import is_batch_norm, read_module
from evenkeel.dialects.flax._build import build_module, unsayable
from evenkeel.dialects.flax._extension import register
from evenkeel.dialects.flax._files import read_network, write_network
from evenkeel.dialects.flax._open import open_network

__all__ = [
    "build_module",
    "is_batch_norm",
    "open_network",
    "read_module",
    "read_network",
    "register",
    "unsayable",
    "write_network",
]
