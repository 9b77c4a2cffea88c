"""A report of seven sections in every shape that a study may produce, with invented numbers."""

from __future__ import annotations

import io
import math
import random
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from PIL import Image

from evenkeel.report import (
    Axis,
    Chapter,
    Column,
    Figure,
    Findings,
    Highlight,
    Measure,
    Note,
    Panel,
    Paper,
    Picture,
    Report,
    Series,
    Table,
    Verdict,
)

if TYPE_CHECKING:
    from collections.abc import Callable

LONG = "sigmoid, depth 40, batch norm before the activation, initial gamma 0.1, SGD with momentum"
RATES = tuple(10.0 ** (k / 2) for k in range(-6, 5))
STEPS = tuple(float(step) for step in range(0, 1500, 15))
DASHES: tuple[Any, ...] = ("solid", "dash", "dot")


def synthetic_report() -> Report:
    """Return the same report each time."""
    return Report(
        title="What did batch norm do here?",
        subtitle="A study on invented numbers",
        pictures=tuple(_picture(number) for number in range(10)),
        pictures_caption="One image of each class, none of them a digit.",
        chapters=tuple(_chapter(number) for number in range(len(SHAPES))),
        tables=(_settings(),),
        notes=(
            Note(name="measured", title="How it was measured", paragraphs=("By dice.",) * 3),
            Note(name="limitations", title="Limitations", paragraphs=("All is invented.",)),
        ),
        footer="Every number here is in results.json beside this file.",
    )


def series(
    name: str,
    x: tuple[float, ...],
    shape: Callable[[float], float],
    *,
    color: int = 0,
    gaps: tuple[int, ...] = (),
    band: float = 0.0,
    **style: Any,
) -> Series:
    """Return ``shape`` with noise over ``x``; ``band`` is the relative half width of the band."""
    dice = random.Random(name)
    y = tuple(
        None if at in gaps else shape(position) * (1 + 0.04 * dice.gauss(0, 1))
        for at, position in enumerate(x)
    )
    edges = {
        "low": tuple(v if v is None else v - band * abs(v) for v in y),
        "high": tuple(v if v is None else v + band * abs(v) for v in y),
    }
    return Series(name=name, x=x, y=y, color=color, **(edges if band else {}), **style)


def many(x: tuple[float, ...], count: int, steepness: float) -> tuple[Series, ...]:
    """Return ``count`` lines that decay, each faster than the one before."""
    return tuple(
        series(
            f"layer {number + 1} of {count}" if number else LONG,
            x,
            lambda at, n=number: math.exp(-steepness * n * (at + 1) / (max(x) + 1)) + 1e-12,
            color=number,
            dash=DASHES[number % 3],
            markers=len(x) < 30,
            band=0.2 if number % 2 else 0.0,
        )
        for number in range(count)
    )


def _with_and_without(x: tuple[float, ...]) -> tuple[Series, ...]:
    def bell(centre: float) -> Callable[[float], float]:
        return lambda at: 0.1 + 0.88 * math.exp(-((math.log10(at) - centre) ** 2))

    return (
        series("with batch norm", x, bell(0.3), band=0.06),
        series("without", x, bell(-0.8), color=1, dash="dash", gaps=(4, 8, 9, 10), band=0.1),
    )


def _accuracy() -> Figure:
    return Figure(
        name="accuracy",
        title="Best test accuracy by learning rate",
        caption="Lines are means over five seeds, bands are 95 % confidence intervals.",
        alt="Accuracy is highest between rates 0.1 and 3 with batch norm.",
        x=Axis(title="learning rate", scale="log", format="rate"),
        y=Axis(title="best test accuracy", format="percent", limits=(0.0, 1.02)),
        panels=tuple(
            Panel(title=name, series=_with_and_without(RATES)) for name in ("SGD", "Adam")
        ),
    )


def _gradients() -> Figure:
    depth = tuple(float(layer) for layer in range(1, 41))
    return Figure(
        name="norms",
        title="Gradient norm of each layer at the start, from the input to the output of networks",
        caption="A straight line here is an exponential change over depth. " * 3,
        alt="Gradients vanish over twelve powers of ten with sigmoid.",
        x=Axis(title="layer, counted from the input of the network to its output", format="count"),
        y=Axis(
            title="gradient norm of the weights divided by the norm of the weights themselves",
            scale="log",
            limits=(1e-12, 1e3),
        ),
        panels=tuple(
            Panel(title=name, series=many(depth, 8, 27.0))
            for name in ("sigmoid", "tanh", "ReLU", "ReLU with He initialisation")
        ),
    )


def _trajectories() -> Figure:
    def lines(panel: int) -> tuple[Series, ...]:
        faint = tuple(
            series(f"channel {n}", STEPS, lambda at, n=n: n / 3 - 1 - at / 900, color=2,
                   markers=False, faint=True)
            for n in range(4)
        )  # fmt: skip
        thick = series(
            f"mean of layer {panel}", STEPS, lambda at: -at / 900, color=2, band=0.3, markers=False
        )
        return (*faint, thick)

    return Figure(
        name="beta",
        title="Beta over training",
        caption="Thin lines are single channels.",
        alt="Beta falls below zero in every layer.",
        x=Axis(title="step", format="count"),
        y=Axis(title="beta"),
        panels=tuple(Panel(title=f"layer {n}", series=lines(n)) for n in (1, 2, 3)),
    )


def _sizes() -> Figure:
    sizes = tuple(float(2**k) for k in range(1, 9))
    wide = series("reaches below zero", sizes, lambda at: 0.5 / at**0.25, color=4, band=1.3)
    alone = Series(
        name="one size, with its interval", x=(16.0,), y=(0.31,), low=(0.25,), high=(0.4,), color=3
    )
    return Figure(
        name="sizes",
        title="Noise of the statistics by batch size",
        caption="One panel; the axis of heights is shorter than a power of ten.",
        alt="Noise falls with the square root of the batch size.",
        x=Axis(title="batch size", scale="log", format="count"),
        y=Axis(title="relative noise", scale="log"),
        panels=(
            Panel(
                title="",
                series=(*(series(f"ghost batches of {k}", sizes, lambda at: 0.9 / at**0.25, color=k)
                          for k in range(3)), alone, wide),
            ),
        ),
    )  # fmt: skip


def _own_legends() -> Figure:
    return Figure(
        name="groups",
        title="Panels that share no lines",
        caption="Each panel has its own legend.",
        alt="Six curves in each of four panels.",
        x=Axis(title="step", format="count"),
        y=Axis(title="drift", format="number"),
        panels=tuple(
            Panel(
                title=f"group {group}",
                series=tuple(
                    series(f"run {group}{n} of a study", STEPS, lambda at, n=n: n * at, color=n,
                           dash=DASHES[n % 3], markers=False)
                    for n in range(6)
                ),
            )
            for group in "abcd"
        ),
    )  # fmt: skip


def _measures(count: int) -> tuple[Measure, ...]:
    dice = random.Random(count)
    made: list[Measure] = []
    for number in range(count):
        values = tuple(0.9 + 0.02 * dice.gauss(0, 1) for _ in range(5))
        half = 2.776 * stdev(values) / math.sqrt(5)
        made.append(
            Measure(
                name=f"measure-{number}",
                label=f"best test accuracy, optimizer {number}, with batch norm",
                values=values,
                mean=mean(values),
                std=stdev(values),
                low=mean(values) - half,
                high=mean(values) + half,
                format="percent",
            )
        )
    once = Measure(
        name="once", label="one seed only", values=(1e-9,), mean=1e-9, std=None, low=None, high=None
    )
    return (*made, once)


def _summary(rows: int) -> Table:
    titles = ("network", "largest usable rate", "best accuracy", "steps to 90%", "diverged")
    formats: tuple[Any, ...] = ("text", "rate", "percent", "count", "percent")
    return Table(
        name="summary",
        title="Summary",
        columns=tuple(Column(title=t, format=f) for t, f in zip(titles, formats, strict=True)),
        rows=tuple(
            (LONG[: 20 + n], 10.0 ** (n % 5 - 3), 0.9 + n / 300, None if n % 3 else 1200 + n, 0)
            for n in range(rows)
        ),
    )  # fmt: skip


def _settings() -> Table:
    rows = (("data", "invented"), ("checksum of the data", "0123456789abcdef" * 4))
    return Table(
        name="settings",
        title="Settings",
        columns=(Column(title="Setting"), Column(title="Value")),
        rows=rows,
    )


def _picture(number: int) -> Picture:
    file = io.BytesIO()
    Image.linear_gradient("L").rotate(36 * number).resize((8, 8)).save(file, format="PNG")
    return Picture(
        png=file.getvalue(), width=8, height=8, label=str(number), alt=f"sample of class {number}"
    )


_HOLDS = Verdict(
    kind="holds", words="holds here", reason="The ratio is 31.6, above 3 in all seeds."
)
_FAILS = Verdict(
    kind="fails", words="does not hold here", reason="The drift is 1.4 times larger, not smaller."
)
_DEPENDS = Verdict(
    kind="depends",
    words="depends on the batch size and on the optimizer",
    reason="With SGD the gap shrinks by 2.1 points (1.2 to 3.0), with Adam by 0.1 (-0.5 to 0.7).",
)
#: Name, title, verdict, figures, rows of the summary, tiles.
SHAPES: tuple[tuple[str, str, Verdict, tuple[Callable[[], Figure], ...], int, int], ...] = (
    ("learning-rate", "Learning rates", _HOLDS, (_accuracy, _sizes), 4, 3),
    ("gradients", "Gradients in deep plain networks", _HOLDS, (_gradients,), 20, 2),
    ("covariate-shift", "Internal covariate shift", _FAILS, (_trajectories,), 3, 0),
    ("regularization", "Regularization", _DEPENDS, (_sizes,), 8, 4),
    ("scale-and-shift", "Scale and shift", _DEPENDS, (_own_legends, _trajectories), 6, 1),
    ("small-batches", "Small batches", _HOLDS, (_accuracy,), 12, 5),
    ("train-vs-inference", "Training against inference", _FAILS, (_accuracy,), 2, 3),
)


def _chapter(number: int) -> Chapter:
    name, title, verdict, figures, rows, tiles = SHAPES[number]
    answer = (
        f"{title}: the largest rate that still trains is 31.6 times larger with batch norm "
        "(10 times to 100 times over the seeds), and the best accuracy differs by 0.4 points."
    )
    return Chapter(
        name=name,
        title=title,
        claim=f"Batch norm improves what this section calls {title.lower()}.",
        method=(
            "Two networks, input to 256 to 128 to 64 to 10, trained alike, with and without.",
            "Five seeds; every accuracy is measured on the same test set in inference mode.",
        ),
        rule="It holds if the lower end of the 95 % interval of the ratio is above 3.",
        verdict=verdict,
        papers=_PAPERS[: number % 3 + 1] if number != 2 else (),
        findings=Findings(
            headline=f"Rates up to 31.6 times larger train with SGD ({number + 1} of 7 sections).",
            answer=f"{answer}\n\nThe deep network gains more. " + "It is told at length. " * 8,
            highlights=tuple(
                Highlight(label="largest usable rate, SGD, with batch norm", value="31.6",
                          other="without batch norm: 1")
                for _ in range(tiles)
            ),
            summary=_summary(rows),
            figures=tuple(make() for make in figures),
            tables=(_summary(9),),
            measures=_measures(number + 1),
        ),
    )  # fmt: skip


_PAPERS = (
    Paper(
        cite="Ioffe & Szegedy 2015",
        title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
        "Covariate Shift",
        where="ICML, arXiv:1502.03167",
        says="Thirty times larger rates trained an Inception network in fewer steps.",
    ),
    Paper(
        cite="Santurkar et al. 2018",
        title="How Does Batch Normalization Help Optimization?",
        where="NeurIPS, arXiv:1805.11604",
        says="Networks with more drift still train faster; the loss is smoother.",
    ),
    Paper(
        cite="Bjorck et al. 2018",
        title="Understanding Batch Normalization",
        where="NeurIPS, arXiv:1806.02375",
        says="The larger rates explain most of the gain in accuracy.",
    ),
)
