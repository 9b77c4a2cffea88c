"""MkDocs hook: the table of what ``import evenkeel`` offers, read off the package itself."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any

import evenkeel

if TYPE_CHECKING:
    from mkdocs.structure.pages import Page

_MARK = "<!-- names of evenkeel -->"


def on_page_markdown(markdown: str, page: Page, **_: Any) -> str:  # noqa: ARG001 - the interface
    """Put the table where the mark is."""
    return markdown.replace(_MARK, _table()) if _MARK in markdown else markdown


def _table() -> str:
    head = ["| name | what it is |", "|---|---|"]
    return "\n".join([*head, *(_row(name) for name in evenkeel.__all__)])


def _row(name: str) -> str:
    value = getattr(evenkeel, name)
    home = value.__name__ if inspect.ismodule(value) else f"{value.__module__}.{name}"
    sentence = (inspect.getdoc(value) or "").partition("\n")[0]
    anchor = f'<a id="evenkeel.{name}"></a>'
    return f"| {anchor}[`evenkeel.{name}`][{home}] | {sentence} |"
