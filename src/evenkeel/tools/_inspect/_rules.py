"""What ``inspect`` calls suspicious, each with its threshold and the reason for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, TypeAlias

import numpy as np

from evenkeel.tools._inspect._records import Finding, Mode, Severity

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.spec import Momentum, Spec, State

#: A channel whose variance is below this share of eps comes out with less than a tenth of unit
#: spread, sqrt(v / (v + eps)) < 0.1: eps decides about it, and not the data.
DEAD_VARIANCE_TO_EPS: Final = 1e-2
#: Trained networks with weight decay carry a few dead channels; from a tenth on it is capacity.
DEAD_SHARE: Final = 0.1
#: A scale below this leaves less than a thousandth of the normalized signal, under the
#: resolution of bfloat16 beside an offset of order 1.
TINY_SCALE: Final = 1e-3
#: Weight decay drives single scales to zero; half of a layer is more than pruning by chance.
TINY_SCALE_SHARE: Final = 0.5
#: In torch's convention one batch then replaces nine tenths of the running statistics; 0.9,
#: 0.99 and 0.999 are what Keras, Flax and ONNX write for torch's 0.1, 0.01 and 0.001.
LARGE_MOMENTUM: Final = 0.9
#: Keras's default; right for weights that were trained with it, and a slip elsewhere.
KERAS_EPS: Final = 1e-3
#: Everybody else's default; in Keras it is right for weights that came from there.
USUAL_EPS: Final = 1e-5
#: Folded to x * a + b, as inference engines do, float32 loses digits in proportion to
#: |mean| / std: at 1e3 the output is off by 1e3 * 2^-24 = 6e-5 of its spread.
CANCELLATION: Final = 1e3
#: What weights alone do not store, taken for the two rules that compare with the variance.
DEFAULT_EPS: Final = {"torch": 1e-5, "keras": 1e-3, "flax": 1e-5, "onnx": 1e-5}
_NAMES: Final = {"torch": "torch", "flax": "Flax", "onnx": "ONNX"}


@dataclass(frozen=True, slots=True)
class Subject:
    """One layer as the rules see it; ``arrays`` are float64."""

    name: str
    spec: Spec | None
    state: State | None
    mode: Mode | None
    #: Fields of ``spec`` that the source does not store.
    assumed: tuple[str, ...] = ()
    #: The whole model is in training and no layer has seen a batch.
    fresh: bool = False
    #: Whose conventions and defaults the layer's user has in mind.
    framework: str = "torch"

    def array(self, name: str) -> NDArray[np.float64] | None:
        """One array in float64, with its non-finite values."""
        value = getattr(self.state, name, None)
        return None if value is None else np.asarray(value, np.float64)

    def finite(self, name: str) -> NDArray[np.float64] | None:
        """One array in float64, NaN where it is not finite."""
        values = self.array(name)
        return None if values is None else np.where(np.isfinite(values), values, np.nan)

    @property
    def eps(self) -> float:
        """The layer's eps, or its framework's default where it is not known."""
        known = self.spec is not None and "eps" not in self.assumed
        return self.spec.eps if self.spec and known else DEFAULT_EPS[self.framework]

    @property
    def tracks(self) -> bool:
        """Whether the layer is known to have running statistics."""
        known = self.spec is not None and self.spec.track_statistics
        return known or (self.state is not None and self.state.running_mean is not None)

    @property
    def initial(self) -> bool:
        """Whether the running statistics are still 0 and 1."""
        mean, var = self.array("running_mean"), self.array("running_var")
        if mean is None or var is None or not mean.size:
            return False
        return bool((mean == 0).all() and (var == 1).all())

    @property
    def never_updated(self) -> bool:
        """Whether the running statistics are initial and no batch was counted."""
        return self.initial and not (self.state and self.state.batches)

    @property
    def has_seen_data(self) -> bool:
        """Whether there are running statistics that a batch has moved."""
        held = self.state is not None and self.state.running_mean is not None
        return held and not self.never_updated


Found: TypeAlias = Iterator[tuple[Severity, str, str]]
Rule: TypeAlias = Callable[[Subject], Found]


def judge(subject: Subject) -> list[Finding]:
    """All findings about one layer, in the order of the rules."""
    return [Finding(subject.name, *found) for rule in RULES for found in rule(subject)]


def _non_finite(subject: Subject) -> Found:
    for name in ("running_mean", "running_var", "weight", "bias"):
        values = subject.array(name)
        if values is None:
            continue
        bad = ~np.isfinite(values)
        if bad.any():
            nans = int(np.isnan(values).sum())
            kinds = f"{nans} NaN, {int(bad.sum()) - nans} Inf"
            yield "error", "non-finite", f"{name}: {kinds} in {_channels(bad)}"


def _negative_variance(subject: Subject) -> Found:
    values = subject.finite("running_var")
    if values is not None and (values < 0).any():
        text = f"running_var is negative, least {np.nanmin(values):.3g}, in {_channels(values < 0)}"
        yield "error", "negative-variance", text


def _never_updated(subject: Subject) -> Found:
    if subject.never_updated:
        counted = "no counter" if subject.state is None or subject.state.batches is None else "0"
        text = f"never updated: mean all 0, variance all 1, batches seen: {counted}"
        yield ("note" if subject.fresh else "warning"), "never-updated", text
    elif subject.initial and subject.state:
        text = f"mean still all 0 and variance all 1 after {subject.state.batches} batches"
        yield "warning", "not-moving", text


def _dead_channels(subject: Subject) -> Found:
    values = subject.finite("running_var")
    if values is None:
        return
    dead = (values >= 0) & (values < DEAD_VARIANCE_TO_EPS * subject.eps)
    if dead.any():
        severity = "warning" if dead.mean() >= DEAD_SHARE else "note"
        assumed = " (eps assumed)" if subject.spec is None or "eps" in subject.assumed else ""
        least = f"down to {values[dead].min():.2g} beside eps {subject.eps:g}{assumed}"
        yield severity, "dead-channels", f"variance far below eps, {least}: {_channels(dead)}"


def _tiny_scale(subject: Subject) -> Found:
    values = subject.finite("weight")
    if values is None:
        return
    tiny = np.abs(values) < TINY_SCALE
    if not tiny.any():
        return
    if subject.never_updated and (values == 0).all():
        yield "note", "zero-scale", "gamma is all 0 and nothing was trained: zero initialization"
        return
    severity = "warning" if tiny.mean() >= TINY_SCALE_SHARE else "note"
    yield severity, "zero-scale", f"|gamma| below {TINY_SCALE:g}: {_channels(tiny)}"


def _cancellation(subject: Subject) -> Found:
    mean, var = subject.finite("running_mean"), subject.finite("running_var")
    if mean is None or var is None or not mean.size:
        return
    std = np.sqrt(np.maximum(var, 0) + subject.eps)
    # eps may be 0; a constant channel then has no ratio, and is found by the rule on eps.
    ratio = np.abs(mean) / np.where(std > 0, std, np.nan)
    far = ratio > CANCELLATION
    if far.any():
        text = f"|mean|/std up to {np.nanmax(ratio):.2g}: folded float32 loses digits, "
        yield "warning", "cancellation", text + _channels(far)


def _sixteen_bits(subject: Subject) -> Found:
    dtype = subject.spec.statistics_dtype if subject.spec and subject.tracks else ""
    bits = {"float16": 11, "bfloat16": 8}.get(dtype)
    if bits:
        text = f"{dtype} statistics: an update below 2^-{bits} of the value is lost"
        yield "warning", "16-bit-statistics", text


def _momentum(subject: Subject) -> Found:
    spec = subject.spec
    if spec is None or "momentum" in subject.assumed or not subject.tracks:
        return
    value = spec.momentum.as_weighing("new").value
    batches = subject.state.batches if subject.state else None
    if spec.statistics_frozen:
        return
    if value is None:
        if batches == 0 and not subject.initial:
            text = "momentum=None with counter 0: the next batch replaces the statistics"
            yield "warning", "counter-reset", text
    elif not 0 <= value <= 1:
        text = (
            f"momentum {spec.momentum.value:g} is outside [0, 1]: the running average can diverge"
        )
        yield "warning", "momentum", text
    elif np.float32(value) >= np.float32(LARGE_MOMENTUM):  # ONNX stores no more digits
        yield "warning", "momentum", _flipped(spec.momentum)
    elif value == 0:
        text = f"momentum {spec.momentum.value:g}: the running statistics never move"
        yield "note", "momentum", text


def _flipped(momentum: Momentum) -> str:
    """A momentum that looks as if it were meant for the other side."""
    if momentum.weighs == "new":
        rest = "weighs the new batch here; in Keras and Flax it weighs the old"
    else:
        rest = "weighs the stored statistics here; in torch it weighs the new batch"
    return f"momentum {momentum.value:g} {rest}"


def _eps(subject: Subject) -> Found:
    if subject.spec is None or "eps" in subject.assumed:
        return
    eps = subject.spec.eps
    if eps == 0:
        # In training torch raises; in inference only a constant channel comes to harm.
        torch = subject.framework == "torch"
        severity = "error" if torch and subject.mode == "train" else "warning"
        also = "torch refuses to train, and " if torch else ""
        yield severity, "eps", f"eps 0: {also}a constant channel gives NaN"
    elif subject.framework == "keras":
        if _equal(eps, USUAL_EPS):
            text = f"eps {USUAL_EPS:g} is the default of torch and Flax; Keras's is {KERAS_EPS:g}"
            yield "note", "eps", text
    elif _equal(eps, KERAS_EPS):
        own = _NAMES.get(subject.framework, "torch")
        yield "note", "eps", f"eps {KERAS_EPS:g} is Keras's default; {own}'s is {USUAL_EPS:g}"


def _equal(one: float, two: float) -> bool:
    """Whether they are the same number in float32, which is all that an ONNX file holds."""
    return bool(np.float32(one) == np.float32(two))


def _settings(subject: Subject) -> Found:
    spec = subject.spec
    if spec is None:
        return
    if not spec.track_statistics:
        text = "no running statistics: inference uses those of its own batch"
        yield "note", "no-statistics", text
    if spec.options.get("track_running_stats") is False:
        text = "track_running_stats was set to False later: statistics stay as they are"
        yield "note", "no-statistics", text
    if "class" in spec.options:
        text = f"{spec.options['class']} may do more than batch norm; only that part is shown"
        yield "note", "own-class", text


def _channels(bad: NDArray[Any]) -> str:
    """How many channels, and which is the first."""
    count, first = int(bad.sum()), int(np.argmax(bad))
    return f"{count} of {bad.size} channels ({count / bad.size:.1%}), first is {first}"


#: In the order in which they are reported; a new rule is one function and one name here.
RULES: Final[tuple[Rule, ...]] = (
    _non_finite,
    _negative_variance,
    _never_updated,
    _dead_channels,
    _tiny_scale,
    _cancellation,
    _sixteen_bits,
    _momentum,
    _eps,
    _settings,
)
