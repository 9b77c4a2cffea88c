"""What memory a step takes: the peak of its process, and what waits for the backward pass."""

from __future__ import annotations

import contextlib
import ctypes
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

_PROCESS: Final = Path("/proc/self")


class SavesTensors(Protocol):
    """A step that can say what it keeps."""

    def __call__(self) -> None:
        """Run once."""
        ...

    def saved_bytes(self) -> int:
        """Bytes that the forward pass saves for the backward pass."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one step takes, in bytes; None where the system does not tell.

    Args:
        peak: most that was resident in the process, libraries and weights included.
        rest: what was resident before the step.
        source: ``VmHWM``, the peak of this step (Linux), or ``ru_maxrss``, that of the whole life
            of the process, compilation included.
        saved: what the forward pass saves for the backward pass, besides parameters and buffers.
    """

    peak: int | None
    rest: int | None
    source: str
    saved: int


def memory_of(step: SavesTensors) -> Memory:
    """Run a step, and once more its forward pass."""
    _return_free_pages()
    rest = _resident("VmRSS") if _reset_peak() else None
    step()
    peak, source = (
        (_lifetime_peak(), "ru_maxrss") if rest is None else (_resident("VmHWM"), "VmHWM")
    )
    return Memory(peak=peak, rest=rest, source=source, saved=step.saved_bytes())


def _return_free_pages() -> None:
    """Give back what the allocator holds for nobody, or it would count as in use (glibc)."""
    with contextlib.suppress(AttributeError, OSError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)


def _reset_peak() -> bool:
    """Let Linux forget the peak (proc(5), ``clear_refs``)."""
    try:
        (_PROCESS / "clear_refs").write_text("5")
    except OSError:
        return False
    return True


def _resident(name: str) -> int | None:
    found = re.search(rf"^{name}:\s+(\d+) kB", (_PROCESS / "status").read_text(), re.MULTILINE)
    return 1024 * int(found[1]) if found else None


def _lifetime_peak() -> int | None:
    try:
        import resource
    except ImportError:  # Windows
        return None
    unit = 1 if sys.platform == "darwin" else 1024
    return unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
