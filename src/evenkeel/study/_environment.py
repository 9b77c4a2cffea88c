"""On what a study ran: versions that decide the numbers, and the machine without its name."""

from __future__ import annotations

import platform
from importlib.metadata import version

import joblib
import torch


def versions() -> dict[str, str]:
    """Return the versions of everything that can change a number."""
    import evenkeel

    names = ("torch", "numpy", "scikit-learn")
    return {
        "evenkeel": evenkeel.__version__,
        **{name: version(name) for name in names},
        "python": platform.python_version(),
    }


def machine() -> dict[str, str | int]:
    """Describe the machine by kind only: no host name, no user, no path."""
    return {
        "system": platform.system(),
        "architecture": platform.machine(),
        "cores": joblib.cpu_count(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
    }
