"""What a conversion writes, decided before the target is opened."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from evenkeel.dialects._stored_specs import to_metadata
from evenkeel.errors import InputError, UnsayableError, explain
from evenkeel.tools._convert import _settings as settings
from evenkeel.tools._convert._flattened import Doubt, doubt
from evenkeel.tools._convert._formats import Like, Target, dialect_of
from evenkeel.tools._convert._layers import CHANNELS_FIRST, adapt, change_of, holds_no_weight
from evenkeel.tools._convert._matching import Match, Side, match_layers
from evenkeel.tools._convert._read import has_model_order, read_source
from evenkeel.tools._convert._records import Conversion, Converted, LeftOut, Setting

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evenkeel.checkpoints import Checkpoint, StoredArray
    from evenkeel.dialects._layers import Layer, StoredNetwork
    from evenkeel.tools._convert._records import Framework, Purpose

#: Layers without a place in a file of weights; the caller has to do what they do.
_PREPROCESSING: Final = ("rescaling", "normalization")
_LISTED: Final = 5


@dataclass(frozen=True, slots=True)
class Plan:
    """Everything that is decided before the target is opened."""

    arrays: Mapping[str, StoredArray]
    metadata: dict[str, str]
    report: Conversion


def plan_copy(checkpoint: Checkpoint, goal: Target) -> Plan:
    """The same names in another file: no layout changes, so no layer has to be known."""
    rows = [
        Converted(name, name, "array", {"": array.shape})
        for name, array in checkpoint.arrays.items()
    ]
    carried = goal.kind == "safetensors" and goal.framework == "torch"
    layers = dialect_of(goal.framework).read_network(checkpoint).layers
    norms = [layer for layer in layers if layer.spec is not None]
    kept = _metadata(norms, norms) if carried else {}
    same = goal.kind == checkpoint.kind == "safetensors"
    said = dict(checkpoint.config.get("metadata", {})) if same else {}
    found = [
        settings.setting_of(layer, layer, None, goal.framework, carried=carried) for layer in norms
    ]
    report = _report(checkpoint, goal, (goal.framework, goal.framework), rows)
    report = replace(report, settings=tuple(filter(None, found)), left_out=_beside(checkpoint))
    return Plan(checkpoint.arrays, {**said, **kept}, report)


@dataclass(frozen=True, slots=True)
class Job:
    """A conversion that has to know the layers."""

    checkpoint: Checkpoint
    framework: Framework
    goal: Target
    like: Like | None
    purpose: Purpose

    def plan(self, kinds: dict[str, str], mapping: Mapping[str, str] | None) -> Plan:
        """Decide everything; nothing is written.

        Raises:
            InputError: something cannot be converted.
        """
        known = self.like.layers if self.like else ()
        network = read_source(self.checkpoint, kinds, known)
        layers, left_out = self._usable(network)
        pairs = self._pairs(layers, mapping)
        rows: list[Converted] = []
        written: list[Layer] = []
        named: list[Layer] = []
        found: list[Setting | None] = []
        doubts: dict[str, Doubt | None] = {}
        for layer, pair in pairs:
            doubts[layer.name] = self._doubt(layer, pair, layers)
            self._require_rows(layer, doubts[layer.name])
            new, made = self._adapt(layer, pair)
            left_out += self._check(layer, new, pair)
            written.append(new)
            shown = replace(new, name=self._name(new))
            rows.append(self._row(layer, shown, pair, made))
            found.append(self._setting(layer, shown, pair))
            named.append(shown)
        arrays = self._arrays(written)
        report = _report(self.checkpoint, self.goal, (self.framework, self.goal.framework), rows)
        report = replace(
            report,
            settings=tuple(filter(None, found)),
            left_out=(*left_out, *_beside(self.checkpoint)),
            remarks=(*report.remarks, *network.remarks, *self._taken(pairs), *_taken_plain(doubts)),
        )
        sources = [layer for layer, _ in pairs]
        return Plan(arrays, _metadata(named, sources) if self._carries else {}, report)

    def _name(self, layer: Layer) -> str:
        """The layer's name as the target spells it."""
        if self.goal.framework == "torch":
            return layer.name.replace("/", ".")
        # A name of ``like`` is already spelled.
        spell = self.goal.framework == "flax" and self.like is None
        return layer.name.replace(".", "/") if spell else layer.name

    @property
    def _carries(self) -> bool:
        return self.goal.kind == "safetensors" and self.goal.framework == "torch"

    def _usable(self, network: StoredNetwork) -> tuple[list[Layer], list[LeftOut]]:
        """The layers that have a place in the target; the others are named."""
        there = {layer.kind for layer in self.like.layers} if self.like else set[str]()
        left: list[LeftOut] = []
        layers: list[Layer] = []
        for layer in network.layers:
            if layer.kind in _PREPROCESSING and layer.kind not in there:
                left.append(LeftOut(layer.name, layer.kind, _preprocessing(layer)))
            elif layer.arrays:
                layers.append(layer)
        weights = [name for name in network.unread if _is_weight(self.checkpoint.arrays[name])]
        if weights:
            self._refuse_unknown("arrays", weights)
        why = "a constant of the graph or a random state, no weight"
        left += [LeftOut(name, "array", why) for name in network.unread]
        unknown = [layer for layer in layers if layer.kind == "other"]
        if unknown and self.framework != self.goal.framework:
            could = dict.fromkeys(k for la in unknown for k in la.settings.get("could_be", ()))
            self._refuse_unknown("layers", [layer.name for layer in unknown], tuple(could))
        return layers, left

    def _refuse_unknown(self, what: str, names: list[str], could_be: tuple[str, ...] = ()) -> None:
        more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
        choice = " or ".join(could_be) or "dense, conv, embedding, ..."
        raise InputError(
            explain(
                asked=f"convert {self.checkpoint.path} to {self.goal.framework}",
                got=f"{what} of unknown kind: {', '.join(names[:_LISTED])}{more}",
                why="without the kind the layout in the target is not known",
                do=f"say it: kinds={{name: kind}} (--kind NAME=KIND), the kind being {choice}",
            )
        )

    def _pairs(
        self, layers: list[Layer], mapping: Mapping[str, str] | None
    ) -> list[tuple[Layer, Match | None]]:
        if self.like is None:
            return [(layer, None) for layer in layers]
        theirs = [
            layer for layer in self.like.layers if layer.arrays and not holds_no_weight(layer)
        ]
        ours = Side(str(self.checkpoint.path), layers, has_model_order(self.checkpoint))
        order = self.like.checkpoint is None or has_model_order(self.like.checkpoint)
        pairs = match_layers(ours, Side(self.like.said, theirs, order), mapping)
        return [(pair.source, pair) for pair in pairs]

    def _doubt(self, layer: Layer, pair: Match | None, layers: list[Layer]) -> Doubt | None:
        """What is not known about the order of a dense layer's rows, if it matters here."""
        mixed = (self.framework in CHANNELS_FIRST) != (self.goal.framework in CHANNELS_FIRST)
        told = layer.settings.get("flattened") or (pair and pair.target.settings.get("flattened"))
        if not mixed or told:
            return None
        return doubt(layer, layers, ordered=has_model_order(self.checkpoint))

    def _require_rows(self, layer: Layer, found: Doubt | None) -> None:
        """Refuse a dense layer behind a flattened picture whose order of rows nobody knows."""
        if found is None or found.plain:
            return
        widths = " or ".join(map(str, found.channels[:_LISTED]))
        raise InputError(
            explain(
                asked=f"convert the dense layer {layer.name!r} to {self.goal.framework}",
                got=f"{found.rows} inputs, perhaps behind a convolution of {widths} channels",
                why="flattened pictures have their rows in another order there, which depends on "
                "height and width",
                do=f'say the sizes, kinds={{"{layer.name}": "dense:{found.picture()}"}} '
                '(--kind), height and width as they are; "dense" if nothing was flattened',
            )
        )

    def _adapt(self, layer: Layer, pair: Match | None) -> tuple[Layer, tuple[str, ...]]:
        if pair is None:
            return layer, ()
        return adapt(pair, self.framework, self.purpose)

    def _check(self, layer: Layer, new: Layer, pair: Match | None) -> list[LeftOut]:
        left: list[LeftOut] = []
        framework = self.goal.framework
        if layer.spec is None:
            return left
        if self.framework != framework:
            spec = settings.in_target(layer.spec, framework)
            found = dialect_of(framework).unsayable(spec)
            found = [item for item in found if item.field not in layer.assumed]
            left += settings.leave_out(layer, found, framework, self.purpose)
        if pair is not None and self.like is not None:
            said = self.like.said
            left += settings.compare_with_like(layer, pair.target, said, framework, self.purpose)
        kept = "batches" in new.arrays if pair is not None else framework == "torch"
        if "batches" in layer.arrays and not kept:
            left += settings.drop_counter(layer, self.purpose)
        return left

    def _row(
        self, layer: Layer, new: Layer, pair: Match | None, made: tuple[str, ...]
    ) -> Converted:
        change = change_of(new, self.framework, self.goal.framework)
        how = "" if pair is None else pair.how
        return Converted(layer.name, new.name, new.kind, new.shapes, change, made, how)

    def _setting(self, layer: Layer, new: Layer, pair: Match | None) -> Setting | None:
        like = None if pair is None else pair.target
        return settings.setting_of(new, layer, like, self.goal.framework, carried=self._carries)

    def _arrays(self, written: list[Layer]) -> dict[str, StoredArray]:
        """Names and arrays of the target, complete as far as ``like`` says what that is."""
        like = None if self.like is None else self.like.checkpoint
        arrays: dict[str, StoredArray] = dialect_of(self.goal.framework).write_network(
            tuple(written), like=like
        )
        if like is None or self.like is None:
            return arrays
        missing = {name: like.arrays[name] for name in like.arrays if name not in arrays}
        values = [name for name, array in missing.items() if "float" in array.dtype]
        if values:
            raise UnsayableError(
                explain(
                    asked=f"convert {self.checkpoint.path} to {self.goal.path}",
                    got=f"no values for {', '.join(values[:_LISTED])}",
                    why=f"{self.like.said} has these arrays and the source has no such layer",
                    do="build the model like the source",
                )
            )
        return {name: arrays.get(name, like.arrays[name]) for name in like.arrays}

    def _taken(self, pairs: list[tuple[Layer, Match | None]]) -> list[str]:
        """Which settings are those of ``like``, because the source does not store them."""
        if self.like is None:
            return []
        taken: dict[str, int] = {}
        for layer, pair in pairs:
            if pair is None or layer.spec is None or pair.target.spec is None:
                continue
            for name in settings.DECIDING:
                if name in layer.assumed and name not in pair.target.assumed:
                    taken[name] = taken.get(name, 0) + 1
        if not taken:
            return []
        count = max(taken.values())
        layers = "1 batch-norm layer" if count == 1 else f"{count} batch-norm layers"
        said = f"the source does not store them; they are those of {self.like.said}, and have to"
        return [f"{', '.join(taken)} of {layers}: {said} be the ones of the training"]


def _is_weight(array: StoredArray) -> bool:
    return "float" in array.dtype and math.prod(array.shape) > 1


def _taken_plain(doubts: Mapping[str, Doubt | None]) -> list[str]:
    """The dense layers that were taken as not behind a flattened picture, by their widths."""
    names = [name for name, found in doubts.items() if found is not None]
    if not names:
        return []
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    said = "taken as not behind a flattened picture, because another layer has as many outputs"
    do = "if one is, say its sizes, --kind NAME=dense:HxWxC"
    return [f"{said}: {', '.join(names[:_LISTED])}{more}; {do}"]


def _preprocessing(layer: Layer) -> str:
    if layer.kind == "rescaling":
        scale, offset = layer.settings.get("scale"), layer.settings.get("offset")
        return f"apply it to the inputs yourself: x * {scale} + {offset}"
    mean, variance = (layer.arrays[role].read().ravel() for role in ("mean", "variance"))
    shown = f"mean {mean[:_LISTED].tolist()}, variance {variance[:_LISTED].tolist()}"
    return f"apply it to the inputs yourself: (x - mean) / sqrt(variance), {shown}"


def _metadata(written: list[Layer], sources: list[Layer]) -> dict[str, str]:
    """The settings of every batch-norm layer whose source says them all."""
    specs = {
        new.name: replace(settings.in_target(new.spec, "torch"), name=new.name)
        for new, source in zip(written, sources, strict=True)
        if new.spec is not None and settings.is_settled(source)
    }
    return to_metadata(specs)


def _beside(checkpoint: Checkpoint) -> tuple[LeftOut, ...]:
    why = "it holds no weights of the network"
    return tuple(LeftOut(name, "beside the weights", why) for name in checkpoint.left)


def _report(
    checkpoint: Checkpoint, goal: Target, frameworks: tuple[str, str], rows: list[Converted]
) -> Conversion:
    remarks = [f"read from {', '.join(checkpoint.parts)}"] if checkpoint.parts else []
    source, target = str(checkpoint.path), str(goal.path)
    return Conversion(source, target, frameworks, tuple(rows), remarks=tuple(remarks))
