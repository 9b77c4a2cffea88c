"""What a report is made of, as plain data: no plotting library, no markup.

A study builds these; the renderer draws them. Numbers stay numbers (a :class:`Format` says how
they are written), so the same records go into ``results.json`` through ``dataclasses.asdict``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

#: How a number is written: as it is, as a percentage, as a learning rate, or as a count.
Format: TypeAlias = Literal["text", "number", "percent", "rate", "count"]
Cell: TypeAlias = str | float | int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One axis of a figure; ``limits`` are in data units, also on a logarithmic scale.

    ``labels`` are names of the positions 0, 1, 2, ... of an axis that counts things.
    """

    title: str
    scale: Literal["linear", "log"] = "linear"
    format: Format = "number"
    limits: tuple[float, float] | None = None
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One line over ``x``, with a band from ``low`` to ``high`` where both are given.

    Args:
        name: what the legend says.
        x: positions, strictly increasing.
        y: values; None leaves a gap.
        low: lower edge of the band, as long as ``x``, or empty for no band.
        high: upper edge of the band.
        color: index into the palette of the renderer (0 to 7), which also chooses the marker.
        dash: stroke of the line; colour is never the only difference.
        markers: draw a point at each ``x``.
        faint: a thin companion line, kept out of the legend.
    """

    name: str
    x: tuple[float, ...]
    y: tuple[float | None, ...]
    low: tuple[float | None, ...] = ()
    high: tuple[float | None, ...] = ()
    color: int = 0
    dash: Literal["solid", "dash", "dot"] = "solid"
    markers: bool = True
    faint: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot of a figure; the panels of a figure share titles of axes and the y range."""

    title: str
    series: tuple[Series, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """Plots side by side under one caption, with a text that says what they show."""

    name: str
    title: str
    caption: str
    alt: str
    x: Axis
    y: Axis
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Heading of a table column and the way its numbers are written."""

    title: str
    format: Format = "text"


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A titled table; every row has one cell per column."""

    name: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[tuple[Cell, ...], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Highlight:
    """One number worth a large print: what it is, its value, and what it is held against."""

    label: str
    value: str
    other: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """A number measured once per repetition, from which verdicts are drawn.

    Args:
        name: key for the rules; lower case with hyphens.
        label: what was measured, in words.
        values: one per repetition, in the order of the seeds; all finite.
        mean: of the values.
        std: sample standard deviation; None for one value.
        low: lower end of the 95 % confidence interval of the mean; None for one value.
        high: upper end of it.
        format: how the numbers are written.
    """

    name: str
    label: str
    values: tuple[float, ...]
    mean: float
    std: float | None
    low: float | None
    high: float | None
    format: Format = "number"


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What a rule, written down before the run, says about a claim.

    ``words`` is what stands on the page: "holds here", "does not hold here" or "depends on ...".
    ``reason`` is the sentence with the numbers that decided.
    """

    kind: Literal["holds", "fails", "depends"]
    words: str
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Paper:
    """A source: ``cite`` is "Ioffe & Szegedy 2015", ``where`` e.g. "ICML, arXiv:1502.03167".

    ``says`` is what it found about the claim, in one sentence of ours.
    """

    cite: str
    title: str
    where: str
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What one section found.

    ``headline`` is one or two sentences for the top of the report. ``answer`` is a few paragraphs
    with an empty line between them; the first one answers the claim on its own. ``summary`` is a
    table small enough for a terminal; ``measures`` are the numbers that the verdict rests on.
    """

    headline: str
    answer: str
    highlights: tuple[Highlight, ...]
    summary: Table
    figures: tuple[Figure, ...]
    tables: tuple[Table, ...] = ()
    measures: tuple[Measure, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """One section of the report: a claim, how it was tested, by what rule, and what was found."""

    name: str
    title: str
    claim: str
    method: tuple[str, ...]
    rule: str
    verdict: Verdict
    papers: tuple[Paper, ...]
    findings: Findings


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """A PNG image and the text that stands for it."""

    png: bytes
    width: int
    height: int
    label: str
    alt: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """A titled list of paragraphs, such as the limitations."""

    name: str
    title: str
    paragraphs: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """Everything that the HTML file shows, in reading order; chapters stand for their claims.

    ``figures`` are shown before all chapters, for a report without claims.
    """

    title: str
    subtitle: str
    pictures: tuple[Picture, ...]
    pictures_caption: str
    chapters: tuple[Chapter, ...]
    tables: tuple[Table, ...]
    notes: tuple[Note, ...]
    footer: str
    figures: tuple[Figure, ...] = ()
