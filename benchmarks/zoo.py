"""Port keras.applications into torchvision's and timm's definitions, without a hand-written map.

    python benchmarks/zoo.py                      all architectures, one after the other
    python benchmarks/zoo.py ResNet50 MobileNet   these; the others keep their record

Weights, statistics, scales and offsets are random, from a fixed seed. Every record of
`results/zoo.json` has the errors of both networks' float32 outputs against the source in
float64, or the refusal. Take one process per architecture where memory is short.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import torch

ROOT: Final = Path(__file__).resolve().parents[1]
RESULTS: Final = ROOT / "benchmarks" / "results" / "zoo.json"
sys.path.insert(0, str(ROOT))

from tests.zoo._architectures import ARCHITECTURES, WITHOUT_COUNTERPART  # noqa: E402 - found by the line above
from tests.zoo._models import build_keras, build_torch, example  # noqa: E402 - likewise

from evenkeel.errors import EvenkeelError  # noqa: E402 - the definitions stand beside the tests
from evenkeel.tools import port  # noqa: E402

if TYPE_CHECKING:
    from tests.zoo._architectures import Architecture


def measure(entry: Architecture) -> dict[str, Any]:
    """Port one architecture and say what came of it."""
    source, target = build_keras(entry), build_torch(entry)
    images = example(entry, source)
    record: dict[str, Any] = {
        "keras": entry.keras,
        "torch": f"{entry.library} {entry.torch}",
        "note": entry.note,
        "inputs": "x".join(map(str, images.shape)),
        "parameters": source.count_params(),
    }
    start = time.perf_counter()
    try:
        done = port(source, target, images, settings="source", purpose="inference")
    except EvenkeelError as error:
        return {**record, "equal": False, "refusal": str(error)}
    pairs = done.matching.pairs
    return {
        **record,
        "equal": done.proof.holds,
        "source_error": done.proof.source_error,
        "target_error": done.proof.target_error,
        "bound": done.proof.bound,
        "output_size": done.proof.size,
        "layers": len(pairs),
        "batch_norms": sum(pair.source.kind == "batch_norm" for pair in pairs),
        "absorbed_biases": len(done.matching.absorbed),
        "made_scales_and_offsets": len(done.matching.made),
        "preprocessing": [layer.kind for layer in done.matching.preprocessing],
        "seconds": round(time.perf_counter() - start, 1),
    }


def save(record: dict[str, Any]) -> None:
    """Put one record into the file, in the order of the table."""
    known = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    records = {item["keras"]: item for item in known.get("architectures", [])}
    records[record["keras"]] = record
    order = [entry.keras for entry in ARCHITECTURES]
    import keras  # noqa: TID251 - its backend is part of the record

    content = {
        "versions": {
            name: version(name)
            for name in ("keras", "tensorflow", "torch", "torchvision", "timm", "numpy")
        },
        "keras_backend": keras.backend.backend(),
        "architectures": [records[name] for name in order if name in records],
        "without_counterpart": WITHOUT_COUNTERPART,
    }
    RESULTS.write_text(json.dumps(content, indent=1) + "\n")


def main() -> None:
    """Measure what is asked for, and record it after each."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="ARCHITECTURE")
    wanted = parser.parse_args().names
    torch.set_num_threads(1)
    for entry in ARCHITECTURES:
        if wanted and entry.keras not in wanted:
            continue
        record = measure(entry)
        save(record)
        told = record.get("refusal") or f"{record['target_error']:.2e} <= {record['bound']:.2e}"
        print(f"{entry.keras} -> {record['torch']}: {told}", flush=True)


if __name__ == "__main__":
    main()
