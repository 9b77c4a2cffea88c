"""Descriptions and arrays of layers, for properties over all dialects."""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np

from evenkeel.spec import ACTIVATIONS, Activation, Momentum, Renorm, Spec, State

_NUMBER = st.floats(0, 1, exclude_min=True)
#: Numbers as people write them, and any others.
_MOMENTUM = st.one_of(
    st.sampled_from([0.1, 0.01, 0.9, 0.99, 0.999, 0.0, 1.0]), _NUMBER, st.floats(-3, 3)
)
_EPS = st.one_of(st.sampled_from([1e-5, 1e-3, 1.001e-5, 0.0]), st.floats(1e-12, 1))


def momenta() -> st.SearchStrategy[Momentum]:
    """Any momentum, of either side, cumulative ones included."""
    constant = st.builds(Momentum, _MOMENTUM, st.sampled_from(["new", "old"]))
    return st.one_of(constant, st.just(Momentum.cumulative()))


def activations() -> st.SearchStrategy[Activation]:
    """Mostly none."""
    known = st.sampled_from([Activation.parse(name) for name in ACTIVATIONS])
    return st.one_of(st.just(Activation()), st.just(Activation()), known)


def rarely(value: Any, usual: Any) -> st.SearchStrategy[Any]:
    """``usual`` mostly."""
    return st.sampled_from([usual, usual, usual, value])


@st.composite
def specs(draw: st.DrawFn) -> Spec:
    """Any description; the usual values are the most likely."""
    rank = draw(st.sampled_from([None, 2, 3, 4, 4, 5]))
    axes = [1, 1, 1, -1] if rank is None else [1, 1, 1, -1, rank - 1, 1 - rank]
    dtypes = st.sampled_from(["float32", "float32", "float32", "float16", "bfloat16", "float64"])
    return Spec(
        channels=draw(st.integers(1, 4)),
        eps=draw(_EPS),
        momentum=draw(momenta()),
        scale=draw(st.booleans()),
        offset=draw(st.booleans()),
        track_statistics=draw(rarely(value=False, usual=True)),
        variance=draw(st.sampled_from(["biased", "unbiased"])),
        average=draw(rarely("debiased", "plain")),
        axis=draw(st.sampled_from(axes)),
        rank=rank,
        statistics_dtype=draw(dtypes),
        parameter_dtype=draw(dtypes),
        affine_frozen=draw(rarely(value=True, usual=False)),
        statistics_frozen=draw(rarely(value=True, usual=False)),
        activation=draw(activations()),
        synchronized=draw(rarely(value=True, usual=False)),
        masked=draw(rarely(value=True, usual=False)),
        renorm=draw(rarely(Renorm(Momentum(0.9, "old")), None)),
        name="layer",
    )


@st.composite
def states(draw: st.DrawFn, spec: Spec) -> State:
    """Arrays of a layer like ``spec``: random bits of its dtypes, NaN and Inf included."""
    fresh = State.initial(spec)
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    arrays = {}
    for name, array in fresh.arrays().items():
        dtype = spec.parameter_dtype if name in {"weight", "bias"} else spec.statistics_dtype
        arrays[name] = _random_bits(generator, array.shape, dtype)
    counted = spec.track_statistics
    batches = draw(st.none() | st.integers(0, 2**31 - 1)) if counted else None
    return State(**arrays, batches=batches)


def _random_bits(generator: np.random.Generator, shape: tuple[int, ...], dtype: str) -> Any:
    if dtype == "bfloat16":
        upper = generator.integers(0, 2**16, shape, dtype=np.uint32)
        return _quiet((upper << 16).view(np.float32))
    size = np.dtype(dtype).itemsize
    bits = generator.integers(0, 2 ** (8 * size), shape, dtype=f"u{size}")
    return _quiet(bits.view(dtype))


def _quiet(array: Any) -> Any:
    """A signalling NaN becomes quiet on its way through any arithmetic unit."""
    return np.where(np.isnan(array), np.nan, array).astype(array.dtype)


def pairs() -> st.SearchStrategy[tuple[Spec, State]]:
    """A description and arrays that fit it."""
    return specs().flatmap(lambda spec: st.tuples(st.just(spec), states(spec)))
