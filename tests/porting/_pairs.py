"""One pair of frameworks in this process: the port, both proofs, and the naive port beside it."""

from __future__ import annotations

import itertools
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ._networks import FRAMEWORKS, build, pictures

if TYPE_CHECKING:
    from collections.abc import Generator

    from evenkeel.tools._compare._records import Comparison, ComparisonRow

PAIRS: Final = tuple(itertools.permutations(FRAMEWORKS, 2))
#: eps and momentum of each framework's own layer.
_DEFAULTS: Final = {"torch": (1e-5, 0.1), "keras": (1e-3, 0.99), "flax": (1e-5, 0.99)}
#: Largest relative difference of a free run, which its bounds are multiples of.
_FREE: Final = 1e-7
_NAIVE_STEPS: Final = 2


def backend_of(source: str, target: str) -> str | None:
    """The Keras backend of the process that compares these; the source's where both have one."""
    names = [name for name in (source, target) if name.startswith("keras")]
    return names[0].removeprefix("keras (").removesuffix(")") if names else None


def run_pair(source: str, target: str, steps: int) -> dict[str, Any]:
    """Port, compare over training steps, and hold the naive port against the same source."""
    start = time.perf_counter()
    model, x = build(source, "stock"), pictures(source)
    # A process has one Keras backend: the other one is in a child, and a file goes between.
    hosted = source.startswith("keras") and target.startswith("keras")
    with _ported_by_file(model, target) if hosted else _ported(model, target, x) as (other, port):
        report = _compared(model, other, x, steps)
    seconds = time.perf_counter() - start
    with _naive_hosted(target) if hosted else _naive(model, source, target, x) as (other, how):
        naive = _compared(model, other, x, _NAIVE_STEPS, "sgd")
    return {
        "source": source,
        "target": target,
        **port,
        **_figures(report),
        "seconds": round(seconds, 1),
        "naive": {
            "how": how,
            "equal": naive.equal,
            "causes": list(dict.fromkeys(cause.code for cause in naive.causes)),
            "evidence": [f"{cause.layer}: {cause.evidence}" for cause in naive.causes],
        },
    }


def _compared(
    model: Any,
    other: Any,
    x: Any,
    steps: int,
    optimizer: Any = ("sgd", "adam"),
) -> Comparison:
    import evenkeel as ek

    return ek.compare(model, other, x, steps=steps, optimizer=optimizer)


@contextmanager
def _ported(model: Any, target: str, x: Any) -> Generator[tuple[Any, dict[str, Any]]]:
    """Another author's network in the target's framework, with the source's values."""
    import evenkeel as ek

    other = build(target, "exact", other_author=True)
    done = ek.port(model, other, x, settings="source")
    absorbed = [f"{layer} into {norm}" for layer, norm in done.matching.absorbed]
    yield other, {"how": "ek.port", "proof": done.proof.holds, "absorbed": absorbed}


@contextmanager
def _ported_by_file(model: Any, target: str) -> Generator[tuple[Any, dict[str, Any]]]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.keras"
        model.save(path)
        with _hosted(path, target) as remote:
            yield remote, {"how": ".keras file", "proof": True, "absorbed": []}


@contextmanager
def _naive(model: Any, source: str, target: str, x: Any) -> Generator[tuple[Any, str]]:
    """The arrays copied into the stock layer, eps and momentum copied as numbers or left."""
    from evenkeel.dialects._open import open_network
    from evenkeel.tools._compare._sides import read_state
    from evenkeel.tools._matching import match

    norm, how = _DEFAULTS[source.partition(" ")[0]], "eps and momentum copied as numbers"
    if "torch" not in (source, target):
        norm, how = "stock", "defaults of the target's layer left"
    other = build(target, norm, other_author=True)
    one, two = open_network(model), open_network(other)
    matching = match(one, two, one.canonical_inputs(x))
    two.write(matching.to_target(read_state(one)))
    yield other, how


@contextmanager
def _naive_hosted(target: str) -> Generator[tuple[Any, str]]:
    """The same network under the other backend, nothing copied."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "other.keras"
        build("keras", "stock", other_author=True).save(path)
        with _hosted(path, target) as remote:
            yield remote, "nothing copied"


@contextmanager
def _hosted(path: Path, target: str) -> Generator[Any]:
    from evenkeel.dialects._remote import open_remote

    remote = open_remote(path, backend_of(target, target))
    try:
        yield remote
    finally:
        remote.close()


def _figures(report: Comparison) -> dict[str, Any]:
    """The verdict and the tightest row of each proof."""
    by_stage = {
        stage: [row for row in report.rows if row.stage == stage]
        for stage in ("inference", "step by step", "free run")
    }
    output = by_stage["inference"][-1]
    single = max(by_stage["step by step"], key=_use)
    free = [row for row in by_stage["free run"] if row.bound]
    return {
        "equal": report.equal,
        "steps": report.steps,
        "optimizers": sorted({row.optimizer for row in report.rows if row.optimizer}),
        "stages": sorted({f"{row.stage} {row.optimizer or ''}".strip() for row in report.rows}),
        "causes": [f"{cause.code} in {cause.layer}" for cause in report.causes],
        "inference": {
            "source_error": output.error_a,
            "target_error": output.error_b,
            "ratio": output.ratio,
            "bound": output.bound,
        },
        "step_by_step": {
            "largest_share_of_bound": _use(single),
            "layer": single.layer,
            "item": single.item,
            "step": single.step,
            "optimizer": single.optimizer,
        },
        "free_run": {"largest_difference": max((_FREE * _use(row) for row in free), default=None)},
        "batches_drawn_again": sum("draws another batch" in remark for remark in report.remarks),
    }


def _use(row: ComparisonRow) -> float:
    return row.error_b / row.bound if row.bound else 0.0
