"""The plots of the section."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from evenkeel.report import Axis, Figure, Panel
from evenkeel.study._curves import banded, caption
from evenkeel.study._statistics import Spread
from evenkeel.study.sections.regularization._plan import NETWORKS

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.report import Series
    from evenkeel.study.sections.regularization._outcomes import Outcomes
    from evenkeel.study.sections.regularization._plan import Network

_OTHERS: Final[tuple[Network, ...]] = ("batch norm", "dropout", "both")
_SIZE: Final = Axis(title="training samples", scale="log", format="count")


def figures(found: Outcomes) -> tuple[Figure, ...]:
    """Gain, gap and loss by size of the training set, and loss over steps."""
    draw = partial(_by_size, found)
    return (
        draw(
            lambda network, size, batch: found.differences("test", (network, "plain"), size, batch),
            name="gain-by-samples",
            title="Gain in test accuracy over the plain network",
            text="Test accuracy minus that of the plain network of the same seed, with the same "
            "training set; above zero generalizes better.",
            y=Axis(title="gain in test accuracy", format="percent"),
            networks=_OTHERS,
        ),
        draw(
            lambda network, size, batch: found.values("gap", network, size, batch),
            name="gap-by-samples",
            title="Train-test gap by size of the training set",
            text="Training accuracy minus test accuracy at the end of the run; lower generalizes "
            "better, as long as training accuracy is as high (see the table). The bands are wide "
            "since every seed has a training set of its own, but the same for all networks.",
            y=Axis(title="training minus test accuracy", format="percent"),
            networks=tuple(NETWORKS),
        ),
        draw(
            partial(_relative_loss, found),
            name="relative-test-loss-by-samples",
            title="Test loss relative to the plain network",
            text="Mean cross-entropy on the test samples divided by that of the plain network of "
            "the same seed; below one is better.",
            y=Axis(title="test loss / that of plain", scale="log"),
            networks=_OTHERS,
        ),
        _over_steps(found),
    )


def _relative_loss(found: Outcomes, network: Network, size: int, batch: int) -> list[float]:
    losses = (found.values("test loss", name, size, batch) for name in (network, "plain"))
    return [loss / plain for loss, plain in zip(*losses, strict=True)]


def _by_size(
    found: Outcomes,
    values: Callable[[Network, int, int], list[float]],
    *,
    name: str,
    title: str,
    text: str,
    y: Axis,
    networks: tuple[Network, ...],
) -> Figure:
    """Draw one number for each seed over the size of the training set, by batch size."""

    def series(network: Network, batch: int) -> Series:
        spreads = [Spread.of(values(network, size, batch)) for size in found.sizes]
        return banded(network, list(NETWORKS).index(network), found.sizes, spreads)

    def say(size: int, batch: int) -> str:
        means = ((n, Spread.of(values(n, size, batch)).mean) for n in networks)
        parts = (f"{n} {f'{m:.1%}' if y.format == 'percent' else f'{m:.3g}'}" for n, m in means)
        return f"{size} samples, batch size {batch}: {', '.join(parts)}."

    return Figure(
        name=name,
        title=title,
        caption=caption(text, found.seeds),
        alt=f"Line plots over the number of training samples, one for each batch size. {title}. "
        + " ".join(say(*setting) for setting in found.settings),
        x=_SIZE,
        y=y,
        panels=tuple(
            Panel(
                title=f"batch size {batch}",
                series=tuple(series(network, batch) for network in networks),
            )
            for batch in found.batch_sizes
        ),
    )


def _over_steps(found: Outcomes) -> Figure:
    batch = found.batch_sizes[0]
    panels: list[Panel] = []
    ends: list[str] = []
    for size in found.sizes:
        lines: list[Series] = []
        for color, network in enumerate(NETWORKS):
            outcome = found.settings[size, batch][network]
            steps, spreads = outcome.losses()
            lines.append(banded(network, color, steps, spreads))
            ends.append(f"{size} samples, {network}: {spreads[-1].mean:.3g}.")
        panels.append(Panel(title=f"{size} training samples", series=tuple(lines)))
    return Figure(
        name="test-loss-over-steps",
        title=f"Test loss over training steps, batch size {batch}",
        caption=caption(
            "In inference mode. A line that turns up again shows overfitting.", found.seeds
        ),
        alt="Line plots of test loss over steps, one for each size of the training set. At the "
        "end: " + " ".join(ends),
        x=Axis(title="step", format="count"),
        y=Axis(title="test loss", scale="log"),
        panels=tuple(panels),
    )
