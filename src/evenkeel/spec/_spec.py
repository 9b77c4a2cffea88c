"""The description of one batch-norm layer."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Final, Literal, NoReturn, TypeAlias, get_args

from evenkeel.errors import InputError, explain
from evenkeel.spec._activation import ACTIVATIONS, IDENTITY, Activation
from evenkeel.spec._json import checked_keys, dumps, loads
from evenkeel.spec._momentum import Momentum
from evenkeel.spec._number import is_number

Variance: TypeAlias = Literal["biased", "unbiased"]
Average: TypeAlias = Literal["plain", "debiased", "debiased_var_from_one", "first_batch_copied"]
DType: TypeAlias = Literal["float16", "bfloat16", "float32", "float64"]

_TORCH_MOMENTUM: Final = Momentum(0.1, "new")


@dataclass(frozen=True, slots=True)
class Renorm:
    """Batch renormalization: the training output is corrected towards the running statistics.

    Args:
        momentum: of the statistics that the correction uses.
        r_min: lower bound of r, the ratio of the standard deviations; None for no bound.
        r_max: upper bound of r, or None.
        d_max: bound of the absolute value of d, the shift of the mean, or None.

    Source:
        Ioffe: Batch renormalization (2017).
    """

    momentum: Momentum
    r_min: float | None = None
    r_max: float | None = None
    d_max: float | None = None

    def __post_init__(self) -> None:
        for name in ("r_min", "r_max", "d_max"):
            value = getattr(self, name)
            if value is not None and not is_number(value):
                _refuse(name, value, "a bound is a finite number or None")


@dataclass(frozen=True, slots=True)
class Spec:
    """What one batch-norm layer is, in no framework's words.

    The arrays are in :class:`State`. The defaults are those of ``torch.nn.BatchNorm2d``; every
    reader of a framework's layer sets all fields itself.

    Args:
        channels: number C of channels.
        eps: added to the variance under the root, eq. (3).
        momentum: of the running statistics, and which of old and new it weighs.
        scale: whether there is a weight (gamma).
        offset: whether there is a bias (beta).
        track_statistics: whether there are running statistics; without them inference uses
            the moments of its own batch.
        variance: how the running variance is stored, ``"biased"`` or ``"unbiased"``, eq. (16).
            The batch is normalized with the biased variance in every framework.
        average: how the running statistics follow from the batches. ``"plain"``: eq. (6) to
            (8) from what is stored. ``"debiased"`` (Haiku): eq. (7) from 0, divided by
            1 - momentum^t when read. ``"debiased_var_from_one"`` (Equinox ``"batch"``): the
            same, but the variance starts from 1. ``"first_batch_copied"`` (Equinox
            ``"ema"``): the first batch replaces what is stored, and the running statistics
            normalize in training, too.
        axis: of the channels in the layer's input; may be negative.
        rank: of the layer's input, or None if several are taken.
        statistics_dtype: of the running statistics.
        parameter_dtype: of weight and bias.
        affine_frozen: weight and bias are not trained.
        statistics_frozen: the running statistics normalize in training, too, and stay.
        activation: applied last, eq. (12).
        synchronized: the moments are those of all processes.
        masked: the layer gets a mask, and leaves masked positions out of its statistics.
        renorm: batch renormalization, or None.
        name: of the layer in its model.
        options: what only the layer's own framework understands, by that framework's names
            (initializers, regularizers, constraints). JSON values; not to be changed.

    Raises:
        InputError: a field has the wrong type or an impossible value.

    Example:
        >>> keras = Spec(3, eps=1e-3, momentum=Momentum(0.99, "old"), variance="biased", axis=-1)
        >>> Spec.from_json(keras.to_json()) == keras
        True
    """

    channels: int
    eps: float = 1e-5
    momentum: Momentum = _TORCH_MOMENTUM
    scale: bool = True
    offset: bool = True
    track_statistics: bool = True
    variance: Variance = "unbiased"
    average: Average = "plain"
    axis: int = 1
    rank: int | None = None
    statistics_dtype: DType = "float32"
    parameter_dtype: DType = "float32"
    affine_frozen: bool = False
    statistics_frozen: bool = False
    activation: Activation = IDENTITY
    synchronized: bool = False
    masked: bool = False
    renorm: Renorm | None = None
    name: str = ""
    options: dict[str, Any] = field(default_factory=dict[str, Any], hash=False)

    def __post_init__(self) -> None:
        _check_types(self)
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                _refuse(name, getattr(self, name), f"known are {', '.join(known)}")
        if self.channels < 0:
            _refuse("channels", self.channels, "a count is not negative")
        if not (is_number(self.eps) and self.eps >= 0):
            _refuse("eps", self.eps, "it is a finite number >= 0")
        name, parameter = self.activation.name, self.activation.parameter
        if name not in tuple(ACTIVATIONS) or not is_number(parameter):
            _refuse("activation", self.activation, f"known are {', '.join(ACTIVATIONS)}")
        if self.rank is not None and not -self.rank <= self.axis < self.rank:
            _refuse("axis", self.axis, f"an input of rank {self.rank} has no such axis")
        object.__setattr__(self, "options", _as_json(self.options))

    def to_dict(self) -> dict[str, Any]:
        """All fields as JSON values, by name."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Spec:
        """Undo :meth:`to_dict`.

        Raises:
            InputError: a key is unknown or missing, or a value impossible.
        """
        values = dict(checked_keys("spec", values, _KEYS))
        for name, kind in _RECORDS.items():
            if values[name] is not None:
                values[name] = _record(kind, values[name])
        return cls(**values)

    def to_json(self) -> str:
        """The versioned JSON form; it keeps every field exactly."""
        return dumps("spec", self.to_dict())

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """Undo :meth:`to_json`.

        Raises:
            InputError: the text is no spec of this version, a key is unknown or missing, or a
                value impossible.
        """
        return cls.from_dict(loads("spec", text, _KEYS))


_KEYS: Final = frozenset(f.name for f in fields(Spec))
_RECORDS: Final = {"momentum": Momentum, "activation": Activation, "renorm": Renorm}
_CHOICES: Final[dict[str, tuple[str, ...]]] = {
    "variance": get_args(Variance),
    "average": get_args(Average),
    "statistics_dtype": get_args(DType),
    "parameter_dtype": get_args(DType),
}
_TYPES: Final[dict[type | tuple[type, ...], tuple[str, ...]]] = {
    int: ("channels", "axis"),
    (int, type(None)): ("rank",),
    bool: (
        "scale",
        "offset",
        "track_statistics",
        "affine_frozen",
        "statistics_frozen",
        "synchronized",
        "masked",
    ),
    str: ("name", *_CHOICES),
    dict: ("options",),
    Momentum: ("momentum",),
    Activation: ("activation",),
    (Renorm, type(None)): ("renorm",),
}


def _check_types(spec: Spec) -> None:
    for kind, names in _TYPES.items():
        for name in names:
            value = getattr(spec, name)
            # bool is an int to Python, but True is no number of channels.
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                _refuse(name, value, f"its type is {type(value).__name__}")


def _record(kind: type[Any], values: object) -> Any:  # noqa: ANN401 - an instance of kind
    """A nested record from its JSON object."""
    names = frozenset(f.name for f in fields(kind))
    values = dict(checked_keys(kind.__name__, values, names))
    if kind is Renorm:
        values["momentum"] = _record(Momentum, values["momentum"])
    return kind(**values)


def _as_json(options: dict[str, Any]) -> dict[str, Any]:
    """A copy of ``options`` as it comes back from JSON (tuples become lists)."""
    try:
        copy = json.loads(json.dumps(options, allow_nan=False))
    except (TypeError, ValueError) as error:
        _refuse("options", options, str(error))
    return copy


def _refuse(name: str, value: object, why: str) -> NoReturn:
    raise InputError(
        explain(
            asked="the description of a batch-norm layer",
            got=f"{name}={value!r}",
            why=why,
            do="see the arguments of evenkeel.Spec",
        )
    )
