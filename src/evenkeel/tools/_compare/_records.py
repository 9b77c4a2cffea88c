"""What ``compare`` returns: rows, the first difference, and its likely causes."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

if TYPE_CHECKING:
    from rich.console import RenderableType

Stage: TypeAlias = Literal["inference", "step by step", "free run"]
CauseCode: TypeAlias = Literal[
    "eps",
    "momentum sense",
    "momentum value",
    "variance convention",
    "padding",
    "layout",
    "frozen",
    "missing statistics update",
    "activation",
    "values",
    "rounding",
    "kink",
    "non-finite",
    "unknown",
]


@dataclass(frozen=True, slots=True)
class ComparisonRow:
    """One quantity that both networks computed; of all steps the one nearest to its bound.

    Args:
        stage: ``"inference"``; ``"step by step"``: float32 from the source's state before every
            step; ``"free run"``: float64, each side from its own state.
        optimizer: the update rule that made the states; None in inference.
        layer: in the source; empty for the whole network.
        target: the same layer in the target.
        item: ``"input"``, ``"output"``, ``"loss"``, ``"gradient of ..."``, ``"running_mean"``, ...
        step: the first that differs, else the one nearest to the bound; None in inference.
        error_a: largest error of the source in float32 against float64; 0 in the free run.
        error_b: of the target; the difference of the two in the free run.
        bound: of ``error_b``.
        equal: whether it is kept at every step.
        note: what else is to be known.
    """

    stage: Stage
    optimizer: str | None
    layer: str
    target: str
    item: str
    step: int | None
    error_a: float
    error_b: float
    bound: float
    equal: bool
    note: str = ""

    @property
    def ratio(self) -> float:
        """Error of the target in units of the source's own."""
        return self.error_b / self.error_a if self.error_a else math.inf * (self.error_b > 0)


@dataclass(frozen=True, slots=True)
class Cause:
    """Why two networks differ, with the evidence."""

    code: CauseCode
    layer: str
    evidence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """Whether two networks are equal, in inference and over training steps.

    ``str()`` gives a table at most 80 columns wide; rich consoles print it in colour.

    Args:
        source: what network ``a`` is.
        target: what network ``b`` is.
        steps: training steps that were compared with each update rule.
        rows: every quantity that was compared.
        causes: of the differences, the likeliest first.
        remarks: what else is to be known, in whole sentences.
    """

    source: str
    target: str
    steps: int
    rows: tuple[ComparisonRow, ...]
    causes: tuple[Cause, ...] = ()
    remarks: tuple[str, ...] = ()

    @property
    def equal(self) -> bool:
        """Whether every quantity is within its bound."""
        return bool(self.rows) and all(row.equal for row in self.rows)

    @property
    def first_difference(self) -> ComparisonRow | None:
        """In inference the first in execution order; in training that of the first step."""
        different = [row for row in self.rows if not row.equal]
        order = {"inference": 0, "step by step": 1, "free run": 2}
        return min(different, key=lambda r: (order[r.stage], r.step or 0), default=None)

    @property
    def cause(self) -> Cause | None:
        """The likeliest cause; None where the networks are equal."""
        return self.causes[0] if self.causes else None

    def to_dict(self) -> dict[str, Any]:
        """The same records as JSON values; what is infinite or missing is None."""
        first = self.first_difference
        return {
            "source": self.source,
            "target": self.target,
            "steps": self.steps,
            "equal": self.equal,
            "first_difference": None if first is None else _values(first),
            "causes": [asdict(cause) for cause in self.causes],
            "remarks": list(self.remarks),
            "rows": [_values(row) for row in self.rows],
        }

    def __rich__(self) -> RenderableType:
        from evenkeel.tools._compare._table import render

        return render(self)

    def __str__(self) -> str:
        from evenkeel.tools._compare._table import to_text

        return to_text(self)


def _values(row: ComparisonRow) -> dict[str, Any]:
    values = asdict(row) | {"ratio": row.ratio}
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
