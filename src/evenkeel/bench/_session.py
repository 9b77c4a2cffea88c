"""One measurement: every peer in its process, runs interleaved, round by round."""

from __future__ import annotations

import importlib.util
import os
import statistics
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from typing import TYPE_CHECKING, Any, Final, Generic, Protocol, TypeVar

from evenkeel.bench._worker import serve

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Mapping, Sequence
    from multiprocessing.connection import Connection
    from multiprocessing.process import BaseProcess

    from evenkeel.bench._cases import Case
    from evenkeel.bench._memory import Memory
    from evenkeel.bench._networks import Network
    from evenkeel.bench._peers import Peer

#: Seconds that the steps of one peer last at least, before the next one has its turn.
_TURN: Final = 0.02
#: Seconds after which a peer that does not answer is given up.
_PATIENCE: Final = 300.0
#: Makes glibc's allocator ask for huge pages.
_HUGE_PAGES: Final = "glibc.malloc.hugetlb=1"
#: Blocks of up to 32 MiB, the most that glibc allows here, are kept for the next step. Without this
#: the order of earlier blocks decides which of them go back to the system, from peer to peer.
_KEPT: Final = "glibc.malloc.mmap_threshold=33554432:glibc.malloc.trim_threshold=1099511627776"
_Case = TypeVar("_Case", "Case", "Network")


@dataclass(frozen=True, slots=True)
class Timing(Generic[_Case]):
    """What one peer took for one case, in seconds per step.

    ``median``, ``p20`` and ``p80`` are over the rounds; a round is the median of its steps.
    ``problem`` says why there is no time.
    """

    case: _Case
    peer: str
    median: float | None
    p20: float | None
    p80: float | None
    steps: int
    problem: str = ""


class Progress(Protocol):
    """What the caller is told after each case."""

    def __call__(self, done: int, total: int) -> None:
        """Take the number of finished cases and of all."""
        ...


def missing(peer: Peer) -> list[str]:
    """Packages that a peer needs and that are not installed."""
    return [name for name in peer.packages if importlib.util.find_spec(name) is None]


def measure(
    cases: Sequence[Case],
    peers: Sequence[Peer],
    *,
    threads: int,
    rounds: int,
    huge_pages: bool,
    progress: Progress,
) -> Iterator[Timing[Case]]:
    """Time all cases; yields as soon as a case is through.

    Args:
        cases: in the order in which they are taken.
        peers: each gets a process, alive over all cases; one that died is replaced for the next.
        threads: of every library that takes a number.
        rounds: turns of each peer for each case.
        huge_pages: give them to the memory allocator of every process (glibc on Linux).
        progress: told after each case.
    """
    tunables = f"{_KEPT}:{_HUGE_PAGES}" if huge_pages else _KEPT
    with _workers([_Worker(peer, threads, tunables) for peer in peers]) as workers:
        for number, case in enumerate(cases, start=1):
            yield from _measure_case(case, workers, rounds)
            progress(number, len(cases))


def measure_steps(
    networks: Sequence[Network],
    peers: Sequence[Peer],
    *,
    threads: int,
    rounds: int,
    huge_pages: bool,
    patience: float,
    progress: Progress,
) -> Iterator[tuple[Timing[Network], Memory | None]]:
    """Time whole training steps and look at their memory; yields when a network is through.

    Args:
        networks: each gets fresh processes, so that no memory is left over from another one.
        peers: some of :data:`VARIANTS`.
        threads: of torch.
        rounds: turns of each peer for each network.
        huge_pages: give them to the memory allocator of every process (glibc on Linux).
        patience: seconds after which a peer that does not answer is given up; compiling takes
            minutes.
        progress: told after each network.
    """
    tunables = _HUGE_PAGES if huge_pages else ""
    for number, network in enumerate(networks, start=1):
        fresh = [_Worker(peer, threads, tunables, patience) for peer in peers]
        with _workers(fresh) as workers:
            timings = list(_measure_case(network, workers, rounds))
            for timing, worker in zip(timings, workers, strict=True):
                memory = worker.memory()
                yield replace(timing, problem=worker.problem), memory
        progress(number, len(networks))


def _measure_case(case: _Case, workers: Sequence[_Worker], rounds: int) -> Iterator[Timing[_Case]]:
    for worker in workers:
        worker.prepare(case)
    for turn in range(rounds):
        # The order turns, so that nobody always runs in the wake of the same neighbour.
        shift = turn % len(workers)
        for worker in (*workers[shift:], *workers[:shift]):
            worker.take_turn()
    for worker in workers:
        if worker.problem:
            yield Timing(case, worker.peer.name, None, None, None, 0, worker.problem)
        else:
            low, middle, high = _quantiles(worker.rounds)
            yield Timing(case, worker.peer.name, middle, low, high, worker.steps)


def _quantiles(values: list[float]) -> tuple[float, float, float]:
    if len(values) == 1:
        return values[0], values[0], values[0]
    fifths = statistics.quantiles(values, n=5, method="inclusive")
    return fifths[0], statistics.median(values), fifths[3]


@dataclass(slots=True)
class _Worker:
    """One peer's process, and what it did for the present case."""

    peer: Peer
    threads: int
    tunables: str  # of glibc's allocator; other systems do not look at them
    patience: float = _PATIENCE
    process: BaseProcess = field(init=False)
    pipe: Connection = field(init=False)
    rounds: list[float] = field(default_factory=list[float])
    steps: int = 0
    problem: str = ""

    def start(self) -> None:
        """Begin a process; a fork would inherit what is loaded here, so it is a fresh one."""
        context = get_context("spawn")
        self.pipe, theirs = context.Pipe()
        arguments = (theirs, self.peer, self.threads)
        self.process = context.Process(target=serve, args=arguments, daemon=True)
        with _environment({"GLIBC_TUNABLES": self.tunables} if self.tunables else {}):
            self.process.start()
        theirs.close()

    def prepare(self, case: Case | Network) -> None:
        """Warm up; a dead process is replaced."""
        if not self.process.is_alive():
            self.pipe.close()
            self.start()
        self.rounds = []
        self.steps = 0
        self.problem = self._ask("prepare", case) or ""

    def take_turn(self) -> None:
        """One round."""
        if self.problem:
            return
        if seconds := self._ask("time", _TURN):
            self.rounds.append(statistics.median(seconds))
            self.steps += len(seconds)

    def memory(self) -> Memory | None:
        """What a step of the network takes; None where there is a problem."""
        return None if self.problem else self._ask("memory", None)

    def _ask(self, request: str, argument: object) -> Any:  # noqa: ANN401 - what the worker sends
        """The answer; None where there is none, and then :attr:`problem` says why."""
        try:
            self.pipe.send((request, argument))
            if self.pipe.poll(self.patience):
                return self.pipe.recv()
            self.problem = f"no answer in {self.patience:g} s"
            self.process.kill()
            self.process.join()
        except (EOFError, OSError):
            self.process.join(5)
            self.problem = f"its process ended with exit code {self.process.exitcode}"
        return self.problem if request == "prepare" else None


@contextmanager
def _environment(variables: Mapping[str, str]) -> Generator[None]:
    """Variables that a process has to find when it starts."""
    before = {name: os.environ.get(name) for name in variables}
    os.environ.update(variables)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _workers(workers: list[_Worker]) -> Generator[list[_Worker]]:
    """Start their processes, and end them."""
    started: list[_Worker] = []
    try:
        for worker in workers:
            worker.start()
            started.append(worker)
        yield workers
    finally:
        for worker in started:
            worker.pipe.close()
        for worker in started:
            worker.process.join(5)
            worker.process.kill()
