"""Checkpoint files as names and arrays, told apart by their content; knows no batch norm.

A new format is one file beside ``_safetensors.py`` and two lines: its signature in
``_sniff.py`` and its reader in ``_read.py``.
"""

from evenkeel.checkpoints._checkpoint import Checkpoint, StoredArray
from evenkeel.checkpoints._read import read

__all__ = ["Checkpoint", "StoredArray", "read"]
