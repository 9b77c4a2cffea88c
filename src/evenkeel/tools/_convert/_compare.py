"""``compare_files``: two files of weights without an architecture, array by array."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np

from evenkeel import checkpoints
from evenkeel.tools._convert._flattened import doubt
from evenkeel.tools._convert._formats import framework_of
from evenkeel.tools._convert._layers import CHANNELS_FIRST, with_rows
from evenkeel.tools._convert._matching import Match, Side, match_layers
from evenkeel.tools._convert._read import fitting_kinds, has_model_order, read_source
from evenkeel.tools._convert._settings import DECIDING, comparable

if TYPE_CHECKING:
    import os
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray
    from rich.console import RenderableType

    from evenkeel.checkpoints import Checkpoint, StoredArray
    from evenkeel.dialects._layers import Layer
    from evenkeel.tools._convert._records import Framework

Verdict: TypeAlias = Literal[
    "equal", "differs", "undecided", "shape", "only in a", "only in b", "not stored"
]


@dataclass(frozen=True, slots=True)
class ComparedArray:
    """One array, or one setting of a batch-norm layer, in both files.

    Args:
        a: name of the layer or array in the first file.
        b: in the second.
        what: the role or the setting; empty where the names are those of arrays.
        verdict: ``"equal"`` means every value exactly; ``"not stored"`` that a setting is in one
            file at most; ``"undecided"`` that the rows of a dense layer may or may not be those
            of a flattened picture, which has another order in the other framework.
        detail: the largest difference, the shapes, or the two settings.
    """

    a: str
    b: str
    what: str
    verdict: Verdict
    detail: str = ""


@dataclass(frozen=True, slots=True)
class FileComparison:
    """Two files side by side; ``str()`` gives a table at most 80 columns wide."""

    a: str
    b: str
    frameworks: tuple[str, str]
    rows: tuple[ComparedArray, ...]

    @property
    def equal(self) -> bool:
        """Whether every array and every setting that both store is the same."""
        return all(row.verdict in {"equal", "not stored"} for row in self.rows)

    def to_dict(self) -> dict[str, Any]:
        """The same records as JSON values."""
        rows = [asdict(row) for row in self.rows]
        named = {"a": self.a, "b": self.b, "frameworks": list(self.frameworks)}
        return {**named, "equal": self.equal, "rows": rows}

    def __rich__(self) -> RenderableType:
        from evenkeel.tools._convert._compare_table import render

        return render(self)

    def __str__(self) -> str:
        from evenkeel.tools._convert._compare_table import to_text

        return to_text(self)


def compare_files(
    a: str | os.PathLike[str],
    b: str | os.PathLike[str],
    *,
    kinds: Mapping[str, str] | None = None,
    mapping: Mapping[str, str] | None = None,
) -> FileComparison:
    """Compare the weights in two files, whatever framework wrote them.

    Files of one framework are compared name by name. Files of two are read into one layout, and
    their layers matched as :func:`evenkeel.convert` does.

    Args:
        a: a checkpoint.
        b: another one.
        kinds: as in :func:`evenkeel.convert`, for both files.
        mapping: names in ``a`` to names in ``b``.

    Raises:
        FileError: a file cannot be read.
        InputError: a layer has no counterpart, or several.
    """
    one, two = checkpoints.read(a), checkpoints.read(b)
    frameworks = framework_of(one), framework_of(two)
    same = frameworks[0] == frameworks[1] and not mapping
    if same and one.arrays.keys() & two.arrays.keys():
        rows = [*_by_array(one, two), *_settings_by_name(one, two)]
    else:
        rows = _by_layer(one, two, dict(kinds or {}), mapping)
    return FileComparison(str(a), str(b), frameworks, tuple(rows))


def _by_array(one: Checkpoint, two: Checkpoint) -> Iterator[ComparedArray]:
    for name, array in one.arrays.items():
        if name not in two.arrays:
            yield ComparedArray(name, "", "", "only in a", str(array.shape))
        else:
            yield _compared(name, name, "", array, two.arrays[name])
    for name, array in two.arrays.items():
        if name not in one.arrays:
            yield ComparedArray("", name, "", "only in b", str(array.shape))


def _settings_by_name(one: Checkpoint, two: Checkpoint) -> Iterator[ComparedArray]:
    theirs = {layer.name: layer for layer in read_source(two, {}, ()).layers}
    for layer in read_source(one, {}, ()).layers:
        if layer.spec is not None and layer.name in theirs:
            yield from _settings(layer, theirs[layer.name], framework_of(one))


def _by_layer(
    one: Checkpoint, two: Checkpoint, kinds: dict[str, str], mapping: Mapping[str, str] | None
) -> list[ComparedArray]:
    first, second = framework_of(one), framework_of(two)
    told = fitting_kinds(one, two, kinds)
    # What one file does not tell of a layer, the other one may.
    first_look = read_source(one, told[0], ()).layers
    theirs = [la for la in read_source(two, told[1], first_look).layers if la.arrays]
    ours = [la for la in read_source(one, told[0], theirs).layers if la.arrays]
    left = Side(str(one.path), ours, has_model_order(one))
    right = Side(str(two.path), theirs, has_model_order(two))
    rows: list[ComparedArray] = []
    for pair in match_layers(left, right, mapping):
        found = list(_pair(pair, first, second))
        if (first in CHANNELS_FIRST) != (second in CHANNELS_FIRST):
            found = [_undecided(row, pair, left, right) for row in found]
        rows += found
    return rows


def _undecided(row: ComparedArray, pair: Match, left: Side, right: Side) -> ComparedArray:
    """The row, or that nobody knows whether it had to be equal."""
    told = pair.source.settings.get("flattened") or pair.target.settings.get("flattened")
    if told or row.what != "kernel" or row.verdict not in {"equal", "differs"}:
        return row
    doubts = [
        doubt(layer, side.layers, ordered=side.ordered)
        for layer, side in ((pair.source, left), (pair.target, right))
    ]
    known = [found for found in doubts if found is not None]
    if len(known) < len(doubts) or all(found.plain for found in known):
        return row
    found = next(found for found in known if not found.plain)
    said = f"behind a flattened picture or not? say it: --kind {row.a}=dense:{found.picture()}"
    return replace(row, verdict="undecided", detail=f"{said}, or =dense")


def _pair(pair: Match, first: Framework, second: Framework) -> Iterator[ComparedArray]:
    ours, theirs = pair.source, pair.target
    picture = ours.settings.get("flattened") or theirs.settings.get("flattened") or ()
    ours, theirs = with_rows(ours, tuple(picture), first), with_rows(theirs, tuple(picture), second)
    for role, array in ours.arrays.items():
        if role in theirs.arrays:
            yield _compared(ours.name, theirs.name, role, array, theirs.arrays[role])
        elif role != "batches":  # a counter that only torch keeps
            yield ComparedArray(ours.name, theirs.name, role, "only in a", str(array.shape))
    for role, array in theirs.arrays.items():
        if role not in ours.arrays and role != "batches":
            yield ComparedArray(ours.name, theirs.name, role, "only in b", str(array.shape))
    if ours.spec is not None and theirs.spec is not None:
        yield from _settings(ours, theirs, first)


def _settings(one: Layer, two: Layer, framework: Framework) -> Iterator[ComparedArray]:
    for name in DECIDING:
        stored = name not in one.assumed and name not in two.assumed
        mine, other = comparable(one, name, framework), comparable(two, name, framework)
        said = f"{mine!r} and {other!r}" if stored else ""
        same: Verdict = "equal" if mine == other else "differs"
        verdict: Verdict = same if stored else "not stored"
        yield ComparedArray(one.name, two.name, name, verdict, said if verdict == "differs" else "")


def _compared(a: str, b: str, what: str, one: StoredArray, two: StoredArray) -> ComparedArray:
    if one.shape != two.shape:
        return ComparedArray(a, b, what, "shape", f"{one.shape} and {two.shape}")
    types = f"{one.dtype} and {two.dtype}" if one.dtype != two.dtype else ""
    mine, other = one.read(), two.read()
    if _same_bits(mine, other):
        nan = "NaN in both" if np.isnan(mine.astype(np.float64)).any() else ""
        return ComparedArray(a, b, what, "equal", ", ".join(filter(None, (types, nan))))
    wide = np.complex128 if np.iscomplexobj(mine) or np.iscomplexobj(other) else np.float64
    mine, other = mine.astype(wide), other.astype(wide)
    if np.array_equal(mine, other):
        return ComparedArray(a, b, what, "equal", types)
    with np.errstate(invalid="ignore"):
        gap = np.abs(mine - other)
    largest = np.nanmax(gap) if not np.isnan(gap).all() else np.nan
    size = np.abs(mine[np.isfinite(mine)]).max(initial=0)
    text = f"largest difference {largest:.3g} beside {size:.3g}"
    if np.isnan(gap).any():
        text += f", {int(np.isnan(gap).sum())} NaN"
    return ComparedArray(a, b, what, "differs", ", ".join(filter(None, (text, types))))


def _same_bits(one: NDArray[Any], two: NDArray[Any]) -> bool:
    return one.dtype == two.dtype and one.tobytes() == two.tobytes()
