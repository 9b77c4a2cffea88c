"""Names of nested arrays: the keys on the way to them, joined by slashes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

from evenkeel.checkpoints._values import write_refusal

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

#: Keys that hold the state of an optimizer, in the training states that Flax's users save.
OPTIMIZERS: Final = ("opt_state", "optimizer", "optimizer_state")

#: A dict of dicts whose leaves are the full names.
Tree: TypeAlias = "dict[str, Tree | str]"


def is_optimizer(name: str) -> bool:
    """Whether an array belongs to an optimizer, whose moments have the shapes of the weights."""
    return any(key in OPTIMIZERS for key in name.split("/"))


def optimizers(names: Iterable[str]) -> tuple[str, ...]:
    """The places of optimizers among the names, each once."""
    found: dict[str, None] = {}
    for name in names:
        keys = name.split("/")
        at = next((i for i, key in enumerate(keys) if key in OPTIMIZERS), None)
        if at is not None:
            found["/".join(keys[: at + 1])] = None
    return tuple(found)


def tree(path: Path, names: Iterable[str]) -> Tree:
    """The nested dict that the names stand for.

    Raises:
        FileError: a key is empty, or a name stands for an array and for a dict of arrays.
    """
    top: Tree = {}
    for name in names:
        *ways, last = name.split("/")
        place: Any = top
        for key in ways:
            place = place.setdefault(key, {})
            if not isinstance(place, dict):
                raise _clash(path, name)
        if last in place or not all((*ways, last)):
            raise _clash(path, name)
        cast("Tree", place)[last] = name
    return top


def _clash(path: Path, name: str) -> Exception:
    return write_refusal(
        path,
        got=f"the name {name}",
        why="between two slashes nothing stands, or one name is the beginning of another, so that "
        "it would be an array and a dict of arrays at once",
        do="rename one of them",
    )
