"""Whose results lie in the output folder, and whether this study may go on with them."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from evenkeel.errors import FileError, explain
from evenkeel.study._output import SCHEMA
from evenkeel.study._store import STORE, Store

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping
    from pathlib import Path

#: The part of an identity that may differ where a finished study is made anew.
_MAY_CHANGE: Final = "versions."


def open_store(
    folder: Path, identity: Mapping[str, Any], keys: Collection[str], *, resume: bool
) -> Store:
    """Open the store of a folder for a study with this identity and these runs.

    A folder without results begins a new store, with ``resume`` or without. A finished study is
    replaced, or with ``resume`` only reported anew; an unfinished one needs ``resume``.

    Raises:
        FileError: the folder holds another study, or an unfinished one and ``resume`` was not
            asked for, or one that other versions began. Nothing is changed then.
    """
    store = Store.open(folder)
    try:
        _admit(store, folder, identity, keys, resume=resume)
    except BaseException:
        store.close()
        raise
    return store


def _admit(
    store: Store, folder: Path, identity: Mapping[str, Any], keys: Collection[str], *, resume: bool
) -> None:
    mine = json.loads(json.dumps(identity))  # tuples become lists, as they come back from a file
    finished = store.finished()
    known = store.identity() if finished else _of_results(folder)
    if known is None:
        store.begin(mine)
        return
    differences = _differences(known, mine)
    harmless = not resume and all(name.startswith(_MAY_CHANGE) for name in differences)
    if differences and not harmless:
        raise _another(folder, differences, len(finished))
    if finished and not resume and not set(keys) <= finished.keys():
        raise _unfinished(folder, len(set(keys) & finished.keys()), len(keys))
    if not finished or not resume:
        store.begin(mine)


def _of_results(folder: Path) -> dict[str, Any] | None:
    """Return the identity of the study whose results lie there without its runs."""
    path = folder / "results.json"
    if not path.exists():
        return None
    results = cast("dict[str, Any]", json.loads(path.read_bytes()))
    return identity_of(results)


def identity_of(results: Mapping[str, Any]) -> dict[str, Any]:
    """Return what makes two studies the same: schema, data, settings and versions."""
    return {
        "schema": dict(SCHEMA),
        "checksum": results["data"]["checksum"],
        "settings": results["settings"],
        "versions": results["versions"],
    }


def _differences(found: Mapping[str, Any], mine: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Return ``settings.seeds`` and the like -> what is there and what was asked for."""
    old, new = _flat(found), _flat(mine)
    names = dict.fromkeys([*old, *new])
    return {n: (old.get(n), new.get(n)) for n in names if old.get(n) != new.get(n)}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in nested.items():
        if isinstance(value, dict):
            flat |= _flat(cast("dict[str, Any]", value), f"{prefix}{name}.")
        else:
            flat[prefix + name] = value
    return flat


def _another(folder: Path, changed: Mapping[str, tuple[Any, Any]], finished: int) -> FileError:
    listed = "; ".join(
        f"{name.removeprefix('settings.')} was {_said(old)}, now {_said(new)}"
        for name, (old, new) in changed.items()
    )
    return FileError(
        explain(
            asked=f"--out {folder}",
            got=f"the results of another study ({listed})",
            why=f"its results and its {finished} finished runs would be lost or mixed with others",
            do="name another --out, run with the settings of that study, or delete that folder",
        )
    )


def _unfinished(folder: Path, finished: int, total: int) -> FileError:
    return FileError(
        explain(
            asked=f"--out {folder}",
            got=f"this study, stopped after {finished} of {total} runs",
            why="beginning again would throw the finished runs away",
            do=f"add --resume to go on, or delete {folder / STORE} to begin again",
        )
    )


def _said(value: object) -> str:
    if isinstance(value, list):
        return ",".join(map(str, cast("list[object]", value))) or "none"
    text = str(value)
    return text if len(text) <= 24 else f"{text[:20]}..."
