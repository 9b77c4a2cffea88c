"""Checkpoint files as names and arrays, told apart by their content; knows no batch norm.

A new format is one file beside ``_safetensors.py``, with ``read`` and ``write``, and two lines:
its signature in ``_sniff.py`` and its name in ``_read.py``.
"""

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray
from evenkeel.checkpoints._read import read
from evenkeel.checkpoints._write import write

__all__ = ["Checkpoint", "StoredArray", "read", "write"]
