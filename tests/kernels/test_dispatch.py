"""The choice among providers: requests never fall back, and every choice explains itself."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import evenkeel as ek
from evenkeel import kernels
from evenkeel.errors import ProviderError
from evenkeel.kernels import Problem

ROOT = Path(__file__).parents[2]


def python(code, **environment):
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment}, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_automatic_choice_takes_the_first_that_can():
    assert kernels.choose(Problem("cpu", "float32"), None).name == "cpu"
    assert kernels.choose(Problem("cuda", "float32"), None).name == "aten"
    assert kernels.choose(Problem("meta", "bfloat16"), None).name == "aten"


def test_a_request_that_cannot_be_served_raises_with_the_reason():
    with pytest.raises(ProviderError, match=r"(?s)provider 'cpu'.*device cuda.*explain\(x\)"):
        kernels.choose(Problem("cuda", "float32"), "cpu")
    with pytest.raises(ProviderError, match=r"(?s)automatic.*aten: dtype int8"):
        kernels.choose(Problem("cpu", "int8"), None)


def test_unknown_names_list_the_known_ones():
    with pytest.raises(ProviderError, match=r"(?s)'magic'.*none of cpu, aten, reference"):
        kernels.use("magic")
    kernels.select(torch.empty(0))  # and nothing was changed


def test_use_is_a_verb_and_a_block():
    x = torch.empty(0)
    assert kernels.select(x).name == "cpu"
    with kernels.use("reference"):
        assert kernels.select(x).name == "reference"
        with kernels.use("aten"):
            assert kernels.select(x).name == "aten"
        assert kernels.select(x).name == "reference"
    assert kernels.select(x).name == "cpu"
    kernels.use("aten")
    assert kernels.select(x).name == "aten"
    kernels.use(None)
    assert kernels.select(x).name == "cpu"


def test_backward_runs_on_the_provider_of_its_forward(monkeypatch):
    layer, x = ek.nn.BatchNorm1d(3), torch.randn(4, 3, requires_grad=True)
    calls = []
    aten = kernels.load("aten")
    monkeypatch.setattr(
        aten, "backward", lambda *a: calls.append(1) or type(aten).backward(aten, *a), raising=False
    )
    with kernels.use("aten"):
        y = layer(x)
    y.sum().backward()
    assert calls == [1]


def test_explanation_names_every_provider_with_a_reason():
    explanation = kernels.explain(torch.empty(2, 3, 4, dtype=torch.float64))
    assert [row.name for row in explanation.rows] == list(kernels.providers())
    assert [row.name for row in explanation.rows if row.chosen] == ["cpu"]
    text = str(kernels.explain(device="cuda", dtype="int8", shape=(1, 2)))
    assert "dtype int8" in text
    assert all(len(line) <= 80 for line in text.splitlines())
    assert explanation.to_dict()["problem"]["shape"] == (2, 3, 4)
    with kernels.use("reference"):
        chosen = [row.name for row in kernels.explain().rows if row.chosen]
    assert chosen == ["reference"]


def test_the_environment_chooses_or_raises():
    code = (
        "import torch, evenkeel as ek; ek.nn.BatchNorm1d(2)(torch.randn(4, 2)); "
        "print(ek.kernels.select(torch.empty(0)).name)"
    )
    assert python(code, EVENKEEL_KERNELS="reference").stdout.strip() == "reference"
    refused = python(code, EVENKEEL_KERNELS="magic")
    assert refused.returncode == 1
    assert "none of cpu, aten, reference" in refused.stderr


@pytest.mark.slow
def test_an_install_without_a_compiler_works_on_aten(tmp_path):
    """A real install, with a compiler that fails."""
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target"]
    environment = {**os.environ, "CXX": "/bin/false", "CC": "/bin/false"}
    subprocess.run([*install, str(tmp_path), str(ROOT)], env=environment, check=True)
    assert not list(tmp_path.glob("evenkeel/_cpu*.so"))
    code = (
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__]\n"
        "import torch, evenkeel as ek\n"
        f"assert ek.__file__.startswith({str(tmp_path)!r}), ek.__file__\n"
        "ek.nn.BatchNorm1d(2)(torch.randn(4, 2, requires_grad=True)).sum().backward()\n"
        "print(ek.kernels.explain())\n"
        "ek.kernels.use('cpu')"
    )
    done = python(code)
    assert "-> aten" in done.stdout, done.stderr
    assert "the C++ extension was not built" in done.stdout
    assert done.returncode == 1
    assert "install a C++20 compiler" in done.stderr


def test_the_extension_is_built_where_a_compiler_is():
    assert kernels.load("cpu").name == "cpu"
