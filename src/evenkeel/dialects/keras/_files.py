"""What a file of Keras says about a network, and the names of the arrays in it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from evenkeel.checkpoints import StoredArray
from evenkeel.dialects._layers import Layer, StoredNetwork
from evenkeel.dialects.keras._arrays import arrays_of
from evenkeel.dialects.keras._config import read_config
from evenkeel.dialects.keras._entries import Entry, read_entries
from evenkeel.dialects.keras._guess import guess
from evenkeel.dialects.keras._kinds import Part, read_parts
from evenkeel.errors import InputError, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from numpy.typing import NDArray

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.spec import Spec

_NOT_STORED: Final = (
    *("eps", "momentum", "variance", "axis", "rank", "affine_frozen", "statistics_frozen"),
    *("synchronized", "options"),
)
_GUESSED: Final = (
    "the file does not describe all of its layers: their kinds come from names and shapes, and "
    "eps, momentum and other settings are Keras's defaults"
)
_UNSURE: Final = (
    "whether a stored variance is biased depends on the rank of the layer's inputs in Keras 2, "
    "which the file does not tell for all layers"
)


@dataclass(frozen=True, slots=True)
class _Found:
    """One canonical layer of a file, with the names of its arrays by role."""

    layer: Layer
    names: dict[str, str]


def read_network(checkpoint: Checkpoint, kinds: Mapping[str, str] | None = None) -> StoredNetwork:
    """The layers of a ``.keras``, ``.weights.h5`` or older ``.h5`` file.

    Kinds come from the configuration where the file has one; otherwise from the groups' names,
    which Keras makes from the classes, and from shapes. What cannot be known is ``"other"``.

    Args:
        checkpoint: of kind ``"keras"`` or ``"hdf5"``.
        kinds: kind by name of a layer, for layers that no configuration describes.

    Raises:
        InputError: the configuration has another form than Keras writes.
    """
    found, remarks = _find(checkpoint, kinds or {})
    taken = {name for item in found for name in item.names.values()}
    return StoredNetwork(
        dialect="keras",
        layers=tuple(item.layer for item in found),
        unread=tuple(name for name in checkpoint.arrays if name not in taken),
        remarks=tuple(remarks),
    )


def write_network(
    layers: Iterable[Layer], like: Checkpoint | None = None
) -> dict[str, StoredArray]:
    """Names and arrays of a file like ``like``; values are changed when they are read.

    Args:
        layers: named as in ``like``.
        like: a file of the target model, which gives the names. Keras numbers its groups, so
            there are none without it.

    Raises:
        InputError: ``like`` is missing, or has no such layer, role or shape.
    """
    if like is None:
        raise _refusal(
            "no file of the target model",
            "Keras numbers the groups of a file by class and place, not by the layers' names",
            'build the model in Keras, model.save("like.keras"), and pass that file as like',
        )
    targets = {item.layer.name: item for item in _find(like, {})[0]}
    arrays: dict[str, StoredArray] = {}
    for layer in layers:
        target = targets.get(layer.name)
        for role, array in layer.arrays.items():
            if target is None or role not in target.names:
                has = sorted(target.names) if target else sorted(targets)[:8]
                why = f"the target model has {', '.join(has)}"
                raise _refusal(f"{role} of {layer.name!r}", why, "pass a file of such a model")
            wanted = target.layer.arrays[role].shape
            if array.shape != wanted:
                why = f"the target model has {wanted} there"
                got = f"{role} of {layer.name!r} with shape {array.shape}"
                raise _refusal(got, why, "pass a file of a model of that size")
            name = target.names[role]
            arrays[name] = _reshaped(array, like.arrays[name].shape)
    return arrays


def _find(checkpoint: Checkpoint, kinds: Mapping[str, str]) -> tuple[list[_Found], list[str]]:
    model = checkpoint.config.get("model")
    entries = read_entries(model) if model else ()
    held, left = arrays_of(checkpoint, entries)
    version = str((checkpoint.config.get("metadata") or {}).get("keras_version", ""))
    found: list[_Found] = []
    for entry in entries:
        found += _as_layers(checkpoint, entry, held.get(entry.name, {}), version)
    guessed: list[_Found] = []
    for entry, names in guess(checkpoint, left, kinds, [entry.name for entry in entries]):
        guessed += _as_layers(checkpoint, entry, names, version, guessed=True)
    remarks = [_GUESSED] if guessed else []
    if any(item.layer.assumed for item in found):
        remarks.append(_UNSURE)
    return [*found, *guessed], remarks


def _as_layers(
    checkpoint: Checkpoint,
    entry: Entry,
    names: dict[str, str],
    version: str,
    *,
    guessed: bool = False,
) -> Iterator[_Found]:
    shapes = {place: checkpoint.arrays[name].shape for place, name in names.items()}
    if not shapes and entry.class_name not in {"Rescaling", "Normalization"}:
        return
    for part in read_parts(entry.class_name, entry.config, shapes):
        settings = dict(part.settings)
        if guessed:
            settings = {key: settings[key] for key in entry.config.get("known", settings)}
        if part.kind == "dense" and entry.flattened is not None:
            settings["flattened"] = entry.flattened
        layer = Layer(
            name=entry.name + part.suffix,
            kind=part.kind,
            arrays={
                weight.role: _reshaped(checkpoint.arrays[names[weight.place]], weight.shape)
                for weight in part.weights
            },
            settings=settings,
            trainable=entry.trainable,
        )
        if part.kind == "batch_norm":
            layer = _with_spec(layer, entry, part, version, guessed=guessed)
        yield _Found(layer, {weight.role: names[weight.place] for weight in part.weights})


def _with_spec(layer: Layer, entry: Entry, part: Part, version: str, *, guessed: bool) -> Layer:
    mean = layer.arrays["running_mean"]
    affine = layer.arrays.get("weight", layer.arrays.get("bias", mean))
    shape: tuple[int | None, ...] | None = entry.config.get("input_shape")
    variance, sure = _variance(entry.config, shape, mean.dtype, version)
    has = {weight.role for weight in part.weights}
    config = entry.config | {"trainable": entry.trainable}
    if guessed:
        config |= {"scale": "weight" in has, "center": "bias" in has}
    spec: Spec = read_config(
        config,
        channels=mean.shape[0],
        rank=None if shape is None else len(shape),
        parameter_dtype=affine.dtype,
        statistics_dtype=mean.dtype,
        name=entry.name,
        variance=variance,
    )
    assumed = _NOT_STORED if guessed else () if sure else ("variance",)
    return replace(layer, spec=spec, assumed=assumed)


def _variance(
    config: Mapping[str, Any], shape: tuple[int | None, ...] | None, dtype: str, version: str
) -> tuple[str, bool]:
    """Convention of the stored variance, and whether it is sure.

    Keras 2 stores the unbiased variance where it runs TensorFlow's fused operation: inputs of
    rank 4 or 5, channels on axis 1 or last, no float64, and nothing that the operation lacks.
    """
    major = version.partition(".")[0]
    if not version:
        return "biased", False
    if major.isdigit() and int(major) >= 3:
        return "biased", True
    lacks = ("renorm", "virtual_batch_size", "adjustment", "synchronized")
    if dtype == "float64" or config.get("fused") is False or any(config.get(k) for k in lacks):
        return "biased", True
    axis = config.get("axis", -1)
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if shape is None:
        return ("unbiased" if axis in {3, 4} else "biased"), axis in {3, 4}
    fused = len(shape) in {4, 5} and axis in {1, -1, len(shape) - 1}
    return ("unbiased" if fused else "biased"), True


def _reshaped(array: StoredArray, shape: tuple[int, ...]) -> StoredArray:
    if array.shape == shape:
        return array

    def read(inner: Callable[[], NDArray[Any]] = array.read) -> NDArray[Any]:
        return inner().reshape(shape)

    return StoredArray(shape, array.dtype, read)


def _refusal(got: str, why: str, do: str) -> InputError:
    return InputError(explain(asked="write a network for Keras", got=got, why=why, do=do))
