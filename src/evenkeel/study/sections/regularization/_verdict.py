"""The numbers that decide, the rule, and the verdict."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from evenkeel.report import Verdict
from evenkeel.study._statistics import above, listing, measure, points

if TYPE_CHECKING:
    from collections.abc import Iterator

    from evenkeel.report import Measure
    from evenkeel.study.sections._section import Measures
    from evenkeel.study.sections.regularization._outcomes import Outcomes, What
    from evenkeel.study.sections.regularization._plan import Network

RULE: Final = (
    "For each size of the training set and each seed, averaged over the batch sizes, four "
    "differences are formed, with every network at the learning rate of its lowest training "
    "loss: the gain in test accuracy by batch norm over the plain network, the part of the plain "
    "network's train-test gap that batch norm closes, and the lead in test accuracy over batch "
    "norm of dropout instead and of dropout in addition. Batch norm regularizes at a size if the "
    "95% confidence intervals of the gain and of the closed gap both lie above zero. Dropout can "
    "be left out at a size if neither lead has its interval above zero. The claim holds here if "
    "batch norm regularizes and dropout can be left out at every size, does not hold here if at "
    "no size, and depends on the size of the training set otherwise. A difference that is not "
    "clear is no proof that there is none; the intervals say how large it may be."
)
#: Prefix of a measure -> what is compared, the two networks, and what it is called.
_PARTS: Final[dict[str, tuple[What, tuple[Network, Network], str]]] = {
    "norm": ("test", ("batch norm", "plain"), "gain in test accuracy by batch norm over plain"),
    "gap": ("gap", ("plain", "batch norm"), "train-test gap of plain minus that of batch norm"),
    "instead": ("test", ("dropout", "batch norm"), "lead of dropout over batch norm"),
    "added": ("test", ("both", "batch norm"), "lead of both over batch norm"),
    "dropout": ("test", ("dropout", "plain"), "gain in test accuracy by dropout over plain"),
}
_LOSS: Final = (
    "natural logarithm of test loss of batch norm over that of plain",
    ("batch norm", "plain"),
)


def measures_of(found: Outcomes) -> tuple[Measure, ...]:
    """Return the differences by size of the training set, and by batch size as well."""
    return (*_by_size(found), _batch_size(found), *_by_setting(found))


def _by_size(found: Outcomes) -> Iterator[Measure]:
    for size in found.sizes:
        for part, (what, networks, label) in _PARTS.items():
            values = found.differences(what, networks, size)
            yield measure(f"{part}-{size}", f"{size} samples: {label}", values, "percent")
        label, networks = _LOSS
        yield measure(f"loss-{size}", f"{size} samples: {label}", _log_ratio(found, size))


def _log_ratio(found: Outcomes, size: int) -> list[float]:
    with_norm, plain = (found.values("test loss", name, size) for name in ("batch norm", "plain"))
    return [math.log(a / b) for a, b in zip(with_norm, plain, strict=True)]


def _batch_size(found: Outcomes) -> Measure:
    """Return how much more batch norm gains with the smallest batches than with the largest."""
    what, networks, label = _PARTS["norm"]
    small, large = (
        found.differences(what, networks, batch_size=batch)
        for batch in (found.batch_sizes[0], found.batch_sizes[-1])
    )
    values = [a - b for a, b in zip(small, large, strict=True)]
    least, most = found.batch_sizes[0], found.batch_sizes[-1]
    return measure(
        "batch-size", f"{label}: at batch size {least} minus at {most}", values, "percent"
    )


def _by_setting(found: Outcomes) -> Iterator[Measure]:
    for size, batch in found.settings:
        for part, (what, networks, label) in _PARTS.items():
            yield measure(
                f"{part}-{size}-batch-{batch}",
                f"{size} samples, batch size {batch}: {label}",
                found.differences(what, networks, size, batch),
                "percent",
            )


def judge(measures: Measures) -> Verdict:
    """Apply :data:`RULE`."""
    sizes = sizes_in(measures)
    good = [s for s in sizes if regularizes(measures, s) and not leads(measures, s)]
    reason = "; ".join(_reason(measures, size) for size in sizes)
    if good == sizes:
        return Verdict(kind="holds", words="holds here", reason=f"{reason}.")
    if not good:
        return Verdict(kind="fails", words="does not hold here", reason=f"{reason}.")
    words = "depends on the size of the training set"
    return Verdict(kind="depends", words=words, reason=f"{reason}.")


def sizes_in(measures: Measures) -> list[int]:
    """Return the sizes of training sets that were measured."""
    return [int(n.removeprefix("norm-")) for n in measures if n.removeprefix("norm-").isdigit()]


def regularizes(measures: Measures, size: int) -> bool:
    """Say whether gain and closed gap are both clearly above zero."""
    return above(measures[f"norm-{size}"]) and above(measures[f"gap-{size}"])


def leads(measures: Measures, size: int) -> list[str]:
    """Return the uses of dropout that are clearly better than batch norm alone."""
    words = {"instead": "dropout instead", "added": "dropout in addition"}
    return [words[part] for part in words if above(measures[f"{part}-{size}"])]


def _reason(measures: Measures, size: int) -> str:
    better = leads(measures, size)
    dropout = f"{listing(better)} clearly better" if better else "no clear lead of dropout"
    return (
        f"{size} samples: gain by batch norm {points(measures[f'norm-{size}'])}, gap closed by "
        f"{points(measures[f'gap-{size}'])}, {dropout}"
    )
