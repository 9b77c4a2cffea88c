"""What the operator BatchNormalization cannot say.

The operator describes inference. Its float32 attributes change eps and momentum by at most one
part in 2^24. In a layer of float32 or narrower arrays that is below what its own arithmetic
rounds away, so it is listed with its size and ``effect="none"``; in a float64 layer it is not,
and it is refused.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from evenkeel.dialects._unsayable import HARMLESS, Effect, Unsayable
from evenkeel.dialects.torch._unsayable import is_exact
from evenkeel.spec import IDENTITY

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.spec import Spec, State

#: Largest relative change by rounding to a normal float32.
_ROUNDING: Final = 2.0**-24
#: Since this version statistics may have a dtype of their own.
_OWN_STATISTICS: Final = 14


def unsayable(spec: Spec, state: State | None = None, opset: int = 15) -> tuple[Unsayable, ...]:
    """What a batch-norm node cannot say of this layer.

    Args:
        spec: the description.
        state: the arrays, where they are known.
        opset: version of the standard operators.
    """
    found = [*_numbers(spec), *_conventions(spec), *_function(spec), *_dtypes(spec, opset)]
    return (*found, *_options(spec), *(_arrays(spec, state) if state is not None else ()))


def _numbers(spec: Spec) -> Iterator[Unsayable]:
    if loss := _loss(spec.eps):
        yield _rounded(spec, "eps", spec.eps, loss, "inference")
    there = spec.momentum.as_weighing("old")
    if there.value is None:
        why, do = "a node has a constant momentum", "set a constant one"
        yield Unsayable("momentum", spec.momentum, why, do, "training")
        return
    if there.as_weighing(spec.momentum.weighs) != spec.momentum:
        why = f"ONNX weighs the old value, and 1 - {spec.momentum.value!r} is not exact"
        do = "round the momentum to 15 decimal places"
        yield Unsayable("momentum", spec.momentum, why, do, "training")
    elif loss := _loss(there.value):
        yield _rounded(spec, "momentum", there.value, loss, "training")


def _loss(value: float) -> float:
    """Relative change by the float32 attribute."""
    if value == 0:
        return 0.0
    with np.errstate(over="ignore"):
        return abs(float(np.float32(value)) - value) / abs(value)


def _rounded(spec: Spec, field: str, value: float, loss: float, effect: Effect) -> Unsayable:
    wide = "float64" in {spec.parameter_dtype, spec.statistics_dtype}
    with np.errstate(over="ignore"):
        why = f"the attribute is float32: {float(np.float32(value))!r}, a change of {loss:.1e}"
    do = "choose a float32 number" if wide or loss > _ROUNDING else "nothing"
    harmless = loss <= _ROUNDING and not wide
    return Unsayable(field, getattr(spec, field), why, do, "none" if harmless else effect)


def _conventions(spec: Spec) -> Iterator[Unsayable]:
    if spec.variance != "biased":
        why, do = "the operator stores the biased variance", "use it for inference only"
        yield Unsayable("variance", spec.variance, why, do, "training")
    for field, usual in (("average", "plain"), ("renorm", None), ("masked", False)):
        value = getattr(spec, field)
        if value != usual:
            why, do = "the operator has no such thing", "use it for inference only"
            yield Unsayable(field, value, why, do, "training")
    for field in ("affine_frozen", "statistics_frozen", "synchronized"):
        if getattr(spec, field):
            why, do = "a node says nothing of training", "use it for inference only"
            yield Unsayable(field, getattr(spec, field), why, do, "training")
    for field, constant in (("scale", 1), ("offset", 0)):
        if not getattr(spec, field):
            why = f"a node always has one; it is written as {constant}, and must not be trained"
            yield Unsayable(
                field, getattr(spec, field), why, "use it for inference only", "training"
            )


def _function(spec: Spec) -> Iterator[Unsayable]:
    if spec.channels == 0:
        why, do = "no array of a node is empty", "leave the layer out"
        yield Unsayable("channels", 0, why, do, "inference")
    if not spec.track_statistics:
        why, do = "a node in inference mode needs statistics", "recalibrate the layer first"
        yield Unsayable("track_statistics", spec.track_statistics, why, do, "inference")
    if spec.activation != IDENTITY:
        why, do = "the operator applies no activation", "put a node of it behind"
        yield Unsayable("activation", spec.activation, why, do, "inference")
    if spec.axis != 1:
        same = spec.rank is not None and spec.axis + spec.rank == 1
        why, do = "the operator's channels are at axis 1", "put Transpose nodes around it"
        yield Unsayable("axis", spec.axis, why, do, "none" if same else "inference")
    if spec.rank is not None:
        why, do = "the operator takes inputs of every rank", "set rank=None"
        yield Unsayable("rank", spec.rank, why, do, "none")


def _dtypes(spec: Spec, opset: int) -> Iterator[Unsayable]:
    parameters, statistics = spec.parameter_dtype, spec.statistics_dtype
    if opset < _OWN_STATISTICS and parameters != statistics:
        why, do = f"all arrays of a node have one dtype in opset {opset}", "choose opset 15"
        yield Unsayable("statistics_dtype", statistics, why, do, "inference")
    if opset < _OWN_STATISTICS and "bfloat16" in {parameters, statistics}:
        why, do = f"opset {opset} has no bfloat16", "choose opset 15"
        yield Unsayable("parameter_dtype", parameters, why, do, "inference")


def _options(spec: Spec) -> Iterator[Unsayable]:
    for name, value in spec.options.items():
        why, do = "a node has no such attribute", "set it to the framework's default"
        harmless = name in HARMLESS or "init" in name or value == "propagate"
        effect: Effect = "none" if harmless else "training"
        if name == "class":
            why, effect = "the class has a forward of its own", "inference"
        if name == "training_mode":
            why, do = "nodes are written in inference mode", "leave the option out"
        yield Unsayable(f"options[{name!r}]", value, why, do, effect)


def _arrays(spec: Spec, state: State) -> Iterator[Unsayable]:
    if state.batches is not None:
        effect: Effect = "training" if spec.momentum.is_cumulative else "none"
        yield Unsayable("batches", state.batches, "a node does not count", "nothing", effect)
    for name, array in state.others.items():
        effect = "none" if spec.renorm is None else "training"
        why, do = "a node has no such array", "leave it out"
        yield Unsayable(f"others[{name!r}]", array.tolist(), why, do, effect)
    for name in ("weight", "bias", "running_mean", "running_var"):
        array = getattr(state, name)
        dtype = spec.parameter_dtype if name in {"weight", "bias"} else spec.statistics_dtype
        if array is not None and not is_exact(array, dtype):
            why, do = f"its values are no {dtype} values", "round the array, or widen the dtype"
            yield Unsayable(name, f"{array.dtype.name} array", why, do, "inference")
