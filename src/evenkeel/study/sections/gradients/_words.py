"""The findings in words and tables."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from evenkeel.report import Column, Findings, Highlight, Table
from evenkeel.study._statistics import Spread, listing, measure, over_seeds
from evenkeel.study.sections.gradients._figures import figures
from evenkeel.study.sections.gradients._networks import networks_of, pairs_of
from evenkeel.study.sections.gradients._plan import ACTIVATIONS
from evenkeel.study.sections.gradients._verdict import STAGES, fate

if TYPE_CHECKING:
    from collections.abc import Sequence

    from evenkeel.report import Measure
    from evenkeel.study.sections.gradients._networks import Network
    from evenkeel.study.sections.gradients._run import GradientRecord
    from evenkeel.study.sections.gradients._verdict import Fate

#: A network's fate, as text and tables write it.
_FATES: Final[dict[Fate, str]] = {
    "vanish": "vanishing",
    "explode": "exploding",
    "stay": "staying",
    "unclear": "unclear",
}


def reduce(records: Sequence[GradientRecord]) -> Findings:
    """Turn the records, in the order of the plan, into findings."""
    networks = networks_of(records)
    seeds = len({record.config.seed for record in records})
    return Findings(
        headline=_headline(networks),
        answer="\n\n".join(
            [
                *_paragraphs(networks),
                over_seeds(
                    seeds,
                    f"All numbers are means over {seeds} seeds, of logarithms where they are "
                    "factors.",
                ),
            ]
        ),
        highlights=_highlights(networks),
        summary=_summary(networks),
        figures=figures(networks, seeds),
        tables=(_all(networks),),
        measures=tuple(_measured(n, stage) for stage in STAGES for n in networks),
    )


def _measured(network: Network, stage: str) -> Measure:
    name = network.setting(stage).key(batch_norm=network.batch_norm)
    label = f"{network.label} batch norm, {STAGES[stage]}: gradient first / last layer, decades"
    return measure(name, label, network.per_seed(stage))


def _fate(network: Network, stage: str) -> Fate:
    return fate(_measured(network, stage))


def _count(networks: Sequence[Network], stage: str, *fates: Fate) -> int:
    return sum(_fate(network, stage) in fates for network in networks)


def _headline(networks: Sequence[Network]) -> str:
    sides = _sides(networks)
    lost = {
        (norm, stage): _count(side, stage, "vanish", "explode")
        for norm, side in sides.items()
        for stage in STAGES
    }
    total = len(sides["with"])
    return (
        f"At the start, gradients vanished or exploded in {lost['with', 'start']} of {total} "
        f"networks with batch norm and in {lost['without', 'start']} of {total} without; in "
        f"training in {lost['with', 'training']} and {lost['without', 'training']}."
    )


def _sides(networks: Sequence[Network]) -> dict[str, list[Network]]:
    return {
        "with": [network for network in networks if network.batch_norm],
        "without": [network for network in networks if not network.batch_norm],
    }


def _paragraphs(networks: Sequence[Network]) -> list[str]:
    """Return the answer, one paragraph per activation, and one on training."""
    return [
        f"{_headline(networks)} {_what(networks)}",
        *(
            _activation([n for n in networks if n.activation == activation])
            for activation in ACTIVATIONS
        ),
        f"{_trains(networks)} {_theory(networks)}".strip(),
    ]


def _what(networks: Sequence[Network]) -> str:
    """Say at the start, for each activation, what batch norm changed in the deepest network."""
    deepest = max(network.depth for network in networks)
    parts = [f"{a.name}, {_change(a, b)}" for a, b in pairs_of(networks) if a.depth == deepest]
    return (
        f"At {deepest} layers and at the start, batch norm changed the gap between the first and "
        f"the last layer so (a decade is a factor of ten): {'; '.join(parts)}."
    )


def _change(with_norm: Network, without: Network) -> str:
    """Say whether the gap between first and last layer became smaller, seed by seed."""
    seeds = zip(without.per_seed("start"), with_norm.per_seed("start"), strict=True)
    gain = Spread.of(abs(plain) - abs(norm) for plain, norm in seeds)
    if gain.low > 0:
        return f"narrower by {_factor(gain.mean)}"
    if gain.high < 0:
        return f"wider by {_factor(-gain.mean)}"
    return "no clear difference"


def _factor(decades: float) -> str:
    """Write a factor of moderate size in full, a large one in decades."""
    return f"a factor of {10**decades:.3g}" if decades < 3 else f"{decades:.1f} decades"


def _activation(networks: Sequence[Network]) -> str:
    """One paragraph: the deepest network at both stages."""
    deepest = max(network.depth for network in networks)
    name = networks[0].name
    sentences = [
        f"{STAGES[stage].capitalize()} the gradient of the first hidden layer was "
        + " and ".join(
            f"{_ratio(network, stage)} {'with' if network.batch_norm else 'without'} batch norm"
            for network in networks
            if network.depth == deepest
        )
        + "."
        for stage in STAGES
    ]
    return f"{name[0].upper()}{name[1:]}, {deepest} layers. {' '.join(sentences)}"


def _ratio(network: Network, stage: str) -> str:
    decades = Spread.of(network.per_seed(stage)).mean
    return f"{_times(decades)} times that of the last ({_FATES[_fate(network, stage)]})"


def _times(decades: float) -> str:
    """Write a factor with two digits, in full up to a million."""
    return f"{float(f'{10**decades:.2g}'):.7g}"


def _theory(networks: Sequence[Network]) -> str:
    """Name who found it before, if gradients explode with batch norm at the start."""
    norms = _sides(networks)["with"]
    growing = [network for network in norms if _fate(network, "start") == "explode"]
    if not growing:
        return ""
    worst = max(growing, key=lambda network: max(network.per_seed("start")))
    growth = 10 ** (Spread.of(worst.per_seed("start")).mean / (worst.depth - 1))
    later = _count(norms, "training", "explode")
    calmer = (
        f"; they also observed that training calms it (here {len(growing)} networks at the start "
        f"and {later} in training)"
        if later < len(growing)
        else ""
    )
    return (
        "That batch norm itself makes gradients explode at the start was proved by Yang et al. "
        f"2019 for wide networks{calmer}. The growth was largest in {worst.label} batch norm: "
        f"a factor of {growth:.3g} per layer."
    )


def _trains(networks: Sequence[Network]) -> str:
    parts = [
        f"{a.name} at {_depths(a, networks)} with batch norm and at {_depths(b, networks)} without"
        for a, b in pairs_of(networks)
        if a.depth == min(n.depth for n in networks)
    ]
    config = networks[0].records[0].config
    return (
        f"Training, {config.max_steps} steps of SGD at rate {config.rate:g}: the loss fell clearly "
        f"below that of a constant prediction in all runs with {'; '.join(parts)}."
    )


def _depths(like: Network, networks: Sequence[Network]) -> str:
    """List the depths at which every run learned."""
    found = [
        str(n.depth)
        for n in networks
        if (n.activation, n.batch_norm) == (like.activation, like.batch_norm)
        and n.learned == len(n.records)
    ]
    return f"{listing(found)} layers" if found else "no depth"


def _highlights(networks: Sequence[Network]) -> tuple[Highlight, ...]:
    sides = _sides(networks)

    def lost(norm: str, stage: str) -> str:
        count = _count(sides[norm], stage, "vanish", "explode")
        return f"{count} of {len(sides[norm])}"

    runs = {norm: sum(len(n.records) for n in side) for norm, side in sides.items()}
    trained = {norm: sum(n.learned for n in side) for norm, side in sides.items()}
    rows = [
        (
            f"gradients vanish or explode {STAGES[stage]}",
            lost("with", stage),
            lost("without", stage),
        )
        for stage in STAGES
    ]
    shares = [f"{trained[norm]} of {runs[norm]}" for norm in ("with", "without")]
    rows.append(("runs that learned", shares[0], shares[1]))
    return tuple(
        Highlight(
            label=f"{what}, with batch norm", value=value, other=f"without batch norm: {other}"
        )
        for what, value, other in rows
    )


def _summary(networks: Sequence[Network]) -> Table:
    def cell(network: Network, stage: str) -> str:
        return f"{Spread.of(network.per_seed(stage)).mean:+z.1f}"

    rows = tuple(
        (
            a.name,
            a.depth,
            cell(a, "start"),
            cell(b, "start"),
            cell(a, "training"),
            cell(b, "training"),
            f"{a.learned}, {b.learned} of {len(a.records)}",
        )
        for a, b in pairs_of(networks)
    )
    return Table(
        name="gradients-summary",
        title="Gradient of the first layer over that of the last, in decades",
        columns=(
            Column(title="Activation"),
            Column(title="Layers", format="count"),
            Column(title="Start, with"),
            Column(title="Start, without"),
            Column(title="Training, with"),
            Column(title="Training, without"),
            Column(title="Learned, with, without"),
        ),
        rows=rows,
    )


def _all(networks: Sequence[Network]) -> Table:
    rows = tuple(
        (
            network.name,
            network.depth,
            "with" if network.batch_norm else "without",
            STAGES[stage],
            measured.mean,
            measured.low,
            measured.high,
            _FATES[fate(measured)],
        )
        for stage in STAGES
        for network in networks
        for measured in [_measured(network, stage)]
    )
    return Table(
        name="gradients-all",
        title="Every network: decades from the last layer's gradient to the first's",
        columns=(
            Column(title="Activation"),
            Column(title="Layers", format="count"),
            Column(title="Batch norm"),
            Column(title="When"),
            Column(title="Decades", format="number"),
            Column(title="95% from", format="number"),
            Column(title="to", format="number"),
            Column(title="Counts as"),
        ),
        rows=rows,
    )
