"""MkDocs hook: "eq. (5)" in any text leads to the equation, "docs/math.md" to the page."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from mkdocs.exceptions import PluginError
from mkdocs.utils import get_relative_url

if TYPE_CHECKING:
    from mkdocs.structure.files import Files
    from mkdocs.structure.pages import Page

_MATH = "math.md"
_CITATION = re.compile(r"\b[Ee]qs?\.\s+\(\d+\)(?:(?:,|\s|and|or|to)+\(\d+\))*")
_NUMBER = re.compile(r"\((\d+)\)")
_PATH = re.compile(r"\bdocs/([\w-]+\.md)\b")
_CODE_PATH = re.compile(rf"<code>{_PATH.pattern}</code>")
_TAG = re.compile(r"(<[^>]*>)")
#: Text inside these stays as it is.
_CLOSED = frozenset({"a", "autoref", "code", "h1", "h2", "h3", "h4", "math", "pre"})


def on_page_content(content: str, page: Page, files: Files, **_: Any) -> str:
    """Put the links into the text between the tags."""
    open_tags = 0
    parts = _TAG.split(_CODE_PATH.sub(r"docs/\1", content))
    for number, part in enumerate(parts):
        if part.startswith("<"):
            name = part.strip("</>").partition(" ")[0]
            if name in _CLOSED:
                open_tags += -1 if part.startswith("</") else 1
        elif not open_tags:
            parts[number] = _link(part, page, files)
    return "".join(parts)


def _link(text: str, page: Page, files: Files) -> str:
    def equation(match: re.Match[str]) -> str:
        target = _target(_MATH, files)
        url = get_relative_url(target.url, page.url)
        return f'<a href="{url}#eq-{match[1]}">{match[0]}</a>'

    def path(match: re.Match[str]) -> str:
        target = _target(match[1], files)
        return f'<a href="{get_relative_url(target.url, page.url)}">{target.title}</a>'

    text = _CITATION.sub(lambda citation: _NUMBER.sub(equation, citation[0]), text)
    return _PATH.sub(path, text)


def _target(source: str, files: Files) -> Page:
    file = files.get_file_from_path(source)
    if file is None or file.page is None:
        raise PluginError(f"a text cites docs/{source}, which is no page of this site")
    return file.page
