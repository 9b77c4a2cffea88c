"""Accuracy of batch norm in training, float32: torch, eager and compiled, beside evenkeel.

    python benchmarks/accuracy.py         measure, write results/accuracy.csv, update the document
    python benchmarks/accuracy.py --doc   only put the tables of the CSV into docs/numerics.md

Every figure is an error against `evenkeel.reference` in float64 on the same float32 data. The
data depend on a fixed seed, and the numbers of threads are fixed, because torch's results depend
on them. A full run takes some minutes, nearly all of them in torch.compile.
"""

from __future__ import annotations

import argparse
import csv
import tomllib
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, cast

import numpy as np
import torch

from evenkeel import kernels, nn, reference
from evenkeel.bench import processor

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray
    from torch import Tensor

    Array = NDArray[np.float64]

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "accuracy.csv"
DOCUMENT: Final = ROOT / "docs" / "numerics.md"
BEGIN: Final = "<!-- accuracy: begin (written by benchmarks/accuracy.py) -->"
END: Final = "<!-- accuracy: end -->"

#: Threads of the main tables, and of the one that compares numbers of threads.
THREADS: Final = 2
OTHER_THREADS: Final = (1, 8, 32)
EPS: Final = 1e-5
U: Final = 2.0**-24
#: Promise 1: errors of output and variance, and of the gradients in units of u times their scale.
LARGEST_ERROR: Final = 1e-6
K: Final = 16.0

#: Name -> mean and standard deviation; every channel has its own, within a factor of 3.
VALUES: Final = {
    "mean/std 0": (0.0, 1.0),
    "mean/std 1e2": (1e2, 1.0),
    "mean/std 1e4": (1e4, 1.0),
    "mean/std 1e6": (1e6, 1.0),
    "mean -3000, std 0.01": (-3000.0, 0.01),
    "std 1e-12": (0.0, 1e-12),
    "std 1e12": (0.0, 1e12),
    "outlier first": (0.0, 1.0),
}
OUTLIER: Final = 1e6
#: Layout -> shapes with 4096 values per channel.
SHAPES: Final[dict[str, tuple[tuple[int, ...], ...]]] = {
    "rows": ((4096, 8),),
    "contiguous": ((64, 8, 64), (64, 8, 8, 8), (16, 8, 4, 8, 8)),
    "channels_last": ((64, 8, 64), (64, 8, 8, 8), (16, 8, 4, 8, 8)),
}
IMPLEMENTATIONS: Final = ("torch eager", "torch.compile", "evenkeel aten", "evenkeel cpu")
#: torch compiles once for each of these, which takes most of the time.
COMPILED_RANKS: Final = (2, 4)

_TORCH: Final = {
    2: torch.nn.BatchNorm1d,
    3: torch.nn.BatchNorm1d,
    4: torch.nn.BatchNorm2d,
    5: torch.nn.BatchNorm3d,
}
_EVENKEEL: Final = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}


class Batch(NamedTuple):
    """The float32 tensors that go into one training step of one layer."""

    x: Tensor
    dy: Tensor
    weight: Tensor
    bias: Tensor


class Step(NamedTuple):
    """What a training step gives; (N, C, S) and (C,) arrays in float64."""

    output: Array
    variance: Array
    dgamma: Array
    dbeta: Array
    dx: Array


@dataclass(frozen=True)
class Errors:
    """The worst errors of one step.

    ``output`` is relative to the largest output of the channel, ``variance``, the stored one, to
    itself; the gradients are in units of u times the scale that promise 1 gives them.
    """

    output: float
    variance: float
    dgamma: float
    dbeta: float
    dx: float


METRICS: Final = tuple(field.name for field in fields(Errors))


def make_batch(shape: tuple[int, ...], layout: str, values: str) -> Batch:
    """Float32 data with the named distribution; the same for the same arguments."""
    random = torch.Generator().manual_seed(zlib.crc32(f"{shape} {values}".encode()))
    mean, std = VALUES[values]
    factor = torch.rand(1, shape[1], *(1 for _ in shape[2:]), generator=random) + 0.5
    x = factor.double() * (mean + std * _normal(shape, random))
    if values == "outlier first":
        x[(0, slice(None), *(0 for _ in shape[2:]))] = OUTLIER
    dy = _normal(shape, random)
    weight = torch.rand(shape[1], generator=random) + 0.5
    weight[::3] *= -1
    bias = torch.randn(shape[1], generator=random)
    return Batch(_arrange(x.float(), layout), _arrange(dy.float(), layout), weight, bias)


def _normal(shape: tuple[int, ...], random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random, dtype=torch.float64)


def _arrange(x: Tensor, layout: str) -> Tensor:
    if layout == "channels_last":
        return x.movedim(1, -1).contiguous().movedim(-1, 1)
    return x


def make_layer(kinds: dict[int, Any], shape: tuple[int, ...]) -> torch.nn.BatchNorm2d:
    """A layer for ``shape``, of the kind for its rank; it stores the batch's own statistics."""
    return kinds[len(shape)](shape[1], eps=EPS, momentum=1.0)


def train(layer: torch.nn.BatchNorm2d, call: Callable[[Tensor], Tensor], batch: Batch) -> Step:
    """One forward and backward pass through ``call``, which runs ``layer``."""
    with torch.no_grad():
        layer.weight.copy_(batch.weight)
        layer.bias.copy_(batch.bias)
    x = batch.x.detach().clone(memory_format=torch.preserve_format).requires_grad_()
    y = call(x)
    wanted = (layer.weight, layer.bias, x)
    dgamma, dbeta, dx = torch.autograd.grad(y, wanted, batch.dy)
    variance = cast("Tensor", layer.running_var)
    return Step(_canonical(y), _array(variance), _array(dgamma), _array(dbeta), _canonical(dx))


def errors(step: Step, batch: Batch) -> Errors:
    """Errors of ``step`` against the law; NaN counts as infinitely wrong."""
    x, dy = _canonical(batch.x), _canonical(batch.dy)
    gamma, bias = _array(batch.weight), _array(batch.bias)
    y, moments = reference.forward(x, gamma, bias, EPS)
    mean, var, count = moments.mean, moments.var, moments.count
    exact = reference.backward(dy, x, mean, var, gamma, bias, EPS)
    xhat = reference.standardize(x, mean, var, EPS)
    slope = np.abs(gamma) / np.sqrt(var + EPS)
    size = _largest(dy) + np.abs(exact.bias / count)
    size += _largest(xhat) * np.abs(exact.weight / count)
    stored = var * (count / (count - 1))
    return Errors(
        output=_worst(_largest(step.output - y), _largest(y)),
        variance=_worst(np.abs(step.variance - stored), stored),
        dgamma=_worst(np.abs(step.dgamma - exact.weight), U * _total(np.abs(dy * xhat))),
        dbeta=_worst(np.abs(step.dbeta - exact.bias), U * _total(np.abs(dy))),
        dx=_worst(_largest(step.dx - exact.x), U * slope * size),
    )


def _array(value: Tensor) -> Array:
    return value.detach().double().numpy().copy()


def _canonical(value: Tensor) -> Array:
    return _array(value.reshape(*value.shape[:2], -1))


def _largest(value: NDArray[Any]) -> Array:
    return np.abs(value).max(axis=(0, 2))


def _total(value: NDArray[Any]) -> Array:
    return value.sum(axis=(0, 2))


def _worst(error: NDArray[Any], scale: NDArray[Any]) -> float:
    ratio = error / scale
    return float(np.where(np.isnan(ratio), np.inf, ratio).max())


# What is measured.


def layers(shape: tuple[int, ...]) -> Iterator[tuple[str, Callable[[Batch], Step]]]:
    """The name of each implementation, and its training step for batches of ``shape``."""
    yield "torch eager", torch_step(shape)
    if len(shape) in COMPILED_RANKS:
        inner = make_layer(_TORCH, shape)
        compiled = torch.compile(inner, fullgraph=True, dynamic=False)
        yield "torch.compile", lambda batch: train(inner, compiled, batch)
    for provider in ("aten", "cpu"):
        yield f"evenkeel {provider}", evenkeel_step(provider, shape)


def evenkeel_step(provider: str, shape: tuple[int, ...]) -> Callable[[Batch], Step]:
    """The training step of evenkeel's layer for ``shape`` on one provider."""
    layer = make_layer(_EVENKEEL, shape)

    def step(batch: Batch) -> Step:
        with kernels.use(provider):
            return train(layer, layer, batch)

    return step


def torch_step(shape: tuple[int, ...]) -> Callable[[Batch], Step]:
    """The training step of torch's own layer for ``shape``, eager."""
    layer = make_layer(_TORCH, shape)
    return lambda batch: train(layer, layer, batch)


def measure() -> Iterator[dict[str, str]]:
    """One record per implementation, layout, rank, distribution and number of threads."""
    for layout, shapes in SHAPES.items():
        for shape in shapes:
            for name, step in layers(shape):
                for values in VALUES:
                    yield record(name, step, layout, shape, values, THREADS)
    shape = SHAPES["channels_last"][1]
    for name, step in layers(shape):
        for threads in () if name == "torch.compile" else OTHER_THREADS:
            yield record(name, step, "channels_last", shape, "mean/std 1e4", threads)


def record(
    name: str,
    step: Callable[[Batch], Step],
    layout: str,
    shape: tuple[int, ...],
    values: str,
    threads: int,
) -> dict[str, str]:
    """Measure one training step."""
    torch.set_num_threads(threads)
    batch = make_batch(shape, layout, values)
    figures = asdict(errors(step(batch), batch))
    return {
        "implementation": name,
        "layout": layout,
        "rank": str(len(shape)),
        "shape": "x".join(map(str, shape)),
        "values": values,
        "threads": str(threads),
        **{metric: f"{value:.3g}" for metric, value in figures.items()},
        **versions(),
    }


def versions() -> dict[str, str]:
    """What else decides the figures: versions, processor and instruction sets."""
    from evenkeel import _cpu

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {
        "torch": torch.__version__,
        "evenkeel": project["version"],
        "processor": processor(),
        "torch instructions": torch.backends.cpu.get_cpu_capability(),
        "evenkeel instructions": _cpu.isa(),
    }


# The file and the tables.


def read(path: Path = RESULTS) -> list[dict[str, str]]:
    """The records of the CSV."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(records: list[dict[str, str]], path: Path = RESULTS) -> None:
    """Replace the CSV."""
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, records[0], lineterminator="\n")
        writer.writeheader()
        writer.writerows(records)


def tables(records: list[dict[str, str]]) -> str:
    """The records as Markdown: each cell is the worst over the ranks."""
    about = records[0]
    text = (
        f"Measured with torch {about['torch']} ({about['torch instructions']}) and evenkeel "
        f"{about['evenkeel']} ({about['evenkeel instructions']}) on {about['processor']}, "
        f"{THREADS} threads, float32, 4096 values in each of 8 channels, eps 1e-5. "
        "**Bold** breaks promise 1."
    )
    parts = [text]
    usual = [record for record in records if record["threads"] == str(THREADS)]
    for layout in SHAPES:
        chosen = [record for record in usual if record["layout"] == layout]
        text = "output error over the largest output / relative error of the stored variance"
        parts += [f"*{_title(chosen)}*: {text}.", _table(chosen, ("output", "variance"))]
    text = "errors of d gamma / d beta / dx in units of u times their scale (promise 1: 16)"
    parts += [f"*All layouts and ranks*: {text}.", _table(usual, ("dgamma", "dbeta", "dx"))]
    chosen = [record for record in records if _compares_threads(record)]
    text = "output error / error of the stored variance, by the number of threads"
    title = "Channels last, rank 4, mean/std 1e4"
    parts += [f"*{title}*: {text}.", _table(chosen, ("output", "variance"), by="threads")]
    return "\n\n".join(parts)


def _title(records: list[dict[str, str]]) -> str:
    ranks = sorted({int(record["rank"]) for record in records})
    if ranks == [2]:
        return "Rows (N, C)"
    return f"{records[0]['layout'].replace('_', ' ').capitalize()}, ranks {ranks[0]} to {ranks[-1]}"


def _compares_threads(record: dict[str, str]) -> bool:
    case = record["layout"], record["rank"], record["values"]
    compiled = record["implementation"] == "torch.compile"
    return case == ("channels_last", "4", "mean/std 1e4") and not compiled


def _table(records: list[dict[str, str]], metrics: tuple[str, ...], by: str = "values") -> str:
    present = {record["implementation"] for record in records}
    names = [name for name in IMPLEMENTATIONS if name in present]
    rows = list(dict.fromkeys(record[by] for record in records))
    if by == "threads":
        rows.sort(key=int)
    lines = [f"| {by} | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for row in rows:
        cells = [_cell(records, metrics, {by: row, "implementation": name}) for name in names]
        lines.append(f"| {row} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(records: list[dict[str, str]], metrics: tuple[str, ...], where: dict[str, str]) -> str:
    chosen = [record for record in records if where.items() <= record.items()]
    worst = (max(float(record[metric]) for record in chosen) for metric in metrics)
    return " / ".join(_figure(metric, value) for metric, value in zip(metrics, worst, strict=True))


def _figure(metric: str, value: float) -> str:
    if metric in {"output", "variance"}:
        text = f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e")
        return f"**{text}**" if value > LARGEST_ERROR else text
    plain = f"{value:.2g}" if value < 100 else f"{value:.0f}"
    text = plain if value < 1000 else f"{value:.1e}".replace("e+0", "e")
    return f"**{text}**" if value > K else text


def put(text: str, document: str) -> str:
    """The document with ``text`` between its markers."""
    before, rest = document.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{after}"


def main() -> None:
    style = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=style)
    parser.add_argument("--doc", action="store_true", help="measure nothing, only write the tables")
    if not parser.parse_args().doc:
        write(list(measure()))
    text = tables(read())
    print(text)
    DOCUMENT.write_text(put(text, DOCUMENT.read_text()))


if __name__ == "__main__":
    main()
