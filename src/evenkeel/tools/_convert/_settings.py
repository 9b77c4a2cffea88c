"""Batch-norm settings on their way into a file: carried, to be set in code, or refused."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from evenkeel.errors import UnsayableError, explain
from evenkeel.tools._convert._records import LeftOut, Setting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.dialects._layers import Layer
    from evenkeel.dialects._unsayable import Unsayable
    from evenkeel.spec import Spec
    from evenkeel.tools._convert._records import Framework, Purpose

#: Field -> what would differ if two layers did not share it.
_EFFECTS: Final = {
    "eps": "inference",
    "track_statistics": "inference",
    "activation": "inference",
    "momentum": "training",
    "variance": "training",
    "average": "training",
    "renorm": "training",
}
#: Fields that a file of weights alone never stores, and its reader does not list as assumed.
_OF_CODE: Final = {
    "affine_frozen": "training",
    "statistics_frozen": "training",
    "synchronized": "training",
    "masked": "training",
}
#: Fields that evenkeel's own layer of the framework says where the framework's does not.
_OWN_LAYER: Final[dict[str, tuple[str, ...]]] = {
    "torch": ("variance",),
    "keras": ("variance", "momentum"),
    "flax": ("variance", "momentum"),
    "onnx": (),
}
#: Layer norm and group norm.
_NORMS: Final = {
    "torch": ("torch.nn.LayerNorm", "torch.nn.GroupNorm"),
    "keras": ("keras.layers.LayerNormalization", "keras.layers.GroupNormalization"),
    "flax": ("flax.nnx.LayerNorm", "flax.nnx.GroupNorm"),
    "onnx": ("LayerNormalization", "GroupNormalization"),
}
_SIDES: Final = {"torch": "new", "keras": "old", "flax": "old", "onnx": "old"}
#: Fields that decide what a layer computes and that files of weights do not store.
DECIDING: Final = ("eps", "momentum", "variance")


def is_settled(layer: Layer) -> bool:
    """Whether the file says all of a batch-norm layer that decides what it computes."""
    return not {*DECIDING} & {*layer.assumed}


def in_target(spec: Spec, framework: Framework) -> Spec:
    """The description with the channel axis where the framework puts it."""
    return replace(spec, axis=1 if framework in {"torch", "onnx"} else -1)


def leave_out(
    layer: Layer, found: Sequence[Unsayable], framework: Framework, purpose: Purpose
) -> list[LeftOut]:
    """What the target cannot say of a layer and need not, for the report.

    Raises:
        UnsayableError: it cannot say something that the purpose needs.
    """
    # A layer that takes inputs of more ranks than it was built for computes the same.
    own = (*_OWN_LAYER[framework], "rank")
    found = [item for item in found if item.field not in own]
    needed = ("inference",) if purpose == "inference" else ("inference", "training")
    refused = [item for item in found if item.effect in needed]
    if refused:
        do = "; ".join(dict.fromkeys(item.do for item in refused))
        if all(item.effect == "training" for item in refused):
            do += '; or convert with purpose="inference" (--inference)'
        raise UnsayableError(
            explain(
                asked=f"convert the batch-norm layer {layer.name!r} to {framework}",
                got=", ".join(f"{item.field}={item.value!r}" for item in refused),
                why="; ".join(f"{item.field}: {item.why}" for item in refused),
                do=do,
            )
        )
    return [LeftOut(f"{layer.name}: {i.field}", f"{i.value!r} ({i.effect})", i.why) for i in found]


def drop_counter(layer: Layer, purpose: Purpose) -> list[LeftOut]:
    """The counter of batches, which most files have no place for; none where it is 0.

    Raises:
        UnsayableError: the layer takes a cumulative average, which goes on from the counter.
    """
    count = int(layer.arrays["batches"].read().reshape(()))
    if not count:
        return []
    known = layer.spec is not None and "momentum" not in layer.assumed
    if known and layer.spec is not None and layer.spec.momentum.is_cumulative:
        if purpose == "training":
            raise UnsayableError(
                explain(
                    asked=f"convert the batch-norm layer {layer.name!r}",
                    got=f"a cumulative average after {count} batches",
                    why="the target has no place for the counter that it goes on from",
                    do="pass a like with evenkeel's own layers, or purpose='inference'",
                )
            )
        why = "the cumulative average starts anew"
    else:
        why = "the counter; no computation reads it under a constant momentum"
    return [LeftOut(f"{layer.name}: batches", str(count), why)]


def compare_with_like(
    source: Layer, like: Layer, said: str, framework: Framework, purpose: Purpose
) -> list[LeftOut]:
    """Hold the settings of a layer against those that the target's structure brings along.

    Raises:
        UnsayableError: both are stored and differ in something that the purpose needs.
    """
    if source.spec is None or like.spec is None:
        return []
    unknown = {*source.assumed, *like.assumed}
    effects = {**_EFFECTS, **({} if unknown else _OF_CODE)}
    different = {
        name: (_value(source.spec, name, framework), _value(like.spec, name, framework))
        for name in effects
        if name not in unknown
    }
    different = {name: pair for name, pair in different.items() if pair[0] != pair[1]}
    needed = {"inference"} if purpose == "inference" else {"inference", "training"}
    refused = {name: pair for name, pair in different.items() if effects[name] in needed}
    if refused:
        wanted = ", ".join(f"{name}={mine!r}" for name, (mine, _) in refused.items())
        there = ", ".join(f"{name}={theirs!r}" for name, (_, theirs) in refused.items())
        raise UnsayableError(
            explain(
                asked=f"convert the batch-norm layer {source.name!r}",
                got=f"{wanted} ({framework}'s convention)",
                why=f"{like.name!r} of {said} has {there}, and the target would have it, too",
                do=f"build it with {wanted}, {code_of(source, framework)}, and pass that as like",
            )
        )
    return [
        LeftOut(f"{source.name}: {name}", repr(mine), f"{said} has {theirs!r} (training)")
        for name, (mine, theirs) in different.items()
    ]


def _value(spec: Spec, name: str, framework: Framework) -> Any:  # noqa: ANN401 - of that field
    """A field in the framework's convention; ONNX has its numbers in float32."""
    value = getattr(spec, name)
    if name == "momentum":
        value = value.as_weighing(_SIDES[framework]).value
    if framework == "onnx" and isinstance(value, float):
        value = float(np.float32(value))
    return value


def comparable(layer: Layer, name: str, framework: Framework) -> Any:  # noqa: ANN401 - as above
    """A setting of a batch-norm layer in the convention of ``framework``."""
    return None if layer.spec is None else _value(layer.spec, name, framework)


def setting_of(
    layer: Layer, source: Layer, like: Layer | None, framework: Framework, *, carried: bool
) -> Setting | None:
    """What the code that builds the model has to set, None where the file says it all.

    Args:
        layer: as it is written; its name is the target's.
        source: as it was read.
        like: its counterpart, if there is one.
        framework: of the target.
        carried: whether the target file can store all settings by itself.
    """
    if layer.spec is None:
        return _norm_setting(layer, source, like, framework)
    like_assumes = {*like.assumed} if like is not None else {*DECIDING}
    if carried and is_settled(source):
        return None
    if like is not None and not {*DECIDING} & like_assumes:
        return None
    unknown = tuple(n for n in DECIDING if n in source.assumed and n in like_assumes)
    if len(unknown) == len(DECIDING):
        return Setting(layer.name, "", {}, unknown)
    filled = layer
    if like is not None and like.spec is not None:
        taken = [n for n in source.assumed if n in DECIDING and n not in like_assumes]
        spec = replace(layer.spec, **{name: getattr(like.spec, name) for name in taken})
        filled = replace(layer, spec=spec)
    values = arguments(filled, framework, unknown)
    return Setting(layer.name, code_of(filled, framework, unknown), values, unknown)


def _norm_setting(
    layer: Layer, source: Layer, like: Layer | None, framework: Framework
) -> Setting | None:
    """The eps of layer and group norm, whose defaults differ between frameworks."""
    eps = source.settings.get("eps")
    if eps is None or (like is not None and "eps" in like.settings):
        return None
    name = "eps" if framework == "torch" else "epsilon"
    group = layer.kind == "group_norm"
    code = f"{_NORMS[framework][group]}({name}={eps!r})"
    return Setting(layer.name, code, {name: eps})


def arguments(layer: Layer, framework: Framework, unknown: Sequence[str] = ()) -> dict[str, Any]:
    """The arguments of the framework's layer, by its own names."""
    spec = layer.spec
    if spec is None:
        return {}
    eps = "eps" if framework == "torch" else "epsilon"
    names = {"eps": eps, "momentum": "momentum", "variance": "variance"}
    return {
        name: _value(spec, field, framework)
        for field, name in names.items()
        if field not in unknown
    }


def code_of(layer: Layer, framework: Framework, unknown: Sequence[str] = ()) -> str:
    """The layer as the code that builds the model would write it."""
    values = arguments(layer, framework, unknown)
    plain = {"torch": "unbiased"}.get(framework, "biased")
    own = values.get("variance", plain) != plain
    if framework != "torch" and "momentum" in values and values["momentum"] is None:
        own = True
    if not own:
        values.pop("variance", None)
    spec = layer.spec
    channels = [str(spec.channels)] if spec and framework in {"torch", "flax"} else []
    written = ", ".join([*channels, *(f"{name}={value!r}" for name, value in values.items())])
    return f"{_class_of(spec, framework, own=own)}({written})"


def _class_of(spec: Spec | None, framework: Framework, *, own: bool) -> str:
    if framework == "torch":
        rank = {4: "2d", 5: "3d"}.get(spec.rank if spec and spec.rank else 0, "*d")
        return f"{'evenkeel.nn' if own else 'torch.nn'}.BatchNorm{rank}"
    if framework == "keras":
        home = "evenkeel.integrations.keras" if own else "keras.layers"
        return f"{home}.BatchNormalization"
    if framework == "flax":
        return "evenkeel.integrations.flax.BatchNorm" if own else "flax.nnx.BatchNorm"
    return "BatchNormalization"
