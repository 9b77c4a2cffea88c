"""What torch's batch-norm layers, and evenkeel's for torch, cannot say."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.dialects._unsayable import HARMLESS, Effect, Unsayable
from evenkeel.spec import IDENTITY

if TYPE_CHECKING:
    from torch import nn

    from evenkeel.spec import Spec, State

#: Options of torch's own layers; every other one is another framework's.
_OPTIONS: Final = ("nonfinite", "track_running_stats")
_RANK_OF: Final = {4: "2d", 5: "3d"}
_TAKEN: Final = {"1d": (2, 3), "2d": (4,), "3d": (5,)}


def choose_class(spec: Spec) -> type[nn.Module]:
    """The plainest class that says what ``spec`` says.

    ``torch.nn``'s where it can, ``evenkeel.nn``'s for the biased variance, an activation, a
    policy for non-finite batches, 16-bit parameters beside wide statistics, and frozen layers.
    The rank gives 2d and 3d; without one the layer is 1d, whose own rank is not fixed either
    (``kind`` chooses otherwise).
    """
    import torch

    from evenkeel import nn as ours

    if spec.statistics_frozen and spec.track_statistics and not _trains_affine(spec):
        return ours.FrozenBatchNorm
    if spec.synchronized:
        return torch.nn.SyncBatchNorm
    dimensions = _RANK_OF.get(spec.rank or 0, "1d")
    if spec.activation != IDENTITY:
        return getattr(ours, f"BatchNormAct{dimensions}")
    mixed = spec.parameter_dtype != spec.statistics_dtype and _has_both(spec)
    policy = spec.options.get("nonfinite", "propagate")
    special = spec.variance != "unbiased" or policy != "propagate" or mixed
    return getattr(ours if special else torch.nn, f"BatchNorm{dimensions}")


def unsayable(
    spec: Spec, state: State | None = None, kind: type[nn.Module] | None = None
) -> tuple[Unsayable, ...]:
    """What a torch layer of class ``kind`` cannot say of this layer.

    Args:
        spec: the description.
        state: the arrays, where they are known.
        kind: a class of ``torch.nn`` or ``evenkeel.nn``; ``choose_class`` without.
    """
    kind = kind or choose_class(spec)
    found = [
        *convention_refusals(spec),
        *_class_refusals(spec, kind),
        *_place_refusals(spec, kind),
        *_dtype_refusals(spec, kind),
        *_option_refusals(spec, kind),
    ]
    return (*found, *(_state_refusals(spec, state, kind) if state is not None else ()))


def is_ours(kind: type[nn.Module]) -> bool:
    """Whether the class is one of ``evenkeel.nn``."""
    return kind.__module__.startswith("evenkeel.nn")


def convention_refusals(spec: Spec) -> list[Unsayable]:
    """What no layer for torch can say of the numbers and the average."""
    found: list[Unsayable] = []
    if spec.eps == 0 and not spec.statistics_frozen:
        why, do = "torch refuses eps = 0 in training", "train with an eps above 0"
        found.append(Unsayable("eps", spec.eps, why, do, "training"))
    there = spec.momentum.as_weighing("new")
    if there.as_weighing(spec.momentum.weighs) != spec.momentum and not spec.momentum.is_cumulative:
        why = f"torch's number weighs the new value, and 1 - {spec.momentum.value!r} is not exact"
        do = "round the momentum to 15 decimal places"
        found.append(Unsayable("momentum", spec.momentum, why, do, "training"))
    if spec.average != "plain":
        why, do = "torch averages without a correction of the start", "set average='plain'"
        found.append(Unsayable("average", spec.average, why, do, "training"))
    if spec.renorm is not None:
        why, do = "torch has no batch renormalization", "set renorm=None"
        found.append(Unsayable("renorm", spec.renorm, why, do, "training"))
    if spec.masked:
        why = "a torch layer knows no mask of its own"
        do = "pass the mask to the forward() of an evenkeel.nn layer, and set masked=False"
        found.append(Unsayable("masked", spec.masked, why, do, "training"))
    return found


def _class_refusals(spec: Spec, kind: type[nn.Module]) -> list[Unsayable]:
    name, found = kind.__name__, list[Unsayable]()
    if spec.activation != IDENTITY and "Act" not in name:
        do = "apply it after the layer, or use evenkeel.nn.BatchNormAct"
        found.append(_of_class(spec, name, "activation", "applies none", do, "inference"))
    if spec.variance != "unbiased" and not is_ours(kind):
        do = "use the evenkeel.nn layer"
        found.append(_of_class(spec, name, "variance", "stores the unbiased one", do))
    if "Frozen" in name:
        return [*found, *_refusals_of_frozen(spec, name)]
    synchronized = "Sync" in name
    if spec.synchronized != synchronized:
        does = "takes the moments of all processes" if synchronized else "takes its own moments"
        do = f"set synchronized={synchronized}"
        found.append(_of_class(spec, name, "synchronized", does, do))
    if spec.statistics_frozen and spec.track_statistics:
        does, do = "updates them in training mode", "keep it in eval() mode, or freeze all of it"
        found.append(_of_class(spec, name, "statistics_frozen", does, do))
    elif spec.statistics_frozen:
        does, do = "has no statistics", "set statistics_frozen=False"
        found.append(_of_class(spec, name, "statistics_frozen", does, do, "none"))
    return [*found, *_nothing_to_freeze(spec, name)]


def _refusals_of_frozen(spec: Spec, name: str) -> list[Unsayable]:
    found = _nothing_to_freeze(spec, name)
    do = "use evenkeel.nn.BatchNorm"
    if not spec.statistics_frozen or _trains_affine(spec):
        found.append(_of_class(spec, name, "statistics_frozen", "never trains", do))
    if not spec.track_statistics:
        does = "needs statistics"
        found.append(_of_class(spec, name, "track_statistics", does, do, "inference"))
    if spec.synchronized:
        does, do = "takes no moments at all", "set synchronized=False"
        found.append(_of_class(spec, name, "synchronized", does, do, "none"))
    return found


def _nothing_to_freeze(spec: Spec, name: str) -> list[Unsayable]:
    if not spec.affine_frozen or spec.scale or spec.offset:
        return []
    does, do = "has neither scale nor offset", "set affine_frozen=False"
    return [_of_class(spec, name, "affine_frozen", does, do, "none")]


def _of_class(
    spec: Spec, name: str, field: str, does: str, do: str, effect: Effect = "training"
) -> Unsayable:
    return Unsayable(field, getattr(spec, field), f"a {name} {does}", do, effect)


def _place_refusals(spec: Spec, kind: type[nn.Module]) -> list[Unsayable]:
    """Channels, axis and rank."""
    found: list[Unsayable] = []
    if spec.channels == 0:
        why, do = "torch does not run on 0 channels", "leave the layer out"
        found.append(Unsayable("channels", 0, why, do, "inference"))
    if spec.axis != 1:
        same = spec.rank is not None and spec.axis + spec.rank == 1
        why = "torch's channels are at axis 1"
        do = "move the channels of the layer's input to axis 1, and set axis=1"
        effect: Effect = "none" if same else "inference"
        found.append(Unsayable("axis", spec.axis, why, do, effect))
    taken = _TAKEN.get(kind.__name__[-2:])
    if spec.rank is not None and taken is not None and spec.rank not in taken:
        why, do = f"a {kind.__name__} takes inputs of rank {taken}", "choose another kind"
        found.append(Unsayable("rank", spec.rank, why, do, "inference"))
    elif spec.rank is not None and taken not in {(4,), (5,)}:
        why, do = f"a {kind.__name__} takes inputs of other ranks, too", "set rank=None"
        found.append(Unsayable("rank", spec.rank, why, do, "none"))
    elif spec.rank is None and taken in {(4,), (5,)}:
        why, do = f"a {kind.__name__} takes inputs of rank {taken[0]} only", "pass kind=None"
        found.append(Unsayable("rank", None, why, do, "none"))
    return found


def _dtype_refusals(spec: Spec, kind: type[nn.Module]) -> list[Unsayable]:
    found: list[Unsayable] = []
    parameters, statistics = spec.parameter_dtype, spec.statistics_dtype
    if not (spec.scale or spec.offset) and parameters != "float32":
        why, do = "the layer has no parameters", "set parameter_dtype='float32'"
        found.append(Unsayable("parameter_dtype", parameters, why, do, "none"))
    if not spec.track_statistics and statistics != "float32":
        why, do = "the layer has no statistics", "set statistics_dtype='float32'"
        found.append(Unsayable("statistics_dtype", statistics, why, do, "none"))
    elif is_ours(kind) and statistics in {"float16", "bfloat16"}:
        why, do = "evenkeel.nn keeps statistics in float32", "set statistics_dtype='float32'"
        found.append(Unsayable("statistics_dtype", statistics, why, do, "training"))
    elif _has_both(spec) and parameters != statistics:
        halves = parameters in {"float16", "bfloat16"} and statistics == "float32"
        if not (halves and is_ours(kind)):
            why = f"torch does not run {parameters} parameters beside {statistics} statistics"
            do = "give both the same dtype"
            found.append(Unsayable("statistics_dtype", statistics, why, do, "inference"))
    return found


def _option_refusals(spec: Spec, kind: type[nn.Module]) -> list[Unsayable]:
    found: list[Unsayable] = []
    for name, value in spec.options.items():
        if name == "class":
            why, do = "the class has a forward of its own", "build a layer of that class"
            effect: Effect = "inference"
        elif name not in _OPTIONS:
            why, do = "torch's layer has no such setting", "set it to the framework's default"
            harmless = name in HARMLESS or "init" in name  # the arrays are there already
            effect = "none" if harmless else "training"
        elif name == "nonfinite" and not _takes_policy(value, kind):
            why, do = f"a {kind.__name__} has no such policy", "use the evenkeel.nn layer"
            frozen = "Frozen" in kind.__name__
            effect = "none" if frozen or value == "propagate" else "training"
        elif name == "track_running_stats" and not spec.track_statistics:
            why, do, effect = "the layer has no statistics", "leave the option out", "none"
        else:
            continue
        found.append(Unsayable(f"options[{name!r}]", value, why, do, effect))
    return found


def _takes_policy(value: object, kind: type[nn.Module]) -> bool:
    if not is_ours(kind) or "Frozen" in kind.__name__:
        return False
    return value in {"skip", "raise"}


def _state_refusals(spec: Spec, state: State, kind: type[nn.Module]) -> list[Unsayable]:
    found: list[Unsayable] = []
    for name, value in state.others.items():
        why, do = "torch's layer has no such array", "leave it out"
        effect: Effect = "none" if spec.renorm is None else "training"
        found.append(Unsayable(f"others[{name!r}]", value.tolist(), why, do, effect))
    dtypes = {
        **dict.fromkeys(("weight", "bias"), spec.parameter_dtype),
        **dict.fromkeys(("running_mean", "running_var"), spec.statistics_dtype),
    }
    for name, dtype in dtypes.items():
        array = getattr(state, name)
        if array is not None and not is_exact(array, dtype):
            why, do = f"its values are no {dtype} values", "round the array, or widen the dtype"
            found.append(Unsayable(name, f"{array.dtype.name} array", why, do, "inference"))
    return [*found, *_counter_refusals(spec, state, kind)]


def _counter_refusals(spec: Spec, state: State, kind: type[nn.Module]) -> list[Unsayable]:
    if not spec.track_statistics and state.batches is not None:
        why, do = "a layer without statistics has no counter", "set batches=None"
        return [Unsayable("batches", state.batches, why, do, "none")]
    if spec.track_statistics and state.batches is None and "Frozen" not in kind.__name__:
        effect: Effect = "training" if spec.momentum.is_cumulative else "none"
        return [Unsayable("batches", None, "torch counts from 0", "set batches=0", effect)]
    return []


def is_exact(array: Any, dtype: str) -> bool:
    """Whether an array holds values of ``dtype`` only; NaN counts as one."""
    if dtype == "bfloat16":
        wide = array.astype(np.float32)
        bits = wide.view(np.uint32)
        same = np.array_equal(wide.astype(array.dtype), array, equal_nan=True)
        return bool(same and not (bits[~np.isnan(wide)] & 0xFFFF).any())
    if array.dtype.itemsize <= np.dtype(dtype).itemsize:
        return True
    with np.errstate(over="ignore"):
        return np.array_equal(array.astype(dtype).astype(array.dtype), array, equal_nan=True)


def takes_variance(module: nn.Module) -> bool:
    """Whether the layer has a choice of the variance that it stores."""
    return is_ours(type(module))


def _trains_affine(spec: Spec) -> bool:
    return (spec.scale or spec.offset) and not spec.affine_frozen


def _has_both(spec: Spec) -> bool:
    return (spec.scale or spec.offset) and spec.track_statistics
