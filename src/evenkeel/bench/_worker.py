"""The process of one peer: prepares cases and times them when it is told to.

Nothing heavy is imported before the environment is set: libraries read it when they are loaded.
"""

from __future__ import annotations

import importlib
import os
import sys
import time
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

from evenkeel.bench._memory import memory_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.connection import Connection

    from evenkeel.bench._cases import Case
    from evenkeel.bench._networks import Network
    from evenkeel.bench._peers import Peer

    Step: TypeAlias = Callable[[], float | None]

#: Steps before the first one that counts: allocators and compilers settle.
_WARM_UP = 3


def serve(pipe: Connection, peer: Peer, threads: int) -> None:
    """Answer requests until the other end goes away.

    ``("prepare", case)`` -> None, or the text of what went wrong. ``("time", seconds)`` -> the
    seconds of each step, as many as last that long. ``("memory", None)`` -> what a step of a
    network takes.
    """
    os.environ["OMP_NUM_THREADS"] = str(threads)
    os.environ.update({k: v.format(threads=threads) for k, v in peer.environment.items()})
    warnings.simplefilter("ignore")
    _be_quiet()
    step: Any = None
    while True:
        try:
            request, argument = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        if request == "prepare":
            step = None  # the tensors of the case before go first
            step, problem = _prepare(peer, argument)
            pipe.send(problem)
        elif step is not None:
            pipe.send(_turn(step, argument) if request == "time" else memory_of(step))


def _be_quiet() -> None:
    """Keep what frameworks print while they load out of the caller's table."""
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(nowhere.fileno(), stream.fileno())


def _prepare(peer: Peer, case: Case | Network) -> tuple[Any, str | None]:
    try:
        module: Any = importlib.import_module(f"evenkeel.bench._peers.{peer.module}")
        step: Step = module.prepare(case, peer.variant)
        for _ in range(_WARM_UP):
            step()
    except Exception as error:  # noqa: BLE001 - whatever a peer raises is its result
        lines = str(error).strip().splitlines() or ["(no message)"]
        return None, f"{type(error).__name__}: {lines[0][:200]}"
    return step, None


def _turn(step: Step, least: float) -> list[float]:
    """Steps until they have lasted ``least`` seconds, however fast the first ones were."""
    start = time.perf_counter()
    found: list[float] = []
    while not found or time.perf_counter() - start < least:
        found.append(_seconds(step))
    return found


def _seconds(step: Step) -> float:
    start = time.perf_counter()
    own = step()
    passed = time.perf_counter() - start
    return passed if own is None else own
