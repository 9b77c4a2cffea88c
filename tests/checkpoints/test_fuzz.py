"""Damaged files: every reader refuses them, or reads what the intact file says.

Formats whose headers have no checksum (safetensors, plain HDF5, msgpack, ONNX) cannot notice a
letter of a name that became another letter. There the law is weaker: whatever is read is
consistent in itself, and how often something else than the original is read is bounded. An
entry of an archive that is damaged and sealed again with a right checksum is of this kind, too.

``EVENKEEL_FUZZ`` is the number of accidents per case in the slow tier.
"""

from __future__ import annotations

import collections
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from evenkeel import checkpoints
from evenkeel.checkpoints import _orbax
from evenkeel.checkpoints._child import HDF5
from evenkeel.errors import InputError

from ._mutations import GOLDENS, Case, damaged

ROOT = Path(__file__).parents[2]
#: A file of a few kB is read in milliseconds; a shared machine may stop for a while.
SECONDS = 20.0
MEMORY = 2 << 30
SLOW = int(os.environ.get("EVENKEEL_FUZZ", "2000"))
#: Hypothesis remembers the examples of a run, and its time for a new one grows with them.
RUN = 1000

#: The files of the folder that are read; the others are of use only while it is written.
ORBAX = (
    "_METADATA",
    "manifest.ocdbt",
    *(f"d/{file.name}" for file in sorted((GOLDENS / "orbax/d").iterdir())),
)
CASES = [
    Case("model.safetensors", silent=0.06),
    Case("model.pt"),
    Case("model.pt", "model/data.pkl", silent=0.06),
    Case("plain.npz"),
    Case("packed.npz"),
    Case("plain.npz", "conv.weight.npy", silent=0.06),
    Case("keras3.keras"),
    Case("keras3.keras", "model.weights.h5", silent=0.05),
    Case("keras3.keras", "config.json", silent=0.3),
    Case("keras3.weights.h5", silent=0.05),
    Case("keras3.h5", silent=0.15),
    Case("keras2.h5", silent=0.15),
    Case("keras2.weights.h5", silent=0.05),
    Case("model.msgpack", silent=0.2),
    Case("model.onnx", silent=0.25),
    *(Case("orbax", file) for file in ORBAX),
]


def said(file: checkpoints.Checkpoint) -> str:
    """Names, shapes, element types and configuration, as text in which NaN equals NaN."""
    arrays = {name: (array.shape, array.dtype) for name, array in file.arrays.items()}
    return json.dumps([file.kind, sorted(arrays.items()), file.config], sort_keys=True)


def outcome(path, original: str) -> str:
    """``refused``, ``same``, or ``other`` where the file says something else than the original."""
    start = time.monotonic()
    try:
        file = checkpoints.read(path)
        for array in file.arrays.values():
            values = array.read()
            assert values.shape == array.shape
            assert values.dtype == np.dtype("f4" if array.dtype == "bfloat16" else array.dtype)
    except InputError:
        return "refused"
    finally:
        assert time.monotonic() - start < SECONDS
    return "same" if said(file) == original else "other"


@pytest.fixture
def limits():
    """Memory that cannot blow up, and children that give up early."""
    with limited():
        yield


@contextmanager
def limited():
    before = HDF5.seconds, _orbax._TENSORSTORE.seconds
    HDF5.seconds = _orbax._TENSORSTORE.seconds = 2.0
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    held = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
        HDF5.seconds, _orbax._TENSORSTORE.seconds = before


def fuzz_alone(case: Case, folder, examples: int) -> collections.Counter[str]:
    """In a small process: HDF5 and Orbax fork for every file, which takes a large one long."""
    words = [str(CASES.index(case)), str(folder), str(examples)]
    done = subprocess.run(
        [sys.executable, "-m", f"tests.checkpoints.{Path(__file__).stem}", *words],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return collections.Counter(json.loads(done.stdout))


def fuzz(case: Case, folder, examples: int) -> collections.Counter[str]:
    counts: collections.Counter[str] = collections.Counter()
    put = case.place(folder)
    intact = said(checkpoints.read(put(case.content())))

    @settings(
        max_examples=min(examples, RUN),
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(damaged(case.content()))
    def hurt(data: bytes) -> None:
        found = outcome(put(data), intact)
        assert found != "other" or case.silent
        counts[found] += 1

    while counts.total() < examples:
        hurt()
    return counts


@pytest.mark.parametrize("case", CASES, ids=str)
def test_damaged_files(case, tmp_path, limits):
    assert fuzz(case, tmp_path, 60)["refused"]


@pytest.mark.slow
@pytest.mark.timeout(0)
@pytest.mark.parametrize("case", CASES, ids=str)
def test_many_damaged_files(case, tmp_path, record_property):
    counts = fuzz_alone(case, tmp_path, SLOW)
    record_property("outcomes", json.dumps(counts))
    assert counts["other"] <= case.silent * counts.total()


if __name__ == "__main__":
    with limited():
        counted = fuzz(CASES[int(sys.argv[1])], Path(sys.argv[2]), int(sys.argv[3]))
    sys.stdout.write(json.dumps(counted))
