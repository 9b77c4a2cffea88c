"""A layer goes from one dialect through another and comes back as it was, or is refused."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from ._round_trip import check_round_trips, sides

#: A pair in which nothing comes through would make the law empty.
_LEAST = 3


@pytest.mark.parametrize(
    ("b", "a"), [("torch", "onnx"), ("onnx", "torch"), ("torch", "torch"), ("onnx", "onnx")]
)
def test_round_trips_without_another_framework(b, a):
    ends = check_round_trips(*sides(b, a), examples=60)
    assert ends["identity"] >= _LEAST or (b, a) == ("torch", "onnx")
    assert sum(ends.values()) >= _LEAST


@pytest.mark.slow
@pytest.mark.parametrize(
    ("backend", "names"),
    [
        ("", ["flax", "torch", "onnx", "flax"]),
        ("tensorflow", ["keras", "torch", "onnx", "keras+ours", "flax"]),
        ("tensorflow", ["keras+ours", "torch", "onnx", "flax"]),
        ("jax", ["keras", "torch", "keras+ours"]),
        ("torch", ["keras", "torch", "keras+ours"]),
    ],
)
def test_round_trips_through_another_framework(backend, names):
    script = Path(__file__).with_name("_round_trip.py")
    environment = os.environ | ({"KERAS_BACKEND": backend} if backend else {})
    done = subprocess.run(
        [sys.executable, str(script), "40", *names],
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    rows = [line.split() for line in done.stdout.splitlines()]
    assert len(rows) == 2 * (len(names) - 1)
    for b, a, identity, refused in rows:
        assert int(identity) + int(refused) >= _LEAST, (b, a)
        # torch.nn stores one variance convention, and ONNX the other.
        assert int(identity) >= 1 or (b, a) == ("torch", "onnx"), (b, a)
