"""What Keras cannot say about a batch-norm layer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

from evenkeel.dialects._unsayable import HARMLESS, Effect, Unsayable
from evenkeel.dialects.keras._config import OPTIONS
from evenkeel.dialects.keras._kinds import RENORM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.spec import Spec, State

_OURS: Final = "use evenkeel.integrations.keras.BatchNormalization"
#: Of an int32, because JAX has no int64 unless a process chooses it.
_MOST_BATCHES: Final = 2**31 - 1
_PLAIN: Final = "use keras.layers.BatchNormalization"


def unsayable(
    spec: Spec, state: State | None = None, kind: type[Any] | None = None
) -> tuple[Unsayable, ...]:
    """Fields that a Keras layer cannot hold.

    Args:
        spec: the description.
        state: the arrays, where they are known.
        kind: class of the layer, ``keras.layers.BatchNormalization`` where None. A class says
            what it can hold beyond Keras's own in its attribute ``evenkeel_says``, and what it
            refuses in ``evenkeel_refuses``.
    """
    says = getattr(kind, "evenkeel_says", frozenset[str]())
    refuses = getattr(kind, "evenkeel_refuses", frozenset[str]())
    found = [*_conventions(spec, says), *_placement(spec), *_function(spec, refuses)]
    found += [*_options(spec, says)]
    return tuple(found if state is None else [*found, *_arrays(spec, state, says)])


def _item(field: str, value: object, why: str, do: str, effect: Effect) -> Unsayable:
    return Unsayable(field, value, why, do, effect)


def _conventions(spec: Spec, says: frozenset[str]) -> Iterator[Unsayable]:
    if spec.variance != "biased" and "variance" not in says:
        why = "Keras stores the biased variance of a batch"
        yield _item("variance", spec.variance, why, _OURS, "training")
    if spec.momentum.is_cumulative and "cumulative" not in says:
        why = "Keras has no average in which all batches count alike"
        yield _item("momentum", None, why, _OURS, "training")
    there = spec.momentum.as_weighing("old")
    if there.as_weighing(spec.momentum.weighs) != spec.momentum:
        why = f"Keras's number weighs the old value, and 1 - {spec.momentum.value!r} is not exact"
        yield _item("momentum", spec.momentum, why, "round it to 15 decimal places", "training")
    if spec.average != "plain":
        why = "Keras averages from what is stored, and does not divide when it reads"
        yield _item("average", spec.average, why, "use it for inference only", "training")
    if spec.affine_frozen != spec.statistics_frozen and (spec.scale or spec.offset):
        why = "trainable=False freezes scale, offset and statistics together"
        do = "freeze both or none"
        yield _item("affine_frozen", spec.affine_frozen, why, do, "training")
    if "float64" in {spec.parameter_dtype, spec.statistics_dtype} and _is_single():
        why = "JAX makes float32 of it"
        do = 'jax.config.update("jax_enable_x64", True)'
        yield _item("parameter_dtype", spec.parameter_dtype, why, do, "inference")
    elif spec.parameter_dtype != spec.statistics_dtype:
        why = "all variables of a Keras layer have one dtype"
        do = f"store all of it as {spec.statistics_dtype}"
        yield _item("parameter_dtype", spec.parameter_dtype, why, do, "training")


def _placement(spec: Spec) -> Iterator[Unsayable]:
    if spec.rank is None:
        why = "a built Keras layer takes inputs of one rank"
        yield _item("rank", None, why, "say which: build_module(..., rank=4)", "none")
    if "/" in spec.name:
        why = "the name of a Keras layer has no slash"
        yield _item("name", spec.name, why, "name it otherwise; slashes become _", "none")
    if spec.masked:
        why = "a Keras layer gets its mask with every call, and does not hold it"
        yield _item("masked", spec.masked, why, "pass the mask in the target network, too", "none")


def _function(spec: Spec, refuses: frozenset[str]) -> Iterator[Unsayable]:
    if not spec.track_statistics:
        why = "Keras always normalizes with running statistics in inference"
        do = "keep statistics (torch: track_running_stats=True) and train for some batches"
        yield _item("track_statistics", spec.track_statistics, why, do, "inference")
    if spec.activation.name != "identity":
        why = "a Keras batch-norm layer applies no activation"
        do = "write an activation layer after it"
        yield _item("activation", spec.activation.name, why, do, "inference")
    if spec.synchronized and (_backend() != "tensorflow" or "synchronized" in refuses):
        why = "Keras synchronizes on its TensorFlow backend only, and E[x^2] - E[x]^2 there"
        yield _item("synchronized", spec.synchronized, why, f"{_PLAIN} on TensorFlow", "training")
    if spec.renorm is not None and "renorm" in refuses:
        why = "this layer has no batch renormalization"
        yield _item("renorm", spec.renorm, why, _PLAIN, "training")


def _backend() -> str:
    """Of this process; a file, which needs no Keras, may be for any."""
    keras = sys.modules.get("keras")
    return "tensorflow" if keras is None else keras.backend.backend()


def _is_single() -> bool:
    jax = sys.modules.get("jax")
    return _backend() == "jax" and jax is not None and not jax.config.jax_enable_x64


def _options(spec: Spec, says: frozenset[str]) -> Iterator[Unsayable]:
    known = {key for key in OPTIONS if key != "nonfinite" or "nonfinite" in says}
    for key in sorted(spec.options.keys() - known):
        value = spec.options[key]
        why = "only the framework that wrote it understands it"
        if key == "class":
            yield _item("options.class", value, "its own forward may do more", _OURS, "inference")
        elif key == "nonfinite":
            ours: Effect = "none" if value == "propagate" else "training"
            yield _item("options.nonfinite", value, "Keras lets NaN in", _OURS, ours)
        else:
            harmless = "init" in key or key in HARMLESS
            effect: Effect = "none" if harmless else "training"
            yield _item(f"options.{key}", value, why, "say it in Keras's terms", effect)


def _arrays(spec: Spec, state: State, says: frozenset[str]) -> Iterator[Unsayable]:
    counted = spec.momentum.is_cumulative
    counts = counted and "cumulative" in says
    effect: Effect = "training" if counted else "none"
    if counts and not (state.batches is not None and state.batches <= _MOST_BATCHES):
        why = f"the average goes on from a number of batches up to {_MOST_BATCHES}"
        yield _item("batches", state.batches, why, "set the counter in the source", effect)
    elif state.batches is not None and not counts:
        why = "Keras counts no batches; a constant momentum does not need the number"
        yield _item("batches", state.batches, why, "nothing, unless you need the number", effect)
    held = {*RENORM} if spec.renorm is not None else set[str]()
    for name in sorted(state.others.keys() - held):
        yield _item(f"others.{name}", "an array", "Keras has no such array", _PLAIN, "training")
    for name in sorted(held - state.others.keys()):
        why = "batch renormalization goes on from it"
        yield _item(f"others.{name}", None, why, "use it for inference only", "training")
