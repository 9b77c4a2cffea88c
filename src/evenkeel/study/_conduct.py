"""A study from the plan to the files: make the runs, reduce, judge, write."""

from __future__ import annotations

import contextlib
import hashlib
import json
import random
import time
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from evenkeel.report import Chapter, render_html
from evenkeel.study._codec import decode, key, plain
from evenkeel.study._environment import machine, versions
from evenkeel.study._execute import Task, execute
from evenkeel.study._output import FILES, SCHEMA
from evenkeel.study._plan import RunConfig
from evenkeel.study._records import RunRecord
from evenkeel.study._report import build_report
from evenkeel.study._resume import identity_of, open_store
from evenkeel.study._run import run_network

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from evenkeel.study._data import Dataset
    from evenkeel.study._execute import Progress
    from evenkeel.study._output import OutputFolder
    from evenkeel.study._plan import Scale
    from evenkeel.study._samples import Samples
    from evenkeel.study._store import Store
    from evenkeel.study.sections import Section

#: Name of the file with the trained network.
_MODEL: Final = "model.safetensors"


@dataclass(frozen=True, slots=True)
class Request:
    """A study that has been checked and can be made."""

    sections: Sequence[Section[Any, Any]]
    scale: Scale
    data: Dataset
    folder: OutputFolder
    device: str
    resume: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A finished study: the content of ``results.json`` and its chapters."""

    out: Path
    files: tuple[Path, ...]
    results: dict[str, Any]
    chapters: tuple[Chapter, ...]


def conduct(request: Request, *, workers: int | None, progress: Progress) -> Study:
    """Make the runs that are missing, then write the results."""
    started, clock = datetime.now(UTC), time.perf_counter()
    results = _frame(request)
    plans = {section.name: tuple(section.plan(request.scale)) for section in request.sections}
    tasks = _tasks(request.sections, plans)
    with contextlib.closing(
        open_store(request.folder.path, identity_of(results), tasks.keys(), resume=request.resume)
    ) as store:
        reused = len(tasks.keys() & store.finished().keys())
        _make_missing(request, tasks, store, workers, progress)
        records = _records(request.sections, plans, store.finished())
        contents = _model(request, records, store)
    chapters = tuple(_chapter(section, records[section.name]) for section in request.sections)
    results["sections"] = {c.name: _section_entry(c, records[c.name]) for c in chapters}
    results["model"] = _model_entry(records, contents)
    results["machine"] = machine()
    results["timing"] = {
        "started": started.isoformat(timespec="seconds"),
        "seconds": round(time.perf_counter() - clock, 1),
        "runs": len(tasks),
        "reused": reused,
    }
    contents["results.json"] = _json(results)
    contents["report.html"] = render_html(build_report(chapters, request.data, results)).encode()
    request.folder.write(contents)
    out = request.folder.path
    files = tuple(out / name for name in FILES if name in contents)
    return Study(out=out, files=files, results=results, chapters=chapters)


def _frame(request: Request) -> dict[str, Any]:
    """Return the part of the results that is known before the first run."""
    return {
        "schema": SCHEMA,
        "settings": {
            "data": request.data.info.source,
            "quick": request.scale.quick,
            "seeds": list(request.scale.seeds),
            "sections": [section.name for section in request.sections],
            "device": request.device,
        },
        "versions": versions(),
        "data": asdict(request.data.info),
    }


_Plans = dict[str, tuple[RunConfig, ...]]
_Records = dict[str, list[Any]]


def _tasks(sections: Sequence[Section[Any, Any]], plans: _Plans) -> dict[str, Task]:
    """Return every run by name, in an order in which any part is like the whole.

    Runs differ in length by a factor of a hundred; shuffled, the time left can be foretold.
    """
    tasks = [
        Task(key(config), section.run, config)
        for section in sections
        for config in plans[section.name]
    ]
    random.Random(0).shuffle(tasks)  # noqa: S311 - an order, not a secret
    return {task.key: task for task in tasks}


def _make_missing(
    request: Request,
    tasks: Mapping[str, Task],
    store: Store,
    workers: int | None,
    progress: Progress,
) -> None:
    """Make every run that the store does not have, and keep each as soon as it is there."""
    finished = store.finished().keys()
    missing = [task for name, task in tasks.items() if name not in finished]
    done = len(tasks) - len(missing)
    progress(done, len(tasks))
    results = execute(missing, request.data, device=request.device, workers=workers)
    with contextlib.closing(results):
        for name, record in results:
            store.add(name, record)
            done += 1
            progress(done, len(tasks))


def _records(
    sections: Sequence[Section[Any, Any]], plans: _Plans, finished: Mapping[str, bytes]
) -> _Records:
    """Return the records of each section in the order of its plan."""
    return {
        section.name: [decode(finished[key(c)], section.record) for c in plans[section.name]]
        for section in sections
    }


def _chapter(section: Section[Any, Any], records: Sequence[Any]) -> Chapter:
    findings = section.reduce(records)
    return Chapter(
        name=section.name,
        title=section.title,
        claim=section.claim,
        method=section.method,
        rule=section.rule,
        verdict=section.judge({measure.name: measure for measure in findings.measures}),
        papers=section.papers,
        findings=findings,
    )


def _section_entry(chapter: Chapter, records: Sequence[Any]) -> dict[str, Any]:
    entry = asdict(chapter)
    del entry["name"]  # it is the key
    return entry | {"runs": [plain(record) for record in records]}


def _best_run(records: _Records) -> RunRecord | None:
    """Return the run of the default network that ended with the highest test accuracy, if any."""
    trained = [
        record
        for group in records.values()
        for record in group
        if isinstance(record, RunRecord)
        and type(record.config) is RunConfig
        and record.config.batch_norm
        and record.config.hidden == _DEFAULT.hidden
        and record.outcome == "trained"
    ]
    return max(trained, key=lambda record: record.final_accuracy, default=None)


_DEFAULT: Final = RunConfig(section="", seed=0)


def _model(request: Request, records: _Records, store: Store) -> dict[str, bytes]:
    """Return the weights of the best run as a file; made once and kept like a run."""
    best = _best_run(records)
    if best is None:
        return {}
    name = f"{_MODEL} {key(best.config)}"
    finished = store.finished()
    if name not in finished:
        task = Task(name, _weights, best.config)
        [(_, weights)] = execute([task], request.data, device=request.device, workers=1)
        store.add(name, weights)
        return {_MODEL: weights}
    return {_MODEL: finished[name]}


def _weights(config: RunConfig, samples: Samples) -> bytes:
    """Make a run once more, with the same numbers, and keep its network."""
    from safetensors.torch import save

    _, network = run_network(config, samples)
    weights = {name: tensor.cpu() for name, tensor in network.state_dict().items()}
    # One entry only: safetensors writes several in random order, and the bytes have to repeat.
    return save(weights, metadata={"config": json.dumps(plain(config))})


def _model_entry(records: _Records, contents: Mapping[str, bytes]) -> dict[str, Any] | None:
    best = _best_run(records)
    if best is None:
        return None
    return {
        "file": _MODEL,
        "sha256": hashlib.sha256(contents[_MODEL]).hexdigest(),
        "config": plain(best.config),
        "final_accuracy": best.final_accuracy,
    }


def _json(results: dict[str, Any]) -> bytes:
    """Write JSON that any reader takes: no NaN, no Infinity, UTF-8."""
    return json.dumps(results, allow_nan=False, ensure_ascii=False).encode()
