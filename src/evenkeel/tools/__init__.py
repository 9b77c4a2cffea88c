"""Verbs on live models and checkpoints; one private file each."""

from evenkeel.tools._inspect import inspect
from evenkeel.tools._inspect_records import Finding, Inspection, LayerRow, Range

__all__ = ["Finding", "Inspection", "LayerRow", "Range", "inspect"]
