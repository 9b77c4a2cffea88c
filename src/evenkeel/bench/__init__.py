"""The measured comparison: batch norm of every peer, beside the floor that memory sets."""

from evenkeel.bench._cases import DTYPES, LAYOUTS, MODES, SUITES, Case, cases
from evenkeel.bench._peers import PEERS, Peer
from evenkeel.bench._records import (
    Record,
    Setting,
    append,
    latest,
    processor,
    read,
    record,
    setting,
)
from evenkeel.bench._session import Timing, measure, missing
from evenkeel.bench._summary import Ratio, ratios

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "MODES",
    "PEERS",
    "SUITES",
    "Case",
    "Peer",
    "Ratio",
    "Record",
    "Setting",
    "Timing",
    "append",
    "cases",
    "latest",
    "measure",
    "missing",
    "processor",
    "ratios",
    "read",
    "record",
    "setting",
]
