"""``evenkeel bench``: batch norm of every framework side by side."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated, Final, TypeVar

import typer

from evenkeel import errors
from evenkeel.cli._output import print_json, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Sequence

    from evenkeel.bench import Peer, Record
    from evenkeel.bench._session import Progress

_WIDTH: Final = 80
_Name = TypeVar("_Name", bound=str)


def bench(
    suite: Annotated[
        str, typer.Option(help="resnet50, mobilenet_v2, densenet121, other; several by commas.")
    ] = "resnet50",
    peers: Annotated[
        str, typer.Option(help="Whom to time, separated by commas; all that are installed.")
    ] = "",
    layout: Annotated[
        str, typer.Option(help="Channels first, last, or first,last.")
    ] = "first,last",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16, or both by commas.")] = "float32",
    mode: Annotated[
        str, typer.Option(help="forward+backward, forward, or both by commas.")
    ] = "forward+backward",
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each peer for each case.")] = 5,
    threads: Annotated[
        int | None, typer.Option(min=1, help="Threads; as many as torch would use.")
    ] = None,
    huge_pages: Annotated[  # noqa: FBT002 - typer makes an option of it
        bool, typer.Option("--huge-pages", help="Give every peer huge pages (glibc on Linux).")
    ] = False,
    csv: Annotated[Path | None, typer.Option(help="File to add the timings to.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Page with plots to write (HTML).")] = None,
    as_json: Annotated[  # noqa: FBT002 - likewise
        bool, typer.Option("--json", help="Print the same records as JSON.")
    ] = False,
) -> None:
    """Time batch norm of torch, Keras and Flax beside evenkeel's, and the floor that memory sets.

    Each peer runs in a process of its own, in turns. The floor is a copy into fresh memory, of as
    many bytes as the case cannot save. Times are medians over the rounds.

    Examples:
        evenkeel bench --peers evenkeel,torch,floor --layout first

        evenkeel bench --suite resnet50,other --csv timings.csv --plot timings.html
    """
    from evenkeel import bench as session

    chosen = _peers(peers)
    write_plot = _plotter(plot, chosen)
    picked = session.cases(
        _some("--suite", suite, tuple(session.SUITES)),
        _some("--layout", layout, session.LAYOUTS),
        _some("--dtype", dtype, session.DTYPES),
        _some("--mode", mode, session.MODES),
    )
    workers = threads or _default_threads()
    where = session.setting(threads=workers, huge_pages=huge_pages)
    records: list[Record] = []
    with _progress() as progress:
        for timing in session.measure(
            picked,
            chosen,
            threads=workers,
            rounds=rounds,
            huge_pages=huge_pages,
            progress=progress,
        ):
            records.append(session.record(timing, where))
            if csv is not None:
                session.append(csv, records[-1:])
    write_plot(records)
    _show(records, as_json=as_json)


def _plotter(path: Path | None, peers: Sequence[Peer]) -> Callable[[list[Record]], None]:
    """What writes the page; what it needs is found missing here, before hours of timing."""
    if path is None:
        return lambda _: None
    if "floor" not in {peer.name for peer in peers}:
        raise errors.InputError(
            errors.explain(
                asked=f"--plot {path}",
                got="--peers without floor",
                why="the plots show times divided by the floor",
                do="add floor to --peers",
            )
        )
    from evenkeel.bench import ratios
    from evenkeel.bench._page import report
    from evenkeel.report import render_html

    def write(records: list[Record]) -> None:
        with writing():
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(render_html(report(records, ratios(records))), encoding="utf-8")

    return write


def _show(records: list[Record], *, as_json: bool) -> None:
    from evenkeel.bench import ratios

    summary = ratios(records)
    if as_json:
        print_json(
            {
                "records": [asdict(one) for one in records],
                "summary": [asdict(one) for one in summary],
            }
        )
        return
    from rich.console import Console

    from evenkeel.bench._tables import tables

    console = Console(highlight=False)
    console.width = min(console.width, 110) if console.is_terminal else _WIDTH
    with writing():
        console.print(tables(records, summary))


def _peers(text: str) -> list[Peer]:
    """The peers by name, or all whose packages are here; evenkeel must be among them."""
    from evenkeel.bench import PEERS, missing

    names = _some("--peers", text, tuple(peer.name for peer in PEERS)) if text else None
    chosen = [peer for peer in PEERS if names is None or peer.name in names]
    absent = {peer.name: missing(peer) for peer in chosen if missing(peer)}
    if absent and names is not None:
        packages = sorted({package for each in absent.values() for package in each})
        raise errors.InputError(
            errors.explain(
                asked=f"--peers {text}",
                got=f"no {', '.join(packages)} here",
                why="a peer is the real framework",
                do=f"pip install {' '.join(packages)}, or leave {', '.join(absent)} out",
            )
        )
    for name, packages in absent.items():
        typer.echo(f"{name} is left out: pip install {' '.join(packages)}", err=True)
    return [peer for peer in chosen if peer.name not in absent]


def _some(option: str, text: str, known: Sequence[_Name]) -> tuple[_Name, ...]:
    """The parts of a list with commas, each of which has to be known."""
    parts = [part.strip() for part in text.split(",") if part.strip()]
    found = tuple(name for name in known if name in parts)
    unknown = [part for part in parts if part not in known]
    if unknown or not parts:
        raise errors.InputError(
            errors.explain(
                asked=f"{option} {text}",
                got=repr(unknown[0] if unknown else text),
                why=f"{option} takes {', '.join(known)}",
                do="name one of them, or several with commas between them",
            )
        )
    return found


def _default_threads() -> int:
    import torch

    return torch.get_num_threads()


@contextmanager
def _progress() -> Generator[Progress]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = ("cases", BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("cases", total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell
