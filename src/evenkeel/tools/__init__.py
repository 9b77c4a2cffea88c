"""Verbs on live models and checkpoints; one private file each."""

from evenkeel.tools._adopt import adopt, release
from evenkeel.tools._adopt._records import (
    Adopted,
    Adoption,
    AdoptionProof,
    Measured,
    Release,
    Released,
)
from evenkeel.tools._compare import compare
from evenkeel.tools._compare._records import Cause, Comparison, ComparisonRow
from evenkeel.tools._convert import convert
from evenkeel.tools._convert._compare import ComparedArray, FileComparison, compare_files
from evenkeel.tools._convert._records import Conversion, Converted, LeftOut, Setting
from evenkeel.tools._inspect import inspect
from evenkeel.tools._inspect._counts import Count
from evenkeel.tools._inspect._records import Finding, Inspection, LayerRow, Range
from evenkeel.tools._port import port
from evenkeel.tools._port._records import Port, Proof, SettingDifference

__all__ = [
    "Adopted",
    "Adoption",
    "AdoptionProof",
    "Cause",
    "ComparedArray",
    "Comparison",
    "ComparisonRow",
    "Conversion",
    "Converted",
    "Count",
    "FileComparison",
    "Finding",
    "Inspection",
    "LayerRow",
    "LeftOut",
    "Measured",
    "Port",
    "Proof",
    "Range",
    "Release",
    "Released",
    "Setting",
    "SettingDifference",
    "adopt",
    "compare",
    "compare_files",
    "convert",
    "inspect",
    "port",
    "release",
]
