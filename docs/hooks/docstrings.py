"""Griffe extension: what a reader of the source sees, made visible in the API reference.

Roles such as ``:class:`Spec``` become links, ``Example:`` becomes a section of examples, a shape or
a source becomes a line of text, comments ``#:`` document constants, docstrings that are composed
at import are taken from the live class, and ``**extras`` is written out.
"""

from __future__ import annotations

import importlib
import inspect
import re
from typing import Any

import griffe

_ROLE = re.compile(r":(?:attr|class|data|exc|func|meth|mod):`(~?)([\w.]+)`")
_NOTE = re.compile(r"^(Shape|Source):\n((?:[ ]{4}.*\n?)+)", re.MULTILINE)
_EXAMPLE = re.compile(r"^Example:$", re.MULTILINE)
#: The keyword-only settings that the layers of `evenkeel.nn` hand on as ``**extras``.
_EXTRAS = "nn._base.NormCore._extras"


class Docstrings(griffe.Extension):
    """Prepare the docstrings of evenkeel for mkdocstrings, once every name is known."""

    def on_package(self, *, pkg: griffe.Module, **_: Any) -> None:
        """Walk through the package."""
        _prepare(pkg)


def _prepare(obj: griffe.Object) -> None:
    if isinstance(obj, griffe.Class):
        _complete_class(obj)
    elif isinstance(obj, griffe.Function):
        _write_extras_out(obj)
    elif isinstance(obj, griffe.Attribute) and obj.docstring is None and obj.parent is obj.module:
        _document(obj, _comment(obj) or "Defined as shown.")
    if obj.docstring is not None:
        text = _EXAMPLE.sub("Examples:", obj.docstring.value)
        text = _NOTE.sub(lambda note: f"**{note[1]}:** {' '.join(note[2].split())}\n", text)
        obj.docstring.value = _ROLE.sub(lambda role: _link(obj, role), text)
    for member in list(obj.members.values()):
        if isinstance(member, griffe.Object):
            _prepare(member)


def _document(obj: griffe.Object, text: str) -> None:
    obj.docstring = griffe.Docstring(text, parent=obj, parser=griffe.Parser.google)


def _complete_class(cls: griffe.Class) -> None:
    """Take a composed docstring from the live class, and give a named tuple its constructor."""
    if cls.docstring is None and "__doc__" in cls.members:
        live = getattr(importlib.import_module(cls.module.path), cls.name)
        _document(cls, inspect.cleandoc(live.__doc__))
    if any(str(base) == "NamedTuple" for base in cls.bases):
        cls.set_member("__init__", _constructor(cls))


def _write_extras_out(func: griffe.Function) -> None:
    """Put the settings in the place of ``**extras: Unpack[Extras]``."""
    for parameter in list(func.parameters):
        if str(parameter.annotation) == "Unpack[Extras]":
            del func.parameters[parameter.name]
            for extra in func.package[_EXTRAS].parameters:
                if extra.kind is griffe.ParameterKind.keyword_only:
                    func.parameters.add(extra)


def _constructor(cls: griffe.Class) -> griffe.Function:
    """The constructor that ``NamedTuple`` writes: one parameter for each field."""
    kind = griffe.ParameterKind.positional_or_keyword
    fields = [
        griffe.Parameter(field.name, annotation=field.annotation, kind=kind, default=field.value)
        for field in cls.members.values()
        if isinstance(field, griffe.Attribute) and "property" not in field.labels
    ]
    itself = griffe.Parameter("self", kind=kind)
    return griffe.Function("__init__", parameters=griffe.Parameters(itself, *fields), parent=cls)


def _comment(attribute: griffe.Attribute) -> str:
    """The lines ``#:`` above a constant."""
    above = attribute.module.lines[: (attribute.lineno or 1) - 1]
    found: list[str] = []
    while above and above[-1].startswith("#:"):
        found.insert(0, above.pop().removeprefix("#:").strip())
    return " ".join(found)


def _link(obj: griffe.Object, role: re.Match[str]) -> str:
    """A link where the name is public, otherwise the name as code."""
    short, name = role.groups()
    text = name.rpartition(".")[2] if short else name
    target = _resolve(obj, name)
    return f"[`{text}`][{target}]" if target else f"`{text}`"


def _resolve(obj: griffe.Object, name: str) -> str | None:
    if name.startswith(f"{obj.package.name}."):
        return name
    try:
        target = obj.resolve(name)
    except griffe.NameResolutionError:
        return None
    return None if target.rpartition(".")[2].startswith("_") else target
