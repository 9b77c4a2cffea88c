"""``evenkeel study``: arguments in, progress and a summary out."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from evenkeel.cli._command import INTERRUPTED
from evenkeel.cli._completion import complete_data, complete_device, complete_sections
from evenkeel.cli._output import print_json, writing

if TYPE_CHECKING:
    from collections.abc import Generator

    from rich.console import Console

    from evenkeel.report import Table
    from evenkeel.study import Study
    from evenkeel.study._execute import Progress

#: Exit code of a program that was ended by SIGTERM (128 + SIGTERM).
TERMINATED: Final = 143
#: Width of the summary where no terminal says otherwise.
_WIDTH: Final = 80


def study(
    data: Annotated[
        str,
        typer.Option(
            help="digits, npz:FILE (arrays x and y), idx:DIR (MNIST's format) or folder:DIR (a "
            "folder of images per class).",
            autocompletion=complete_data,
        ),
    ] = "digits",
    quick: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--quick", help="Fewer rates, epochs and seeds: a first look.")
    ] = False,
    seeds: Annotated[
        int | None, typer.Option(help="Repetitions of every run (5, or 3 with --quick).")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("study"),
    only: Annotated[
        str,
        typer.Option(
            help="Sections to run, separated by commas.", autocompletion=complete_sections
        ),
    ] = "",
    resume: Annotated[  # noqa: FBT002 - likewise
        bool, typer.Option("--resume", help="Go on with the finished runs in --out.")
    ] = False,
    device: Annotated[
        str,
        typer.Option(help="Where to train: cpu, cuda, mps, ...", autocompletion=complete_device),
    ] = "cpu",
    as_json: Annotated[  # noqa: FBT002 - likewise
        bool, typer.Option("--json", help="Print the summary as JSON.")
    ] = False,
) -> None:
    """Train a network with and without batch norm and report what it did.

    Writes results.json, model.safetensors and report.html to the --out folder, and each finished
    run to runs.sqlite there at once, so that --resume repeats nothing.

    Examples:
        evenkeel study

        evenkeel study --quick --out first-look

        evenkeel study --data idx:mnist/ --seeds 3
    """
    names = tuple(name.strip() for name in only.split(",") if name.strip())
    try:
        with _stopped_by_terminate():
            done = _run(
                data=data,
                quick=quick,
                seeds=seeds,
                out=out,
                only=names,
                resume=resume,
                device=device,
            )
    except KeyboardInterrupt as stop:
        typer.echo(_interrupted(out), err=True)
        raise typer.Exit(TERMINATED if isinstance(stop, _Terminated) else INTERRUPTED) from None
    if as_json:
        print_json(_records(done))
        return
    from rich.console import Console

    with writing():
        print_summary(done, Console())


def _run(**settings: Any) -> Study:  # noqa: ANN401 - the fields of StudySettings
    from rich.console import Console

    from evenkeel.study import StudySettings, run_study

    with _progress(Console(stderr=True)) as progress:
        return run_study(StudySettings(**settings), progress)


class _Terminated(KeyboardInterrupt):
    """SIGTERM, taken for Ctrl-C so that workers are stopped and nothing is left behind."""


@contextmanager
def _stopped_by_terminate() -> Generator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set a handler
        return

    def stop(*_: object) -> None:
        raise _Terminated

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def print_summary(done: Study, console: Console) -> None:
    """Print each section's headline and summary table, and where the files are."""
    from rich.markup import escape

    console.width = min(console.width, 100) if console.is_terminal else _WIDTH
    for chapter in done.chapters:
        verdict, findings = chapter.verdict, chapter.findings
        console.print(f"\n[bold]{escape(chapter.title)}: {escape(verdict.words)}[/bold]")
        console.print(f"{escape(findings.headline)}\n", highlight=False)
        console.print(_rich_table(findings.summary))
    timing = done.results["timing"]
    reused = f" ({timing['reused']} of them before)" if timing["reused"] else ""
    console.print(f"\n{timing['runs']} runs{reused} in {timing['seconds']:.0f} s", highlight=False)
    for path in done.files:
        console.print(str(path), soft_wrap=True, markup=False, highlight=False)


def _rich_table(table: Table) -> object:
    from rich import box
    from rich.table import Table as RichTable

    from evenkeel.report import write_cell

    drawn = RichTable(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in table.columns:
        side = "left" if column.format == "text" else "right"
        # One word per line: the headings are longer than what stands below them.
        drawn.add_column(column.title.replace(" ", "\n"), justify=side, no_wrap=True)
    for row in table.rows:
        cells = zip(row, table.columns, strict=True)
        drawn.add_row(*(write_cell(value, column.format) for value, column in cells))
    return drawn


def _records(done: Study) -> dict[str, object]:
    """Return the summary tables and measures as records, with the places of the files."""
    return {
        "sections": {
            chapter.name: asdict(chapter.findings.summary)
            | {"measures": [asdict(measure) for measure in chapter.findings.measures]}
            | {"verdict": asdict(chapter.verdict)}
            for chapter in done.chapters
        },
        "files": [str(path) for path in done.files],
    }


def _interrupted(out: Path) -> str:
    from evenkeel.study import STORE

    if (out / STORE).exists():
        return f"Interrupted. Finished runs are kept in {out / STORE}; --resume goes on with them."
    if (out / "results.json").exists():
        return f"Interrupted. The earlier study in {out} was kept."
    return "Interrupted. Nothing was written."


@contextmanager
def _progress(console: Console) -> Generator[Progress]:
    """Show a bar with the time left on a terminal, a line every tenth of the way elsewhere."""
    if not console.is_terminal:
        yield _lines(console)
        return
    from rich import progress as bars

    columns = (
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.MofNCompleteColumn(),
        bars.TimeRemainingColumn(elapsed_when_finished=True),
    )
    with bars.Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("starting workers", total=None)

        def update(done: int, total: int) -> None:
            said = "training" if done else "starting workers"
            bar.update(task, completed=done, total=total, description=said)

        yield update


def _lines(console: Console) -> Progress:
    def update(done: int, total: int) -> None:
        if done * 10 // total > (done - 1) * 10 // total or done == 0:
            starting = "" if done else "; starting workers"
            console.print(f"training: {done} of {total} runs{starting}", highlight=False)

    return update
