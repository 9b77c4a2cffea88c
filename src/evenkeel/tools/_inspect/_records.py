"""What ``inspect`` returns: rows, findings, and the report that holds both."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from rich.console import RenderableType

    from evenkeel.spec import Momentum
    from evenkeel.tools._inspect._counts import Count

Severity: TypeAlias = Literal["error", "warning", "note"]
#: ``"call"``: every call of the layer says whether it trains, as in Keras.
Mode: TypeAlias = Literal["train", "eval", "frozen", "call"]


class Range(NamedTuple):
    """Smallest and largest finite value of an array."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Finding:
    """One suspicious value: where, how bad, a short code, and the evidence in words."""

    layer: str
    severity: Severity
    code: str
    text: str


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One batch-norm layer.

    ``None`` means that the source does not say (a state dict knows no eps), or that the layer
    has no such array; ``affine`` names the arrays that are there. Ranges are over finite
    values, and None without any.
    """

    name: str
    kind: str
    channels: int | None = None
    eps: float | None = None
    momentum: Momentum | None = None
    affine: tuple[str, ...] = ()
    variance: str | None = None
    mode: Mode | None = None
    weight: Range | None = None
    bias: Range | None = None
    running_mean: Range | None = None
    running_var: Range | None = None
    batches: int | None = None
    parameter_dtype: str | None = None
    statistics_dtype: str | None = None
    parameters: int = 0
    buffers: int = 0


@dataclass(frozen=True, slots=True)
class Inspection:
    """The batch-norm layers of a model or checkpoint, and what is suspicious about them.

    ``str()`` gives a table at most 80 columns wide; rich consoles print it in colour.
    ``remarks`` says what a file held beside the layers, ``framework`` whose conventions the rows
    are in, ``counts`` how many parameters each framework would report for these layers.
    """

    source: str
    rows: tuple[LayerRow, ...]
    findings: tuple[Finding, ...]
    remarks: tuple[str, ...] = ()
    framework: str = "torch"
    counts: tuple[Count, ...] = ()

    @property
    def suspicious(self) -> bool:
        """Whether there is a finding of more weight than a note."""
        return any(finding.severity != "note" for finding in self.findings)

    def to_dict(self) -> dict[str, Any]:
        """The same records as JSON values."""
        rows = [asdict(row) | _ranges(row) for row in self.rows]
        return asdict(self) | {"rows": rows}

    def __rich__(self) -> RenderableType:
        from evenkeel.tools._inspect._table import render

        return render(self)

    def __str__(self) -> str:
        from evenkeel.tools._inspect._table import to_text

        return to_text(self)


def _ranges(row: LayerRow) -> dict[str, dict[str, float]]:
    names = ("weight", "bias", "running_mean", "running_var")
    found: dict[str, Range | None] = {name: getattr(row, name) for name in names}
    return {name: {"low": r.low, "high": r.high} for name, r in found.items() if r is not None}
