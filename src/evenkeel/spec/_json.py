"""The versioned JSON form, shared by the description and the state of a layer."""

from __future__ import annotations

import json
from typing import Any, Final, NoReturn, cast

from evenkeel.errors import InputError, explain

#: Raised by one whenever a key is added, removed, or changes its meaning.
VERSION: Final = 1


def dumps(kind: str, fields: dict[str, Any]) -> str:
    """JSON text of ``fields`` under the header that names kind and version."""
    return json.dumps({"evenkeel": kind, "version": VERSION, **fields}, allow_nan=False)


def loads(kind: str, text: str, keys: frozenset[str]) -> dict[str, Any]:
    """Fields of a JSON text that :func:`dumps` wrote.

    Raises:
        InputError: the text is no JSON of this kind and version, or its keys differ.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, object_pairs_hook=_once)
    except (ValueError, RecursionError) as error:
        _refuse(kind, f"{type(error).__name__}: {error}", "it is not valid JSON")
    return checked_keys(kind, _without_header(kind, value), keys)


def checked_keys(kind: str, fields: object, keys: frozenset[str]) -> dict[str, Any]:
    """``fields`` if it is an object with exactly these keys.

    Raises:
        InputError: it is no object, or its keys differ.
    """
    if not isinstance(fields, dict):
        _refuse(kind, f"{fields!r}", "an object was expected")
    fields = cast("dict[str, Any]", fields)
    unknown, missing = sorted(fields.keys() - keys), sorted(keys - fields.keys())
    if unknown or missing:
        got = f"unknown keys {unknown}, missing keys {missing}"
        _refuse(kind, got, "a key that is skipped or guessed would change the meaning")
    return fields


def _without_header(kind: str, value: object) -> dict[str, Any]:
    if not isinstance(value, dict) or value.get("evenkeel") != kind:
        _refuse(kind, "JSON without that header", f'its "evenkeel" key is not "{kind}"')
    value = cast("dict[str, Any]", value)
    version = value.get("version")
    if isinstance(version, bool) or version != VERSION:
        _refuse(kind, f"version {version!r}", f"this release reads version {VERSION} only")
    return {key: item for key, item in value.items() if key not in {"evenkeel", "version"}}


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise ValueError("a key appears twice in one object")
    return fields


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON number")


def _refuse(kind: str, got: str, why: str) -> NoReturn:
    raise InputError(
        explain(
            asked=f"the JSON form of a batch-norm {kind}",
            got=got,
            why=why,
            do="read it with the evenkeel release that wrote it, or write it anew",
        )
    )
