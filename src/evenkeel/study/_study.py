"""What a user asks of a study, and the checks before the first run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import torch

from evenkeel import kernels
from evenkeel.errors import InputError, explain
from evenkeel.study._conduct import Request, Study, conduct
from evenkeel.study._data import load_dataset
from evenkeel.study._execute import silent
from evenkeel.study._output import OutputFolder
from evenkeel.study._plan import Scale
from evenkeel.study.sections import select

if TYPE_CHECKING:
    from evenkeel.study._execute import Progress

#: Repetitions of every run, in a full and in a quick study.
FULL_SEEDS: Final = 5
QUICK_SEEDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """What the user asks for.

    Args:
        data: ``digits``, ``npz:FILE``, ``idx:DIR`` or ``folder:DIR``.
        quick: fewer settings, steps and seeds.
        seeds: repetitions of every run; None for 5 (full) or 3 (quick).
        out: folder for the results.
        only: names of sections; empty for all.
        resume: go on with the finished runs in ``out``.
        device: where to train, as torch names it; only the CPU promises the same numbers again.
        workers: processes that train; None for one per core. Never changes a number.
    """

    data: str = "digits"
    quick: bool = False
    seeds: int | None = None
    out: Path = Path("study")
    only: tuple[str, ...] = ()
    resume: bool = False
    device: str = "cpu"
    workers: int | None = None

    def scale(self) -> Scale:
        """Return the repetition numbers and the coarseness of the study.

        Raises:
            InputError: fewer than one seed.
        """
        seeds = self.seeds
        if seeds is None:
            seeds = QUICK_SEEDS if self.quick else FULL_SEEDS
        if seeds < 1:
            raise InputError(
                explain(
                    asked=f"--seeds {seeds}",
                    got=f"{seeds} repetitions of every run",
                    why="nothing would be trained",
                    do="use 1 for a first look, 3 or more to see a spread",
                )
            )
        return Scale(tuple(range(seeds)), self.quick)


def run_study(settings: StudySettings, progress: Progress = silent) -> Study:
    """Run the study and write ``results.json``, ``model.safetensors`` and ``report.html``.

    Everything that can be wrong with the request is checked before the first run. Each finished
    run is kept in ``runs.sqlite`` at once; the other files are written at the end. A study that
    stops early, for whatever reason, leaves earlier files as they were, and goes on with
    ``resume``.

    Raises:
        InputError: unknown data kind, section or device, unusable data, fewer than one seed.
        FileError: unreadable data, a folder that cannot be written, or that holds something else,
            another study, or an unfinished one without ``resume``.
        ProviderError: the requested kernel provider is unknown or cannot serve.
        KeyboardInterrupt: after the workers have been stopped.
    """
    scale, sections = settings.scale(), select(settings.only)
    check_device(settings.device)
    # A requested provider that cannot serve fails here, once.
    kernels.select(torch.empty(0, device=settings.device))
    data = load_dataset(settings.data)
    folder = OutputFolder.prepare(settings.out)
    try:
        return conduct(
            Request(sections, scale, data, folder, settings.device, settings.resume),
            workers=settings.workers,
            progress=progress,
        )
    finally:
        folder.discard_if_new()


def check_device(name: str) -> None:
    """Make sure that torch can put a tensor there.

    Raises:
        InputError: torch does not know the device or cannot use it.
    """
    try:
        torch.zeros(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            explain(
                asked=f"--device {name}",
                got=str(error).splitlines()[0],
                why="torch cannot compute there on this machine",
                do="leave --device out to train on the CPU",
            )
        ) from error
