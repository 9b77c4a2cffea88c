"""Port one network between every two frameworks, and prove inference and training equal.

    python benchmarks/porting.py                            all 20 ordered pairs
    python benchmarks/porting.py --pair torch "keras (jax)" this one; the others keep their record
    python benchmarks/porting.py --table                    the records as a Markdown table

Every pair runs in a process of its own, because a process has one Keras backend. Both proofs of
`evenkeel.compare` take 20 steps with SGD with momentum and 20 with Adam. The naive port stands
beside each pair and has to fail. The records are in `results/porting.json`.
"""

from __future__ import annotations

import argparse
import datetime as dt
import json
import os
import platform
import subprocess
import sys
import tempfile
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "porting.json"
sys.path.insert(0, str(ROOT))

from tests.porting._pairs import PAIRS, backend_of, run_pair  # noqa: E402 - defined beside the tests

STEPS: Final = 20
PACKAGES: Final = ("numpy", "torch", "keras", "tensorflow", "jax", "flax")
NETWORK: Final = (
    "8x8 pictures, 16 samples: convolution, residual block with biases before batch norm, "
    "depthwise and strided convolution, pooling, flatten, dense; 6 batch norms"
)

#: Of the process of a pair: one thread, so that figures do not depend on the number of cores, and
#: what JAX compiles for one pair is there for the next.
SETTINGS: Final = {
    "OMP_NUM_THREADS": "1",
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_CPP_MIN_LOG_LEVEL": "2",
    "JAX_COMPILATION_CACHE_DIR": str(Path(tempfile.gettempdir()) / "evenkeel-porting-jax"),
    "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
}


def in_own_process(source: str, target: str, steps: int) -> dict[str, Any]:
    """The record of one pair."""
    backend = backend_of(source, target)
    settings = dict(SETTINGS)
    if backend is not None:
        settings["KERAS_BACKEND"] = backend
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "record.json"
        command = [sys.executable, __file__, "--write", str(out)]
        command += ["--pair", source, target, "--steps", str(steps)]
        subprocess.run(command, env={**os.environ, **settings}, check=True)
        return json.loads(out.read_text())


def save(found: dict[tuple[str, str], dict[str, Any]]) -> None:
    """Write the records, and where they come from."""
    page = {
        "network": NETWORK,
        "date": dt.datetime.now(dt.UTC).date().isoformat(),
        "machine": {
            "system": platform.system(),
            "architecture": platform.machine(),
            "cores": os.cpu_count(),
        },
        "versions": {
            "evenkeel": tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"],
            **{name: version(name) for name in PACKAGES},
            "python": platform.python_version(),
        },
        "pairs": [found[pair] for pair in PAIRS if pair in found],
    }
    RESULTS.write_text(json.dumps(page, indent=1, allow_nan=False) + "\n")


def recorded() -> dict[tuple[str, str], dict[str, Any]]:
    """The records so far, by source and target."""
    page = json.loads(RESULTS.read_text()) if RESULTS.is_file() else {"pairs": []}
    return {(record["source"], record["target"]): record for record in page["pairs"]}


def table() -> str:
    """All records in Markdown."""
    titles = (
        "from",
        "to",
        "outputs",
        "step by step",
        "free run",
        "port",
        "what the naive port gets wrong",
    )
    lines = [f"| {' | '.join(titles)} |", "|---" * len(titles) + "|"]
    for pair, record in recorded().items():
        naive = record["naive"]
        cells = [
            *pair,
            f"{record['inference']['ratio']:.2f}",
            f"{record['step_by_step']['largest_share_of_bound']:.2f}",
            f"{record['free_run']['largest_difference']:.0e}",
            "equal" if record["equal"] else "NOT EQUAL",
            "equal" if naive["equal"] else ", ".join(naive["causes"]),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pair", nargs=2, metavar=("SOURCE", "TARGET"))
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--table", action="store_true", help="print the records")
    parser.add_argument("--write", type=Path, help="run the pair in this process; its record")
    chosen = parser.parse_args()
    pairs = PAIRS if chosen.pair is None else (tuple(chosen.pair),)
    if chosen.table:
        print(table())
        return
    if unknown := set(pairs) - set(PAIRS):
        parser.error(f"no such pair: {unknown}; frameworks are {sorted({a for a, _ in PAIRS})}")
    if chosen.write is not None:
        chosen.write.write_text(json.dumps(run_pair(*pairs[0], chosen.steps), allow_nan=False))
        return
    for source, target in pairs:
        record = in_own_process(source, target, chosen.steps)
        save({**recorded(), (source, target): record})
        verdict = "equal" if record["equal"] else "NOT equal"
        print(f"{source} -> {target}: {verdict}, {record['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
