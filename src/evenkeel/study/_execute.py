"""Runs spread over worker processes, results in the order of the plan."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import joblib

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from evenkeel.study._data import Dataset
    from evenkeel.study._plan import RunConfig

ResultT = TypeVar("ResultT")


class Progress(Protocol):
    """What the caller is told after each finished run."""

    def __call__(self, done: int, total: int) -> None:
        """Take the number of finished runs and of all runs."""
        ...


def silent(done: int, total: int) -> None:
    """Report nothing."""


def execute(
    tasks: Sequence[tuple[Callable[[RunConfig, Dataset], ResultT], RunConfig]],
    data: Dataset,
    *,
    workers: int | None = None,
    progress: Progress = silent,
) -> list[ResultT]:
    """Make all runs and return their results, first task first.

    Args:
        tasks: functions that make a run, each with its configuration.
        data: what to train on; large arrays are shared with the workers as memory maps.
        workers: processes; all cores by default, 1 runs in this process.
        progress: called in this process after each result, in order.

    Raises:
        KeyboardInterrupt: after the workers have been stopped.
    """
    pool = joblib.Parallel(
        n_jobs=workers or joblib.cpu_count(), backend="loky", return_as="generator"
    )
    results: list[ResultT] = []
    progress(0, len(tasks))
    calls = (joblib.delayed(make)(config, data) for make, config in tasks)
    try:
        with _deaf_children():
            running = cast("Iterator[ResultT]", pool(calls))
        for result in running:
            results.append(result)
            progress(len(results), len(tasks))
    except KeyboardInterrupt:
        _stop_workers()
        raise
    return results


@contextmanager
def _deaf_children() -> Generator[None]:
    """Let processes started in here never see Ctrl-C: the parent gets it and stops them.

    A terminal sends it to all of them, and each would print a traceback of its own.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler, and only there Ctrl-C arrives
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # children inherit "ignored"
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _stop_workers() -> None:
    from joblib.externals.loky import get_reusable_executor

    get_reusable_executor().shutdown(wait=True, kill_workers=True)
