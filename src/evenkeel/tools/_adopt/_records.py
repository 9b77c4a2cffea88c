"""What ``adopt`` and ``release`` return."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable


@dataclass(frozen=True, slots=True)
class Adopted:
    """One batch norm of a model that was adopted.

    Args:
        layer: its path.
        kind: its class before.
        fused: what runs in one pass with it, for each of its calls; empty if nothing does.
        left: why the layer is what it was, or why nothing was fused; empty if neither.
        adopted: whether evenkeel's kernels serve it now.
    """

    layer: str
    kind: str
    fused: tuple[str, ...] = ()
    left: str = ""
    adopted: bool = True


@dataclass(frozen=True, slots=True)
class Measured:
    """The quantity that is nearest to its bound, or furthest beyond it.

    Args:
        mode: ``"training"`` or ``"evaluation"``.
        layer: its path; empty for the whole model.
        item: what was compared, such as ``"output"`` or ``"gradient of weight"``.
        error: largest distance from the original's float64 result, after adopting.
        bound: what it may be: 4 times the original's own float32 error.
        own_error: that of the original.
    """

    mode: str
    layer: str
    item: str
    error: float
    bound: float
    own_error: float


@dataclass(frozen=True, slots=True)
class AdoptionProof:
    """The model on the example, before and after.

    Args:
        holds: whether every quantity is within its bound.
        quantities: how many were compared: outputs, gradients, statistics, in both modes.
        batches: on how many batches; more than one where rounding on the first was small by luck.
        worst: the one that uses most of its bound.
    """

    holds: bool
    quantities: int
    batches: int
    worst: Measured


@dataclass(frozen=True, slots=True, eq=False)
class Adoption:
    """What ``adopt`` did.

    Args:
        model: the object that was passed in.
        layers: every batch norm in it.
        proof: of the whole model; None without an example.
        pairs: without an example: how many distinct fused pairs were checked on their own.
    """

    model: Any
    layers: tuple[Adopted, ...]
    proof: AdoptionProof | None = None
    pairs: int = 0
    _restore: Callable[[], None] | None = field(default=None, repr=False)

    def undo(self) -> None:
        """Give every module the class that it had before; what was trained since stays."""
        if self._restore is not None:
            self._restore()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, without the model."""
        return {
            "model": type(self.model).__name__,
            "layers": [_to_dict(row) for row in self.layers],
            "proof": None if self.proof is None else _to_dict(self.proof),
            "pairs": self.pairs,
        }

    def __str__(self) -> str:
        from evenkeel.tools._adopt._table import adoption_to_text

        return adoption_to_text(self)


@dataclass(frozen=True, slots=True)
class Released:
    """One module that has its original class back.

    Args:
        module: its path.
        kind: the class that it has now.
        note: what else changed, in words; mostly empty.
    """

    module: str
    kind: str
    note: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Release:
    """What ``release`` did.

    Args:
        model: the object that was passed in.
        modules: those whose class changed.
    """

    model: Any
    modules: tuple[Released, ...]
    _restore: Callable[[], None] | None = field(default=None, repr=False)

    def undo(self) -> None:
        """Give every module the class that it had before."""
        if self._restore is not None:
            self._restore()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, without the model."""
        rows = [_to_dict(row) for row in self.modules]
        return {"model": type(self.model).__name__, "modules": rows}

    def __str__(self) -> str:
        from evenkeel.tools._adopt._table import release_to_text

        return release_to_text(self)


def _to_dict(row: Any) -> Any:  # noqa: ANN401 - a record or a value in it
    if hasattr(row, "__slots__"):
        return {name: _to_dict(getattr(row, name)) for name in row.__slots__}
    return list(row) if isinstance(row, tuple) else row
