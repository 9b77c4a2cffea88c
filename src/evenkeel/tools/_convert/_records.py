"""What ``convert`` returns: what became what, and what the code around the file has to do."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from rich.console import RenderableType

Framework: TypeAlias = Literal["torch", "keras", "flax", "onnx"]
Purpose: TypeAlias = Literal["training", "inference"]


@dataclass(frozen=True, slots=True)
class Converted:
    """One layer, or one array where no layout changes.

    Args:
        source: its name in the source.
        target: its name in the target.
        kind: what it computes, ``"array"`` where nobody had to know.
        shapes: shape by role, in the layout that Keras and Flax share; of an array, its own.
        change: what was done to the layout, empty for nothing.
        made: what the source lacks and the target has, with the value that keeps the function.
        matched: how the target was found: ``"name"``, ``"order"``, ``"map"``, or empty where
            the name follows from the source's.
    """

    source: str
    target: str
    kind: str
    shapes: dict[str, tuple[int, ...]]
    change: str = ""
    made: tuple[str, ...] = ()
    matched: str = ""


@dataclass(frozen=True, slots=True)
class Setting:
    """What a normalization layer has to be built with, because the target file cannot say it.

    Args:
        layer: name in the target.
        code: the layer, as the code that builds the model would write it.
        values: the arguments in it, by the target framework's names and in its conventions.
        unknown: fields of :class:`evenkeel.Spec` that neither source nor ``like`` stores.
    """

    layer: str
    code: str
    values: dict[str, Any]
    unknown: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Something of the source that the target does not have, and what follows from that."""

    name: str
    what: str
    why: str


@dataclass(frozen=True, slots=True)
class Conversion:
    """The report of one conversion; ``str()`` gives tables at most 80 columns wide.

    Args:
        source: path of the file that was read.
        target: path of the file that was written.
        frameworks: of the source and of the target.
        rows: what became what.
        settings: what the code which builds the model has to set, mostly of batch norm.
        left_out: what the target does not have.
        remarks: further sentences, such as where settings were taken from.
    """

    source: str
    target: str
    frameworks: tuple[str, str]
    rows: tuple[Converted, ...]
    settings: tuple[Setting, ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    remarks: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """The same records as JSON values."""
        rows = [
            asdict(row) | {"shapes": {role: list(s) for role, s in row.shapes.items()}}
            for row in self.rows
        ]
        return asdict(self) | {"frameworks": list(self.frameworks), "rows": rows}

    def __rich__(self) -> RenderableType:
        from evenkeel.tools._convert._table import render

        return render(self)

    def __str__(self) -> str:
        from evenkeel.tools._convert._table import to_text

        return to_text(self)
