"""``import evenkeel`` loads no framework, and the probe that says so can fail."""

import subprocess
import sys

import pytest

FRAMEWORKS = (
    "torch", "triton", "jax", "keras", "tensorflow", "flax", "onnx", "onnxruntime", "h5py",
    "orbax", "sklearn", "plotly",
)  # fmt: skip

PROBE = """
import sys
{statement}
print([name for name in {frameworks} if name in sys.modules])
"""


def loaded(statement):
    code = PROBE.format(statement=statement, frameworks=FRAMEWORKS)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@pytest.mark.parametrize(
    "statement",
    [
        "import evenkeel",
        "import evenkeel; evenkeel.reference, evenkeel.kernels, evenkeel.Spec, evenkeel.errors",
        "import evenkeel.kernels; evenkeel.kernels.providers()",
        "import evenkeel.cli",
        "import evenkeel; evenkeel.convert, evenkeel.port, evenkeel.compare, evenkeel.inspect",
        "import evenkeel; evenkeel.adopt, evenkeel.release",
    ],
)
def test_no_framework_is_loaded(statement):
    assert loaded(statement) == "[]"


def test_the_probe_sees_a_framework():
    assert loaded("import evenkeel; evenkeel.nn") == "['torch']"
