"""Layers of a file without a configuration, from names that Keras makes from classes.

A group ``conv2d_3`` holds a Conv2D, unless its author named a layer of another class so in a
subclassed model; shapes have to agree. Nothing tells eps, strides or which of scale and offset
is missing.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Any, Final

from evenkeel.dialects.keras._arrays import place
from evenkeel.dialects.keras._entries import Entry, snake_case
from evenkeel.dialects.keras._kinds import KNOWN, RENORM, Shapes

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from evenkeel.checkpoints import Checkpoint

_CLASSES: Final = {snake_case(name): name for name in KNOWN}
#: Groups of a file that hold no layers.
_NO_LAYERS: Final = ("metrics/", "optimizer/", "compile_metrics/")
_BATCH_NORM: Final = ("gamma", "beta", "moving_mean", "moving_variance")
_RECURRENT: Final = {4: "LSTM", 3: "GRU", 1: "SimpleRNN"}
#: Class for a kind that the caller names, by rank of the kernel where it matters.
_OF_KIND: Final = {
    "dense": "Dense",
    "embedding": "Embedding",
    "layer_norm": "LayerNormalization",
    "group_norm": "GroupNormalization",
    "batch_norm": "BatchNormalization",
    "prelu": "PReLU",
    "lstm": "LSTM",
    "gru": "GRU",
    "simple_rnn": "SimpleRNN",
    "normalization": "Normalization",
}


def guess(
    checkpoint: Checkpoint, left: Sequence[str], kinds: Mapping[str, str], taken: Iterable[str]
) -> Iterator[tuple[Entry, dict[str, str]]]:
    """Every group of arrays as a layer, with the names of its arrays by place.

    Args:
        checkpoint: the file.
        left: names of the arrays.
        kinds: what the caller knows, by name of the layer.
        taken: names of layers that are found already.
    """
    attributes = checkpoint.config.get("attributes") or {}
    counts = Counter(taken)
    for group, names in _groups(left).items():
        path = _real_path(group, attributes)
        counts["/".join(path)] += 1
        if counts["/".join(path)] > 1:
            path = (*path[:-1], f"{path[-1]}#{counts['/'.join(path)]}")
        shapes = {rest: checkpoint.arrays[name].shape for rest, name in names.items()}
        class_name, held, config = _choose(group, path, shapes, kinds.get("/".join(path)))
        yield (
            Entry(path, group, class_name, config, trainable=True),
            {where: names[rest] for where, rest in held.items()},
        )


def _choose(
    group: str, path: tuple[str, ...], shapes: Shapes, told: str | None
) -> tuple[str, dict[str, str], dict[str, Any]]:
    """Class, places of the arrays, and what is known of the configuration."""
    named = [_CLASSES.get(_unnumbered(name), "") for name in (group.rpartition("/")[2], path[-1])]
    chosen = [_class_of(told, shapes)] if told else [*named, _by_weights(shapes)]
    for class_name in filter(None, chosen):
        held, config = _fitted(class_name, shapes)
        if held is not None:
            return class_name, held, config
    could_be = _could_be(shapes)
    config = {"class": next(filter(None, chosen), "")} | (
        {"could_be": could_be} if could_be else {}
    )
    return "", {rest: rest for rest in shapes}, config


def _by_weights(shapes: Shapes) -> str:
    """The class that the names of the arrays settle; only the older format has names."""
    kernel = shapes.get("depthwise_kernel", shapes.get("kernel", ()))
    if "moving_variance" in shapes:
        return "BatchNormalization"
    if "pointwise_kernel" in shapes:
        return f"SeparableConv{len(kernel) - 2}D"
    if "depthwise_kernel" in shapes:
        return f"DepthwiseConv{len(kernel) - 2}D"
    if any(rest.startswith("forward_layer/") for rest in shapes):
        return "Bidirectional"
    if "cell/kernel" in shapes and "cell/recurrent_kernel" in shapes:
        units, gates = shapes["cell/recurrent_kernel"]
        return _RECURRENT.get(gates // max(units, 1), "")
    single = {"embeddings": "Embedding", "alpha": "PReLU"}
    found = next((name for place, name in single.items() if place in shapes), "")
    return found or ("Dense" if len(kernel) == 2 else "")


def _could_be(shapes: Shapes) -> tuple[str, ...]:
    """Kinds among which nothing in the file decides."""
    kernel = shapes.get("kernel", shapes.get("vars/0", ()))
    if len(kernel) > 2:
        return ("conv", "conv_transpose")
    if len(kernel) == 2 and len(shapes) <= 2:
        return ("dense", "embedding") if len(shapes) == 1 else ("dense",)
    ranks = {len(shape) for shape in shapes.values()}
    if ranks == {1} and len(shapes) == 2:
        return ("layer_norm", "group_norm")
    return ()


def _groups(left: Sequence[str]) -> dict[str, dict[str, str]]:
    """Names of arrays by layer group and by what follows the group."""
    found: dict[str, dict[str, str]] = {}
    for name in left:
        if name.startswith(_NO_LAYERS):
            continue
        if "/vars/" in f"/{name}":
            match = re.fullmatch(
                r"(.*?)((?:/(?:forward_layer|backward_layer))?(?:/cell)?/vars/\d+)", f"/{name}"
            )
            group, rest = (match[1], match[2]) if match else (f"/{name}", "")
        else:
            group, rest = _older(name)
        found.setdefault(group.strip("/"), {})[rest.strip("/")] = name
    return found


def _older(name: str) -> tuple[str, str]:
    """The older format names its arrays: ``lstm/lstm/lstm_cell/kernel:0``."""
    group, _, own = name.rpartition("/")
    inner = re.search(r"((?:/(?:forward|backward)_[^/]+)?/[^/]*cell[^/]*)$", group)
    if inner is None:
        return group, place(own)
    return group[: inner.start()], place(f"{inner[1].strip('/')}/{own}")


def _real_path(group: str, attributes: Mapping[str, Any]) -> tuple[str, ...]:
    """The layers' own names where Keras 3 stored them, else those of the groups."""
    parts = group.removeprefix("model_weights/").split("/")
    if "layer_names" in attributes.get("", {}) or group.startswith("model_weights/"):
        # The older format repeats the name of the layer.
        return tuple(dict.fromkeys(parts))
    places = ["/".join(parts[: end + 1]) for end in range(len(parts))]
    stored = [(attributes.get(f"{place}/vars") or {}).get("name") for place in places]
    if any(stored):
        # Lists of layers are groups, too, but no layers.
        return tuple(str(name) for name in stored if name)
    return tuple(part for part in parts if part not in {"layers", "layer"}) or (group,)


def _unnumbered(name: str) -> str:
    return re.sub(r"_\d+$", "", name)


def _class_of(kind: str, shapes: Shapes) -> str:
    rank = len(shapes.get("vars/0", shapes.get("kernel", ()))) - 2
    if kind in {"conv", "conv_transpose"} and 1 <= rank <= 3:
        return f"Conv{rank}D" + ("Transpose" if kind == "conv_transpose" else "")
    return _OF_KIND.get(kind, "")


def _fitted(class_name: str, shapes: Shapes) -> tuple[dict[str, str] | None, dict[str, Any]]:
    """What stands at which place, and what the arrays tell of settings; None if they do not fit."""
    if class_name == "Bidirectional":
        return _bidirectional(shapes)
    wanted = _wanted(class_name, shapes)
    if wanted is None:
        return None, {}
    named = all("vars/" not in rest for rest in shapes)
    at: dict[str, str] = {}
    for number, where in enumerate(wanted):
        holder, _, own = where.rpartition("/")
        at[where] = where if named else f"{holder}/vars/{number}".lstrip("/")
        if named and own not in {rest.rpartition("/")[2] for rest in shapes}:
            return None, {}
    if {*at.values()} != {*shapes} or not _ranks_fit(class_name, at, shapes):
        return None, {}
    return at, _told(class_name, at, shapes)


def _wanted(class_name: str, shapes: Shapes) -> tuple[str, ...] | None:
    """Places in the order of the file; None where it cannot be known which one is missing."""
    count = len(shapes)
    if any("vars/" not in rest for rest in shapes):
        return tuple(shapes)
    fixed = {
        "BatchNormalization": {
            4: _BATCH_NORM,
            2: _BATCH_NORM[2:],
            7: (*_BATCH_NORM, *RENORM),
        },
        "LayerNormalization": {2: ("gamma", "beta")},
        "GroupNormalization": {2: ("gamma", "beta")},
        "Embedding": {1: ("embeddings",)},
        "PReLU": {1: ("alpha",)},
        "Normalization": {3: ("mean", "variance", "count")},
    }
    if class_name in fixed:
        return fixed[class_name].get(count)
    if class_name.startswith("SeparableConv"):
        return ("depthwise_kernel", "pointwise_kernel", "bias")[:count] if count > 1 else None
    if class_name in _RECURRENT.values():
        return ("cell/kernel", "cell/recurrent_kernel", "cell/bias")[:count] if count > 1 else None
    if class_name == "Dense" or "Conv" in class_name:
        return ("kernel", "bias")[:count] if 1 <= count <= 2 else None
    return None


def _ranks_fit(class_name: str, at: Mapping[str, str], shapes: Shapes) -> bool:
    """Whether the kernel, or every vector, has the rank that the class says."""
    first = _main(at, shapes)
    if class_name in {"Dense", "Embedding"}:
        return len(first) == 2
    if "Conv" in class_name:
        return len(first) == int(re.sub(r"\D", "", class_name)) + 2
    if class_name == "BatchNormalization":
        return {len(shape) for shape in shapes.values()} == {1}
    if class_name in _RECURRENT.values():
        gates = {name: number for number, name in _RECURRENT.items()}[class_name]
        second = shapes[at["cell/recurrent_kernel"]]
        return len(first) == len(second) == 2 and first[1] == second[1] == gates * second[0]
    return True


def _main(at: Mapping[str, str], shapes: Shapes) -> tuple[int, ...]:
    """Shape of the kernel, or of what the layer has instead."""
    kernels = ("depthwise_kernel", "kernel", "cell/kernel")
    return shapes[next((at[name] for name in kernels if name in at), next(iter(at.values())))]


def _told(class_name: str, at: Mapping[str, str], shapes: Shapes) -> dict[str, Any]:
    """Settings that follow from the arrays; ``known`` names those that a layer may show."""
    if "Conv" in class_name:
        rank = len(_main(at, shapes)) - 2
        known = ("groups",) if class_name.startswith(("Depthwise", "Separable")) else ()
        return {"kernel_size": (1,) * rank, "known": known}
    if class_name == "GRU":
        bias = shapes.get(at.get("cell/bias", ""))
        reset = {"reset_after": len(bias) == 2} if bias else {}
        return {**reset, "known": tuple(reset)}
    if class_name == "PReLU":
        return {"shared_axes": [*range(1, len(next(iter(shapes.values()))))]}
    if class_name == "BatchNormalization":
        return {"renorm": RENORM[0] in at}
    return {"known": ()}


def _bidirectional(
    shapes: Shapes,
) -> tuple[dict[str, str] | None, dict[str, Any]]:
    sides = ("forward_layer/", "backward_layer/")
    inner = [
        {rest.removeprefix(side): shape for rest, shape in shapes.items() if rest.startswith(side)}
        for side in sides
    ]
    second = inner[0].get("cell/vars/1", inner[0].get("cell/recurrent_kernel", (0, 0)))
    kind = _RECURRENT.get(second[1] // max(second[0], 1), "") if len(second) == 2 else ""
    found = [_fitted(kind, shape) for shape in inner]
    if not kind or any(held is None for held, _ in found):
        return None, {}
    held = {
        f"{side}{where}": f"{side}{rest}"
        for side, (places, _) in zip(sides, found, strict=True)
        for where, rest in (places or {}).items()
    }
    told = found[0][1]
    return held, {"layer": {"class_name": kind, "config": told}, "known": told["known"]}
