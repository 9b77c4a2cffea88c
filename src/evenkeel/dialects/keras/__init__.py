"""Keras's batch normalization and networks, on every backend of Keras 3; files of Keras 2, too."""

from evenkeel.dialects.keras._batch_norm import build_module, is_batch_norm, read_module
from evenkeel.dialects.keras._files import read_network, write_network
from evenkeel.dialects.keras._network import open_network
from evenkeel.dialects.keras._unsayable import unsayable

__all__ = [
    "build_module",
    "is_batch_norm",
    "open_network",
    "read_module",
    "read_network",
    "unsayable",
    "write_network",
]
