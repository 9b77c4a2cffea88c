"""The arrays of one batch-norm layer."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt

from evenkeel.errors import ChannelError, DTypeError, InputError, ShapeError, explain
from evenkeel.spec._json import checked_keys, dumps, loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.spec._spec import Spec

Array: TypeAlias = npt.NDArray[np.floating[Any]]

_NAMES: Final = ("weight", "bias", "running_mean", "running_var")
_KEYS: Final = frozenset((*_NAMES, "batches", "others"))
_DTYPES: Final = ("float16", "float32", "float64")


@dataclass(frozen=True, slots=True, eq=False)
class State:
    """Weight, bias and running statistics of one layer; None for what it does not have.

    Every array is copied. bfloat16, which NumPy does not have, is exact in float32, and
    :class:`Spec` says what the layer itself uses.

    Args:
        weight: gamma, (C,), float16, float32 or float64.
        bias: beta, (C,).
        running_mean: (C,). Of a debiased average (Haiku, Equinox) what is read, not the
            hidden sum.
        running_var: (C,), biased or unbiased as the layer's :class:`Spec` says.
        batches: number of batches that entered the running statistics; None if not counted.
        others: further arrays (C,) by name, such as those of batch renormalization.

    Raises:
        ShapeError: an array is not (C,).
        ChannelError: the arrays differ in their number of channels.
        DTypeError: an array is not float16, float32 or float64.
        InputError: ``batches`` is no count, or ``others`` has a name of the first four.

    Two states are ``==`` if they hold the same things with equal dtypes and values; NaN equals
    nothing, not even itself, and 0 equals -0. :meth:`identical` compares bits instead.
    """

    weight: Array | None = None
    bias: Array | None = None
    running_mean: Array | None = None
    running_var: Array | None = None
    batches: int | None = None
    others: dict[str, Array] = field(default_factory=dict[str, Array])

    def __post_init__(self) -> None:
        for name in _NAMES:
            value = getattr(self, name)
            array = None if value is None else _per_channel(name, value)
            object.__setattr__(self, name, array)
        if hidden := self.others.keys() & set(_NAMES):
            _refuse(InputError, f"others with {sorted(hidden)}", "these have fields of their own")
        others = {name: _per_channel(name, value) for name, value in self.others.items()}
        object.__setattr__(self, "others", others)
        if len({array.shape for array in self.arrays().values()}) > 1:
            shapes = {name: array.shape for name, array in self.arrays().items()}
            _refuse(ChannelError, f"shapes {shapes}", "all have one number per channel")
        object.__setattr__(self, "batches", _counter(self.batches))

    @classmethod
    def initial(cls, spec: Spec) -> State:
        """The state of a fresh layer: weight and variance 1, bias, mean and counter 0."""
        shape, parameters = spec.channels, _stored(spec.parameter_dtype)
        statistics = _stored(spec.statistics_dtype)
        tracked = spec.track_statistics
        return cls(
            np.ones(shape, parameters) if spec.scale else None,
            np.zeros(shape, parameters) if spec.offset else None,
            np.zeros(shape, statistics) if tracked else None,
            np.ones(shape, statistics) if tracked else None,
            0 if tracked else None,
        )

    def arrays(self) -> dict[str, Array]:
        """All arrays that are there, by name."""
        named = {name: getattr(self, name) for name in _NAMES} | self.others
        return {name: array for name, array in named.items() if array is not None}

    def check(self, spec: Spec) -> State:
        """This state, if it is one of a layer like ``spec``.

        Raises:
            ChannelError: the number of channels differs.
            InputError: an array is missing, or there although the layer has none.
        """
        has = {
            "weight": spec.scale,
            "bias": spec.offset,
            "running_mean": spec.track_statistics,
            "running_var": spec.track_statistics,
        }
        wrong = [name for name in _NAMES if (getattr(self, name) is not None) != has[name]]
        if wrong:
            _refuse(
                InputError,
                f"{sorted(self.arrays())}; not as described: {wrong}",
                f"layer {spec.name!r} has {[name for name in _NAMES if has[name]]}",
            )
        for name, array in self.arrays().items():
            if array.shape != (spec.channels,):
                why = f"layer {spec.name!r} has {spec.channels} channels"
                _refuse(ChannelError, f"{name} of shape {array.shape}", why)
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, State):
            return NotImplemented
        return self._same(other, np.array_equal)

    # Arrays can be written into, so a state is no key.
    __hash__ = None  # pyright: ignore[reportAssignmentType]

    def identical(self, other: State) -> bool:
        """Whether both hold the same bits; unlike ``==`` this holds for NaN, and not for 0, -0."""
        return self._same(other, _same_bits)

    def _same(self, other: State, same: Callable[[Array, Array], bool]) -> bool:
        mine, others = self.arrays(), other.arrays()
        return (
            self.batches == other.batches
            and mine.keys() == others.keys()
            and all(mine[name].dtype == others[name].dtype for name in mine)
            and all(mine[name].shape == others[name].shape for name in mine)
            and all(same(mine[name], others[name]) for name in mine)
        )

    def to_json(self) -> str:
        """The versioned JSON form; it keeps every bit, NaN and Inf included."""
        named = {name: getattr(self, name) for name in _NAMES}
        return dumps(
            "state",
            {name: None if array is None else _encode(array) for name, array in named.items()}
            | {"batches": self.batches}
            | {"others": {name: _encode(array) for name, array in self.others.items()}},
        )

    @classmethod
    def from_json(cls, text: str) -> State:
        """Undo :meth:`to_json`.

        Raises:
            InputError: the text is no state of this version, a key is unknown or missing, or
                an array is damaged.
        """
        values = loads("state", text, _KEYS)
        arrays = {n: None if values[n] is None else _decode(n, values[n]) for n in _NAMES}
        if not isinstance(values["others"], dict):
            _refuse(InputError, f"others={values['others']!r}", "it is an object of arrays")
        others = {name: _decode(name, value) for name, value in values["others"].items()}
        return cls(**arrays, batches=values["batches"], others=others)


def _stored(dtype: str) -> str:
    return "float32" if dtype == "bfloat16" else dtype


def _per_channel(name: str, value: npt.ArrayLike) -> Array:
    array = np.array(value)
    if array.dtype.name not in _DTYPES:
        _refuse(DTypeError, f"{name} of dtype {array.dtype}", f"known are {', '.join(_DTYPES)}")
    if array.ndim != 1:
        _refuse(ShapeError, f"{name} of shape {array.shape}", "it is one number per channel, (C,)")
    return array.astype(array.dtype.newbyteorder("="), copy=False)


def _counter(value: object) -> int | None:
    """A count; a framework's counter may be an array of one integer."""
    if value is None:
        return None
    array = np.asarray(value)
    if array.size != 1 or array.dtype.kind not in "iu" or array.reshape(()) < 0:
        _refuse(InputError, f"batches={value!r}", "it is one whole number >= 0, or None")
    return int(array.reshape(()))


def _same_bits(a: Array, b: Array) -> bool:
    return a.tobytes() == b.tobytes()


def _encode(array: Array) -> dict[str, str]:
    little = array.astype(array.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode("ascii")
    return {"dtype": array.dtype.name, "base64": data}


def _decode(name: str, value: object) -> Array:
    fields = checked_keys(f"state ({name})", value, frozenset(("dtype", "base64")))
    if fields["dtype"] not in _DTYPES:
        _refuse(DTypeError, f"{name} of dtype {fields['dtype']!r}", f"known are {_DTYPES}")
    dtype = np.dtype(fields["dtype"]).newbyteorder("<")
    try:
        return np.frombuffer(base64.b64decode(fields["base64"], validate=True), dtype)
    except (binascii.Error, TypeError, ValueError) as error:
        _refuse(InputError, f"{name}: {error}", "the array is damaged")


def _refuse(error: type[InputError], got: str, why: str) -> NoReturn:
    raise error(
        explain(
            asked="the state of a batch-norm layer",
            got=got,
            why=why,
            do="pass arrays of shape (C,), None for what the layer does not have",
        )
    )
