"""Runs spread over worker processes; each result is handed over as soon as it is there."""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, cast

import joblib
import torch
from joblib.externals.loky import process_executor

from evenkeel.errors import NonFiniteWarning
from evenkeel.study._codec import encode
from evenkeel.study._samples import Samples

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterator, Sequence

    from evenkeel.study._data import Dataset


class Progress(Protocol):
    """What the caller is told after each finished run."""

    def __call__(self, done: int, total: int) -> None:
        """Take the number of finished runs and of all runs."""
        ...


def silent(done: int, total: int) -> None:
    """Report nothing."""


@dataclass(frozen=True, slots=True)
class Task:
    """One run to make: its name, the function that makes it, and its configuration."""

    key: str
    run: Callable[[Any, Samples], object]
    config: object


def execute(
    tasks: Sequence[Task], data: Dataset, *, device: str = "cpu", workers: int | None = None
) -> Generator[tuple[str, bytes]]:
    """Make all runs and yield name and encoded record of each, in the order they finish.

    Args:
        tasks: the runs; their functions have to be importable, workers look them up by name.
        data: what to train on; large arrays are shared with the workers as memory maps.
        device: where to train; anything else than the CPU is used by one process only.
        workers: processes; all cores by default, 1 runs in this process.

    Raises:
        KeyboardInterrupt: after the workers have been stopped.
    """
    if not tasks:
        return
    count = (workers or joblib.cpu_count()) if device == "cpu" else 1
    pool = joblib.Parallel(
        n_jobs=min(count, len(tasks)), backend="loky", return_as="generator_unordered"
    )
    try:
        with _deaf_children():
            calls = (joblib.delayed(_make)(task, data, device, os.getpid()) for task in tasks)
            running = cast("Iterator[tuple[str, bytes]]", pool(calls))
        yield from running
    except (KeyboardInterrupt, GeneratorExit):
        _stop_workers()
        raise


def _make(task: Task, data: Dataset, device: str, parent: int) -> tuple[str, bytes]:
    _prepare_worker(parent)
    with isolated():
        made = task.run(task.config, Samples.load(data, device))
    return task.key, made if isinstance(made, bytes) else encode(made)


@functools.cache
def _prepare_worker(parent: int) -> None:
    """Let a worker live as long as its parent, and no longer.

    It would wait for work for minutes after the parent was killed. And loky takes a worker that
    grew by 300 MB, which JAX and Keras do at their import, for one that leaks memory.
    """
    if os.getpid() == parent:
        return
    setattr(process_executor, "_MAX_MEMORY_LEAK_SIZE", sys.maxsize)  # noqa: B010 - no option

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        os._exit(1)  # nobody is left to hand a result to

    threading.Thread(target=watch, daemon=True).start()


@contextmanager
def isolated() -> Generator[None]:
    """Run on one thread, quietly, and leave torch's generator and settings as they were.

    Sums split over threads would round differently from machine to machine. A diverging run
    feeds NaN to batch norm; the record says so, a warning per layer need not.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore", NonFiniteWarning)
            yield
    finally:
        torch.set_num_threads(threads)


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
