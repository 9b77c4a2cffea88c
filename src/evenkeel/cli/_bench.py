"""``evenkeel bench``: batch norm of every framework side by side."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path  # noqa: TC003 - typer reads the annotation
from typing import TYPE_CHECKING, Annotated

import typer

from evenkeel import errors
from evenkeel.cli._benching import counting, default_threads, names_of, peers_of, print_tables
from evenkeel.cli._output import print_json, writing

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from evenkeel.bench import Peer, Record


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

    chosen = peers_of(peers, session.PEERS)
    write_plot = _plotter(plot, chosen)
    picked = session.cases(
        names_of("--suite", suite, tuple(session.SUITES)),
        names_of("--layout", layout, session.LAYOUTS),
        names_of("--dtype", dtype, session.DTYPES),
        names_of("--mode", mode, session.MODES),
    )
    workers = threads or default_threads()
    where = session.setting(threads=workers, huge_pages=huge_pages)
    records: list[Record] = []
    with counting("cases") as progress:
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
    from evenkeel.bench._tables import tables

    print_tables(tables(records, summary))
