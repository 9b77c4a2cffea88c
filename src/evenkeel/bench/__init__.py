"""The measured comparison: batch norm of every peer, beside the floor that memory sets."""

from evenkeel.bench._cases import DTYPES, LAYOUTS, MODES, SUITES, Case, Layout, cases
from evenkeel.bench._memory import Memory
from evenkeel.bench._networks import NETWORKS, Network
from evenkeel.bench._peers import PEERS, VARIANTS, Peer
from evenkeel.bench._records import (
    Record,
    Setting,
    StepRecord,
    append,
    latest,
    processor,
    read,
    record,
    setting,
    step_record,
)
from evenkeel.bench._session import Timing, measure, measure_steps, missing
from evenkeel.bench._summary import Ratio, ratios

__all__ = [
    "DTYPES",
    "LAYOUTS",
    "MODES",
    "NETWORKS",
    "PEERS",
    "SUITES",
    "VARIANTS",
    "Case",
    "Layout",
    "Memory",
    "Network",
    "Peer",
    "Ratio",
    "Record",
    "Setting",
    "StepRecord",
    "Timing",
    "append",
    "cases",
    "latest",
    "measure",
    "measure_steps",
    "missing",
    "processor",
    "ratios",
    "read",
    "record",
    "setting",
    "step_record",
]
