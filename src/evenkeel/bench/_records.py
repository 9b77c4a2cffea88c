"""Timings with all that decides them, as lines of a CSV file that only grows."""

from __future__ import annotations

import contextlib
import csv
import os
import platform
import re
import subprocess
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.bench._cases import Case
    from evenkeel.bench._memory import Memory
    from evenkeel.bench._networks import Network
    from evenkeel.bench._session import Timing

_PACKAGES: Final = (
    "torch",
    "torchvision",
    "keras",
    "tensorflow",
    "tensorflow-cpu",
    "jax",
    "flax",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Where and with what a session measured; the same in all its records."""

    date: str
    commit: str
    machine: str
    threads: int
    huge_pages: bool
    versions: str

    @property
    def run(self) -> tuple[str, ...]:
        """What has to be equal for two times to be compared."""
        return self.commit, self.machine, str(self.threads)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record(Setting):
    """One timing as it stands in the file; times in seconds, None where there is a problem."""

    suite: str
    shape: str
    activation: str
    residual: bool
    count: int
    layout: str
    dtype: str
    mode: str
    peer: str
    median: float | None
    p20: float | None
    p80: float | None
    steps: int
    problem: str

    @property
    def site(self) -> tuple[str, ...]:
        """What has to be equal for two peers to have done the same."""
        case = (self.suite, self.shape, self.activation, str(self.residual))
        return (*case, self.layout, self.dtype, self.mode)

    @property
    def group(self) -> tuple[str, ...]:
        """What a summary is made of."""
        return self.suite, self.layout, self.dtype, self.mode, str(self.huge_pages)

    @property
    def title(self) -> str:
        """A name for tables: shape, activation, and a plus after a residual."""
        activation = "" if self.activation == "identity" else f" {self.activation}"
        return f"{self.shape}{activation}{' +' if self.residual else ''}"


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRecord(Setting):
    """One training step of a whole network as it stands in the file; memory in bytes."""

    network: str
    batch: int
    pixels: int
    layout: str
    peer: str
    median: float | None
    p20: float | None
    p80: float | None
    steps: int
    peak: int | None
    rest: int | None
    source: str
    saved: int | None
    problem: str

    @property
    def site(self) -> tuple[str, ...]:
        """What has to be equal for two peers to have done the same."""
        return self.network, str(self.batch), str(self.pixels), self.layout

    @property
    def group(self) -> tuple[str, ...]:
        """One table's lines."""
        return (*self.site, str(self.huge_pages))

    @property
    def own(self) -> int | None:
        """Most that the step itself had resident, in bytes."""
        return None if self.peak is None or self.rest is None else self.peak - self.rest


_Line = TypeVar("_Line", Record, StepRecord)
#: From the text of a cell, by the annotation of its field.
_PARSERS: Final[dict[str, Callable[[str], Any]]] = {
    "str": str,
    "int": int,
    "bool": lambda cell: cell == "True",
    "int | None": lambda cell: int(cell) if cell else None,
    "float | None": lambda cell: float(cell) if cell else None,
}


def setting(*, threads: int, huge_pages: bool) -> Setting:
    """The present machine by kind, versions, commit and time."""
    import evenkeel

    found = [f"{name} {v}" for name in _PACKAGES if (v := _version(name))]
    return Setting(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        commit=_commit(),
        machine=f"{processor()}, {os.cpu_count()} cores",
        threads=threads,
        huge_pages=huge_pages,
        versions="; ".join([f"evenkeel {evenkeel.__version__}", *found]),
    )


def processor() -> str:
    """Model name of the processor; no host name."""
    with contextlib.suppress(OSError):
        named = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
        if named:
            return named[1]
    return platform.processor() or platform.machine()


def record(timing: Timing[Case], where: Setting) -> Record:
    """A timing as a line."""
    case = timing.case
    return Record(
        **_values(where, Setting),
        suite=case.suite,
        shape="x".join(map(str, case.shape)),
        activation=case.activation,
        residual=case.residual,
        count=case.count,
        layout=case.layout,
        dtype=case.dtype,
        mode=case.mode,
        peer=timing.peer,
        median=timing.median,
        p20=timing.p20,
        p80=timing.p80,
        steps=timing.steps,
        problem=timing.problem,
    )


def step_record(timing: Timing[Network], memory: Memory | None, where: Setting) -> StepRecord:
    """A timing of a whole network as a line."""
    return StepRecord(
        **_values(where, Setting),
        network=timing.case.name,
        batch=timing.case.batch,
        pixels=timing.case.pixels,
        layout=timing.case.layout,
        peer=timing.peer,
        median=timing.median,
        p20=timing.p20,
        p80=timing.p80,
        steps=timing.steps,
        peak=memory.peak if memory else None,
        rest=memory.rest if memory else None,
        source=memory.source if memory else "",
        saved=memory.saved if memory else None,
        problem=timing.problem,
    )


def _values(one: Setting, kind: type[Setting]) -> dict[str, Any]:
    return {name: getattr(one, name) for name in _columns(kind)}


def _columns(kind: type[Setting]) -> tuple[str, ...]:
    return tuple(field.name for field in fields(kind))


def append(path: Path, records: Sequence[Record] | Sequence[StepRecord]) -> None:
    """Add lines of one kind to a file, with a heading if it is new.

    Raises:
        FileError: the file is there and has other columns.
    """
    known = path.exists() and path.stat().st_size > 0
    columns = _columns(type(records[0]))
    if known:
        _require_columns(path, columns)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        if not known:
            writer.writerow(columns)
        writer.writerows([_cell(getattr(one, name)) for name in columns] for one in records)


def read(path: Path, kind: type[_Line] = Record) -> list[_Line]:
    """All records of a file, oldest first; ``kind`` is what it has been filled with.

    Raises:
        FileError: the file has other columns.
    """
    _require_columns(path, _columns(kind))
    parsers = {field.name: _PARSERS[str(field.type)] for field in fields(kind)}
    with path.open(newline="", encoding="utf-8") as file:
        return [
            kind(**{name: parsers[name](cell) for name, cell in row.items()})
            for row in csv.DictReader(file)
        ]


def latest(records: Sequence[_Line]) -> list[_Line]:
    """Of each group the last run, and of that the last record of each site and peer.

    A group is a network in one layout, dtype and mode (or of one batch), with or without huge
    pages; a run is what one commit did on one machine with so many threads. Records of two runs
    are never mixed.
    """
    last = {one.group: one.run for one in records}
    kept = (one for one in records if one.run == last[one.group])
    return list({(one.group, one.site, one.peer): one for one in kept}.values())


def _cell(value: object) -> str:
    if value is None:
        return ""
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _require_columns(path: Path, columns: tuple[str, ...]) -> None:
    with path.open(newline="", encoding="utf-8") as file:
        found = tuple(next(csv.reader(file), []))
    if found != columns:
        raise FileError(
            explain(
                asked=f"records of a benchmark in {path}",
                got=f"a file with columns {', '.join(found)[:200] or '(none)'}",
                why="lines are only added to a file that evenkeel bench has begun",
                do="name another file with --csv, or move this one away",
            )
        )


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return ""


def _commit() -> str:
    """The commit of the checkout that the package runs from; empty outside of one."""
    here = Path(__file__).parent
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        done = subprocess.run(  # noqa: S603 - fixed arguments
            command, cwd=here, capture_output=True, text=True, check=False, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
