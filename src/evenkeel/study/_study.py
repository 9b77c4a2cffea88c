"""The study from end to end: check, train, reduce, write."""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

from evenkeel import kernels
from evenkeel.errors import InputError, explain
from evenkeel.report import render_html
from evenkeel.study._data import load_dataset
from evenkeel.study._environment import machine, versions
from evenkeel.study._execute import execute, silent
from evenkeel.study._output import FILES, SCHEMA, OutputFolder
from evenkeel.study._plan import Scale
from evenkeel.study._report import build_report
from evenkeel.study._training import train_network
from evenkeel.study.sections import select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Findings
    from evenkeel.study._data import Dataset
    from evenkeel.study._execute import Progress
    from evenkeel.study._plan import RunConfig
    from evenkeel.study._records import RunRecord
    from evenkeel.study.sections import Section

#: Repetitions of every run, in a full and in a quick study.
FULL_SEEDS: Final = 5
QUICK_SEEDS: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class StudySettings:
    """What the user asks for.

    Args:
        data: ``digits``, ``npz:FILE`` or ``idx:DIR``.
        quick: fewer rates, epochs and seeds.
        seeds: repetitions of every run; None for 5 (full) or 3 (quick).
        out: folder for the results.
        only: names of sections; empty for all.
        workers: processes that train; None for one per core. Never changes a number.
    """

    data: str = "digits"
    quick: bool = False
    seeds: int | None = None
    out: Path = Path("study")
    only: tuple[str, ...] = ()
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A finished study: the content of ``results.json`` and the findings by section."""

    out: Path
    files: tuple[Path, ...]
    results: dict[str, Any]
    findings: tuple[tuple[Section, Findings], ...]


def run_study(settings: StudySettings, progress: Progress = silent) -> Study:
    """Run the study and write ``results.json``, ``model.safetensors`` and ``report.html``.

    Everything that can be wrong with the request is checked before the first run. The files are
    written at the end; if the study stops early, for whatever reason, the folder is as before.

    Raises:
        InputError: unknown data kind or section, unusable data, fewer than one seed.
        FileError: unreadable data, a folder that cannot be written or holds something else.
        ProviderError: the requested kernel provider is unknown or cannot serve.
        KeyboardInterrupt: after the workers have been stopped.
    """
    scale, sections = settings.scale(), select(settings.only)
    kernels.select(torch.empty(0))  # a requested provider that cannot serve fails here, once
    data = load_dataset(settings.data)
    folder = OutputFolder.prepare(settings.out)
    try:
        study, contents = _measure(settings, scale, sections, data, progress)
        folder.write(contents)
    finally:
        folder.discard_if_new()
    return study


def _measure(
    settings: StudySettings,
    scale: Scale,
    sections: Sequence[Section],
    data: Dataset,
    progress: Progress,
) -> tuple[Study, dict[str, bytes]]:
    """Make all runs and return the study with the contents of its files."""
    started, clock = datetime.now(UTC), time.perf_counter()
    plans = [tuple(section.plan(scale)) for section in sections]
    tasks = [(s.run, config) for s, plan in zip(sections, plans, strict=True) for config in plan]
    records = execute(tasks, data, workers=settings.workers, progress=progress)
    contents: dict[str, bytes] = {}
    model = _best_network(records)
    if model is not None:
        [weights] = execute([(_weights, model.config)], data, workers=settings.workers)
        contents["model.safetensors"] = weights
    results: dict[str, Any] = {
        "schema": SCHEMA,
        "settings": {
            "data": data.info.source,
            "quick": scale.quick,
            "seeds": scale.seeds,
            "sections": [section.name for section in sections],
        },
        "versions": versions(),
        "data": asdict(data.info),
        "sections": {},
        "model": model and _model_entry(model, contents["model.safetensors"]),
        "machine": machine(),
    }
    findings: list[tuple[Section, Findings]] = []
    for section, plan in zip(sections, plans, strict=True):
        own, records = records[: len(plan)], records[len(plan) :]
        findings.append((section, section.reduce(own)))
        results["sections"][section.name] = _section_entry(section, own, findings[-1][1])
    results["timing"] = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "runs": len(tasks),
    }
    contents["results.json"] = _json(results)
    contents["report.html"] = render_html(build_report(findings, data, results)).encode()
    files = tuple(settings.out / name for name in FILES if name in contents)
    study = Study(out=settings.out, files=files, results=results, findings=tuple(findings))
    return study, contents


def _section_entry(
    section: Section, records: Sequence[RunRecord], findings: Findings
) -> dict[str, Any]:
    return {
        "title": section.title,
        "claim": section.claim,
        "method": section.method,
        "findings": asdict(findings),
        "runs": [asdict(record) for record in records],
    }


def _best_network(records: Sequence[RunRecord]) -> RunRecord | None:
    """Return the run with batch norm that ended with the highest test accuracy, if any trained."""
    trained = [r for r in records if r.config.batch_norm and r.outcome == "trained"]
    return max(trained, key=lambda record: record.final_accuracy, default=None)


def _model_entry(record: RunRecord, weights: bytes) -> dict[str, Any]:
    return {
        "file": "model.safetensors",
        "sha256": hashlib.sha256(weights).hexdigest(),
        "config": asdict(record.config),
        "final_accuracy": record.final_accuracy,
    }


def _weights(config: RunConfig, data: Dataset) -> bytes:
    """Make a run once more, with the same numbers, and keep its network."""
    from safetensors.torch import save

    _, network = train_network(config, data)
    # One entry only: safetensors writes several in random order, and the bytes have to repeat.
    return save(network.state_dict(), metadata={"config": json.dumps(asdict(config))})


def _json(results: dict[str, Any]) -> bytes:
    """Write JSON that any reader takes: no NaN, no Infinity, UTF-8."""
    return json.dumps(results, allow_nan=False, ensure_ascii=False).encode()
