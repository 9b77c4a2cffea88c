"""Prints a report: in colour on a terminal, plain and 80 columns wide elsewhere, or as JSON."""

from __future__ import annotations

import json
import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import typer

from evenkeel.errors import FileError, explain

if TYPE_CHECKING:
    from collections.abc import Generator


class OutputError(FileError):
    """The standard output takes no more text."""


@contextmanager
def writing() -> Generator[None]:
    """Turn a failure to print into one message; a reader that went away stays what it is.

    So is the failure to write a file that typer writes by itself, such as shell completion.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except SystemExit as error:
        if isinstance(error.__context__, BrokenPipeError):  # rich makes this of a closed pipe
            raise error.__context__ from None
        raise
    except OSError as error:
        if error.filename is not None:
            raise FileError(
                explain(
                    asked=f"to write {error.filename}",
                    got=error.strerror or str(error),
                    why="the system does not let this process write there",
                    do="check permissions and the disk",
                )
            ) from error
        raise OutputError(
            explain(
                asked="to print the result",
                got=error.strerror or str(error),
                why="the standard output cannot be written",
                do="make room, or send the output somewhere else",
            )
        ) from error


def discard_output() -> None:
    """Send what is left to nowhere: Python flushes once more at its end and would complain."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def print_report(report: object) -> None:
    """Print what ``str(report)`` says; on a terminal as the report's own rich form, if any."""
    if sys.stdout.isatty() and hasattr(report, "__rich__"):
        from rich.console import Console

        with writing():
            Console().print(report)
        return
    text = _encodable(str(report), sys.stdout.encoding or "utf-8")
    with writing():
        typer.echo(text)


def print_json(records: dict[str, Any]) -> None:
    """Print records as JSON text."""
    text = json.dumps(records, indent=2, allow_nan=False)
    with writing():
        typer.echo(text)


def _encodable(text: str, encoding: str) -> str:
    """The text without rules and letters that the encoding of a redirected output lacks."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("\u2500", "-").encode(encoding, "backslashreplace").decode(encoding)
    return text
