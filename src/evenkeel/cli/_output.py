"""Prints a report: in colour on a terminal, plain and 80 columns wide elsewhere, or as JSON."""

from __future__ import annotations

import json
import sys
from typing import Any

import typer


def print_report(report: object) -> None:
    """Print what ``str(report)`` says; on a terminal as the report's own rich form, if any."""
    if sys.stdout.isatty() and hasattr(report, "__rich__"):
        from rich.console import Console

        Console().print(report)
        return
    typer.echo(_encodable(str(report), sys.stdout.encoding or "utf-8"))


def print_json(records: dict[str, Any]) -> None:
    """Print records as JSON text."""
    typer.echo(json.dumps(records, indent=2, allow_nan=False))


def _encodable(text: str, encoding: str) -> str:
    """The text without rules and letters that the encoding of a redirected output lacks."""
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.replace("\u2500", "-").encode(encoding, "backslashreplace").decode(encoding)
    return text
