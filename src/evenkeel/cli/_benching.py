"""What the commands that measure have in common: names, progress, tables."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Final, TypeVar

import typer

from evenkeel import errors
from evenkeel.cli._output import writing

if TYPE_CHECKING:
    from collections.abc import Generator, Sequence

    from rich.console import RenderableType

    from evenkeel.bench import Peer
    from evenkeel.bench._session import Progress

_WIDTH: Final = 80
_Name = TypeVar("_Name", bound=str)


def peers_of(text: str, known: Sequence[Peer]) -> list[Peer]:
    """The peers by name, or all whose packages are here."""
    from evenkeel.bench import missing

    names = names_of("--peers", text, tuple(peer.name for peer in known)) if text else None
    chosen = [peer for peer in known if names is None or peer.name in names]
    absent = {peer.name: missing(peer) for peer in chosen if missing(peer)}
    if absent and (names is not None or len(absent) == len(chosen)):
        packages = sorted({package for each in absent.values() for package in each})
        others = f", or leave {', '.join(absent)} out" if len(absent) < len(chosen) else ""
        raise errors.InputError(
            errors.explain(
                asked=f"--peers {text or ','.join(absent)}",
                got=f"no {', '.join(packages)} here",
                why="a peer is the real framework",
                do=f"pip install {' '.join(packages)}{others}",
            )
        )
    for name, packages in absent.items():
        typer.echo(f"{name} is left out: pip install {' '.join(packages)}", err=True)
    return [peer for peer in chosen if peer.name not in absent]


def names_of(option: str, text: str, known: Sequence[_Name]) -> tuple[_Name, ...]:
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


def default_threads() -> int:
    """As many as torch would use."""
    import torch

    return torch.get_num_threads()


@contextmanager
def counting(what: str) -> Generator[Progress]:
    """A bar that counts what is through."""
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, TimeRemainingColumn
    from rich.progress import Progress as Bar

    columns = (what, BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Bar(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(what, total=None)

        def tell(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield tell


def print_tables(tables: RenderableType) -> None:
    """Print to a terminal of any width, and 80 columns wide elsewhere."""
    from rich.console import Console

    console = Console(highlight=False)
    console.width = min(console.width, 110) if console.is_terminal else _WIDTH
    with writing():
        console.print(tables)
