"""What ``port`` returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.tools._matching._pairs import Matching, Pair


@dataclass(frozen=True, slots=True)
class SettingDifference:
    """One setting of a batch-norm layer that the two models say differently.

    Args:
        source: name of the layer in the source.
        target: name of the layer in the target.
        field: of :class:`evenkeel.Spec`.
        wanted: what the source says there, as JSON values; a momentum weighs what the target's
            framework weighs.
        found: what the target said before the port.
        effect: ``"inference"`` or ``"training"``: what comes out differently.
        repaired: whether the target now says what the source says.
    """

    source: str
    target: str
    field: str
    wanted: Any
    found: Any
    effect: str
    repaired: bool = False


@dataclass(frozen=True, slots=True)
class Proof:
    """The outputs of both models on the example, measured in float64.

    Args:
        source_error: largest distance of the source's output from its float64 output.
        target_error: largest distance of the target's output from the source's float64 output.
        bound: what ``target_error`` may be: 4 times the source's own error; see
            ``tools/_port/_proof.py`` for what is done where that is small by luck.
        size: largest absolute value of the output.
        exact: whose float64 mode was used, ``"source"`` or ``"target"``.
    """

    source_error: float
    target_error: float
    bound: float
    size: float
    exact: str = "source"

    @property
    def holds(self) -> bool:
        """Whether the target computes what the source computes; never with NaN."""
        return self.target_error <= self.bound


@dataclass(frozen=True, slots=True, eq=False)
class Port:
    """What a port did: the target model, how its layers were matched, and the proof.

    Args:
        model: the target, the object that was passed in.
        frameworks: of source and target.
        matching: which layer got whose values.
        proof: the measured equality of the outputs.
        differences: settings of batch norm that differed.
        frozen: parameters that the port made and that are no longer trained.
        remarks: what else is worth knowing, in whole sentences.
    """

    model: Any
    frameworks: tuple[str, str]
    matching: Matching
    proof: Proof
    differences: tuple[SettingDifference, ...] = ()
    frozen: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()
    _restore: Callable[[], None] | None = field(default=None, repr=False)

    def undo(self) -> None:
        """Give the target back the values and settings that it had before the port."""
        if self._restore is not None:
            self._restore()

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values, without the model."""
        matching = self.matching
        return {
            "frameworks": {"source": self.frameworks[0], "target": self.frameworks[1]},
            "layers": [_pair_to_dict(pair) for pair in matching.pairs],
            "absorbed": [{"bias": one, "into": norm} for one, norm in matching.absorbed],
            "dropped": list(matching.dropped),
            "made": list(matching.made),
            "frozen": list(self.frozen),
            "preprocessing": [
                {"layer": layer.name, "kind": layer.kind, **preprocessing_numbers(layer)}
                for layer in matching.preprocessing
            ],
            "settings": [
                {name: getattr(item, name) for name in SettingDifference.__slots__}
                for item in self.differences
            ],
            "proof": {
                **{name: getattr(self.proof, name) for name in Proof.__slots__},
                "holds": self.proof.holds,
            },
            "remarks": list(self.remarks),
        }

    def __str__(self) -> str:
        from evenkeel.tools._port._table import to_text

        return to_text(self)


def preprocessing_numbers(layer: Any) -> dict[str, Any]:  # noqa: ANN401 - a Layer
    """The numbers that a caller needs to do what a preprocessing layer does."""
    arrays = {role: array.read().tolist() for role, array in layer.arrays.items()}
    settings = {
        key: value.tolist() if hasattr(value, "tolist") else value
        for key, value in layer.settings.items()
        if key in ("scale", "offset", "axis", "invert")
    }
    return {**settings, **arrays}


def _pair_to_dict(pair: Pair) -> dict[str, Any]:
    return {
        "source": pair.source.name,
        "target": pair.target.name,
        "kind": pair.target.kind,
        "shapes": {role: list(shape) for role, shape in pair.target.shapes.items()},
        "change": change_of(pair),
    }


def change_of(pair: Pair) -> str:
    """What is done to the arrays beyond copying them, in words; empty for nothing."""
    if pair.order is not None:
        return "input channels reordered"
    return (
        "" if pair.source.kind == pair.target.kind else f"{pair.source.kind} to {pair.target.kind}"
    )
