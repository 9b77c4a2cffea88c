"""The loop of a worker process: one request per line, each served in a fork with limits.

Answers go to the output in frames: 4 bytes of length and that many bytes, a frame of length 0,
and one line that says how the fork ended. Imports nothing of ours, so that a worker script can
load it by its path.
"""

from __future__ import annotations

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

#: Seconds without a request after which the process leaves.
_IDLE: Final = 20.0
_PIECE: Final = 1 << 20
#: Exit status of a fork whose answer is the text of a refusal.
_REFUSED: Final = 3


class RefusedError(Exception):
    """Something that is not read; the text says what."""


def serve(tasks: Mapping[str, Callable[[dict[str, Any]], Iterator[bytes]]]) -> None:
    """Serve requests until the input ends or nothing was asked for a while."""
    while select.select([0], [], [], _IDLE)[0]:
        line = sys.stdin.buffer.readline()
        if not line:
            return
        _serve_one(tasks, json.loads(line))


def _serve_one(
    tasks: Mapping[str, Callable[[dict[str, Any]], Iterator[bytes]]], request: dict[str, Any]
) -> None:
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        status = 1
        try:
            os.close(reading)
            status = _answer(tasks[request["task"]], request, writing)
        finally:
            os._exit(status)
    os.close(writing)
    while piece := os.read(reading, _PIECE):
        _write(1, len(piece).to_bytes(4, "little") + piece)
    os.close(reading)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    _write(1, bytes(4) + f"{status}\n".encode())


def _answer(
    task: Callable[[dict[str, Any]], Iterator[bytes]], request: dict[str, Any], pipe: int
) -> int:
    try:
        _limit(request)
        for piece in task(request):
            _write(pipe, piece)
    except Exception as error:  # noqa: BLE001 - whatever a damaged file brings about
        text = str(error) if isinstance(error, RefusedError) else f"{type(error).__name__}: {error}"
        _write(pipe, text[:500].encode(errors="replace"))
        return _REFUSED
    return 0


def _limit(request: dict[str, Any]) -> None:
    import resource

    signal.setitimer(signal.ITIMER_REAL, request["seconds"])
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    try:
        held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    except OSError:  # no Linux
        held = 1 << 30
    most = held + request["memory"]
    resource.setrlimit(resource.RLIMIT_AS, (most, most))


def _write(pipe: int, data: bytes) -> None:
    while data:
        data = data[os.write(pipe, data) :]
