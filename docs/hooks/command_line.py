"""MkDocs hook: the reference of the command line, read off the commands themselves."""

from __future__ import annotations

import inspect
import re
from typing import TYPE_CHECKING, Any

import typer

from evenkeel import cli

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_MARK = "<!-- commands -->"
_EXAMPLES = re.compile(r"^Examples:\n((?:[ ]{4}.*\n?|\n)+)", re.MULTILINE)


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # noqa: ARG001 - the interface
    """Put one chapter per command where the mark is."""
    if _MARK not in markdown:
        return markdown
    group: Any = typer.main.get_command(cli.app)
    context = group.make_context("evenkeel", ["study"], resilient_parsing=True)
    chapters = [_chapter(group.get_command(context, name)) for name in group.list_commands(context)]
    return markdown.replace(_MARK, "\n\n".join(chapters))


def _chapter(command: Any) -> str:
    context = command.make_context(command.name, [], resilient_parsing=True)
    text = _EXAMPLES.sub(_console, inspect.cleandoc(command.help) + "\n")
    usage = " ".join(["evenkeel", command.name, *command.collect_usage_pieces(context)])
    records = [param.get_help_record(context) for param in command.get_params(context)]
    rows = [f"| {_name(record)} | {_text(record)} |" for record in records if record]
    table = "\n".join(["| argument or option | meaning |", "|---|---|", *rows])
    return f"## evenkeel {command.name}\n\n```text\n{usage}\n```\n\n{text}\n\n{table}"


def _console(match: re.Match[str]) -> str:
    lines = [line.strip() for line in match[1].splitlines() if line.strip()]
    return "\n".join(["```console", *(f"$ {line}" for line in lines), "```"])


def _name(record: tuple[str, str]) -> str:
    return f"`{record[0].strip()}`"


def _text(record: tuple[str, str]) -> str:
    return " ".join(record[1].replace("|", "\\|").split())
