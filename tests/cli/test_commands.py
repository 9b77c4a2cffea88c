"""The command line: output, messages and exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import typer
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

import evenkeel
from evenkeel import kernels, tools
from evenkeel.cli import app
from evenkeel.cli._command import as_command
from evenkeel.cli._output import _encodable
from evenkeel.kernels import Candidate, Explanation, Problem

MODELS = """
import torch
from torch import nn

print("building")
ready = nn.Sequential(nn.BatchNorm1d(3))
number = 3

class Nets:
    @staticmethod
    def bad():
        return nn.BatchNorm1d(3, momentum=0.99)

def build():
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))

def broken():
    raise KeyError("a key that is missing")

def leaving():
    raise SystemExit(7)

def text():
    return "no model"

def nothing():
    pass

class Deep(nn.Module):
    def __init__(self, width):
        super().__init__()

def lines():
    raise RuntimeError("one\\ntwo")
"""


def run(*args: str):
    return CliRunner().invoke(app, list(args))


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A directory with a user's modules, as the current one."""
    (tmp_path / "mymodels.py").write_text(MODELS)
    (tmp_path / "faulty.py").write_text("import a_package_that_is_not_there\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield tmp_path
    for name in ("mymodels", "faulty"):
        sys.modules.pop(name, None)


@pytest.fixture
def weights(tmp_path):
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model.train()(torch.randn(16, 3, generator=torch.Generator().manual_seed(0)))
    torch.save(model.state_dict(), tmp_path / "weights.pt")
    return tmp_path / "weights.pt"


def test_version():
    done = run("--version")
    assert (done.output, done.exit_code) == (f"evenkeel {evenkeel.__version__}\n", 0)


@pytest.mark.parametrize(
    "args", [[], ["study"], ["inspect"], ["convert"], ["compare"], ["explain"]]
)
def test_help_fits_and_has_examples(args):
    done = run(*args, "--help")
    assert done.exit_code == 0
    assert max(map(len, done.output.splitlines())) <= 80
    assert not args or f"  evenkeel {args[0]}" in done.output
    assert not args or "--debug" in done.output
    assert "<bool>" not in done.output


def test_inspect_prints_the_table(weights):
    done = run("inspect", str(weights))
    assert done.exit_code == 0, done.stderr
    assert done.stdout == str(tools.inspect(weights)) + "\n"
    assert max(map(len, done.stdout.splitlines()[1:])) <= 80


def test_inspect_prints_the_same_records_as_json(weights):
    done = run("inspect", "--json", str(weights))
    assert json.loads(done.stdout) == json.loads(json.dumps(tools.inspect(weights).to_dict()))
    assert done.exit_code == 0


def test_findings_end_with_1(tmp_path):
    module = nn.BatchNorm1d(2)
    module.running_var[0] = -1
    torch.save(module.state_dict(), tmp_path / "a.pt")
    done = run("inspect", str(tmp_path / "a.pt"))
    assert done.exit_code == 1
    assert "running_var is negative" in done.stdout


@pytest.mark.parametrize(
    ("target", "code", "shown"),
    [
        ("mymodels:build", 0, "BatchNorm1d"),
        ("mymodels:ready", 0, "BatchNorm1d"),
        ("mymodels:Nets.bad", 1, "momentum 0.99"),
    ],
)
def test_a_model_from_the_users_module(project, target, code, shown):
    done = run("inspect", target)
    assert (done.exit_code, shown in done.stdout) == (code, True), done.stderr
    assert "building" not in done.stdout
    assert "building" in done.stderr


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("missing.pt", "no such file"),
        (".", "a directory"),
        ("nomodule:build", "no module 'nomodule'"),
        ("mymodels.py:build", "leave .py out: mymodels:"),
        ("./mymodels.py:build", "without a path or .py"),
        ("mymodels:", "without a path or .py"),
        ("mymodels:other", "has no 'other'"),
        ("mymodels:Nets.other", "has no 'other'"),
        ("mymodels:number", "neither a model nor callable"),
        ("mymodels:text", "got: a str"),
        ("mymodels:number", "got: an int"),
        ("mymodels:nothing", "got: None"),
        ("mymodels:Deep", "the class Deep(width)"),
        ("mymodels:Deep", "write a function without arguments"),
        ("mymodels:biuld", "did you mean build?"),
        ("mymodels.py", "run inspect mymodels:NAME"),
        ("mymodels:broken", "mend the error above"),
        ("mymodels:lines", "one\n       two\n  why:"),
        ("mymodels:broken", "a key that is missing"),
        ("mymodels:leaving", "SystemExit: 7"),
        ("faulty:build", "a_package_that_is_not_there"),
    ],
)
def test_a_target_that_cannot_be_used(project, target, message):
    done = run("inspect", target)
    assert done.exit_code == 2
    assert message in done.stderr
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    assert done.stderr.count("why:") == 1


def test_imported_modules_are_not_suggested(project):
    said = run("inspect", "mymodels:xyz").stderr
    assert "nn" not in said.partition("it has:")[2].split(", ")
    assert "torch" not in said.partition("it has:")[2].split(", ")
    assert "ready" in said


def test_a_folder_names_only_files_that_are_there(project):
    (project / "nets").mkdir()
    assert "none in it ends in" in run("inspect", "nets").stderr
    (project / "nets" / "a.pt").touch()
    assert "pass one file in it: a.pt" in run("inspect", "nets").stderr


def test_the_line_that_raised_is_named(project):
    line = MODELS.splitlines().index('    raise KeyError("a key that is missing")') + 1
    assert f"mymodels.py, line {line}" in run("inspect", "mymodels:broken").stderr


def test_debug_shows_the_traceback(project):
    done = run("inspect", "mymodels:broken", "--debug")
    assert done.exit_code == 2
    assert "Traceback" in done.stderr
    assert "why:" in done.stderr


@pytest.mark.parametrize("args", [["inspect"], ["inspect", "x", "--bad"], ["unknown"], []])
def test_usage_errors_end_with_2(args):
    assert run(*args).exit_code == 2


def test_explain_prints_what_the_library_says():
    args = ("explain", "--dtype", "float64", "--shape", "4, 3,2")
    wanted = kernels.explain(dtype="float64", shape=(4, 3, 2))
    assert run(*args).stdout == f"{wanted}\n"
    done = run(*args, "--json")
    assert json.loads(done.stdout) == json.loads(json.dumps(wanted.to_dict()))
    assert done.exit_code == 0


def test_explain_ends_with_1_when_nothing_serves(monkeypatch):
    nothing = Explanation(Problem("cpu", "float32"), None, (Candidate("aten", False, ("no",)),))
    monkeypatch.setattr(kernels, "explain", lambda **settings: nothing)
    assert run("explain").exit_code == 1


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("--device", "bogus"), "device 'bogus'"),
        (("--dtype", "bogus"), "there is no torch.bogus"),
        (("--dtype", "nn"), "there is no torch.nn"),
    ],
)
def test_a_device_or_type_that_torch_does_not_know(args, message):
    done = run("explain", *args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr


def test_names_of_types_are_taken_as_torch_writes_them():
    done = run("explain", "--dtype", "torch.half", "--json")
    assert json.loads(done.stdout)["problem"]["dtype"] == "float16"


@pytest.mark.skipif(torch.xpu.is_available(), reason="the device is here")
def test_a_device_that_is_not_here_is_named():
    done = run("explain", "--device", "xpu:0")
    assert done.exit_code == 1
    assert done.stdout.count("torch sees no xpu device here") == len(kernels.providers())


@pytest.mark.parametrize("args", [("explain",), ("study", "--out", "never")])
def test_an_unknown_provider_is_refused_at_once(tmp_path, args):
    child = process("-m", "evenkeel", *args, EVENKEEL_KERNELS="bogus")
    out, err = child.communicate()
    assert (out, child.returncode) == ("", 2)
    assert "none of cpu, aten, reference" in err
    assert "training" not in err
    assert not Path("never").exists()


@pytest.mark.parametrize("shape", ["3,x", "-1,2", "1.5", ",", "3;4"])
def test_a_shape_that_is_none(shape):
    done = run("explain", "--shape", shape)
    assert done.exit_code == 2
    assert "whole numbers" in done.stderr


def ends(error: BaseException) -> int:
    """Exit code of a command that fails with ``error``."""

    def verb() -> None:
        raise error

    with pytest.raises(typer.Exit) as caught:
        as_command(verb)()
    return caught.value.exit_code


def test_ctrl_c_ends_with_130():
    assert ends(KeyboardInterrupt()) == 130


@pytest.mark.parametrize(
    ("package", "extra"),
    [
        ("torch", "torch"),
        ("sklearn.datasets", "study"),
        ("plotly", "study"),
        ("msgspec", "study"),
        ("scipy.stats", "study"),
    ],
)
def test_a_missing_extra_is_named(package, extra, capsys):
    assert ends(ModuleNotFoundError(f"No module named {package!r}", name=package)) == 2
    assert f'pip install "evenkeel[{extra}]"' in capsys.readouterr().err


def test_other_failures_are_not_hidden():
    for error in (ModuleNotFoundError("x", name="x"), ZeroDivisionError()):
        with pytest.raises(type(error)):
            ends(error)


def test_what_an_encoding_lacks_is_written_out():
    assert _encodable("a\u2500\u00e9", "ascii") == "a-\\xe9"
    assert _encodable("a\u2500\u00e9", "utf-8") == "a\u2500\u00e9"


def process(*args: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **environment},
    )


def test_nothing_heavy_is_imported_before_a_command_runs():
    code = (
        "import sys, evenkeel.cli\n"
        "from typer.testing import CliRunner\n"
        "assert CliRunner().invoke(evenkeel.cli.app, ['study', '--help']).exit_code == 0\n"
        "heavy = {'torch', 'numpy', 'sklearn', 'safetensors', 'plotly', 'jinja2'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    assert process("-c", code).communicate() == ("[]\n", "")
    # The probe sees what is there.
    assert process("-c", "import numpy\n" + code).communicate()[0] == "['numpy']\n"


def test_the_module_runs_and_a_missing_torch_is_named(weights):
    code = (
        "import sys, runpy; sys.modules['torch'] = None\n"
        "sys.argv = ['evenkeel', 'inspect', sys.argv[1]]\n"
        "runpy.run_module('evenkeel', run_name='__main__')"
    )
    child = process("-c", code, str(weights))
    out, err = child.communicate()
    assert (out, child.returncode) == ("", 2)
    assert 'pip install "evenkeel[torch]"' in err
    assert "Traceback" not in err


def test_a_closed_pipe_is_silent(tmp_path):
    save_file({f"bn.running_{key}": torch.ones(1) for key in ("mean", "var")}, tmp_path / "x")
    with process("-m", "evenkeel", "inspect", str(tmp_path / "x")) as child:
        child.stdout.close()  # before the child has anything to say
        assert child.wait() == 141
        assert child.stderr.read() == ""


@pytest.mark.parametrize("args", [("--help",), ("explain", "--help"), ("--version",)])
def test_help_into_a_closed_pipe_is_silent(args):
    with process("-m", "evenkeel", *args) as child:
        child.stdout.close()
        assert child.wait() == 141
        assert child.stderr.read() == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize("args", [("--version",), ("explain",), ("explain", "--json")])
def test_a_full_disk_gives_one_message(args):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "evenkeel", *args],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    assert done.returncode == 2
    assert done.stderr.count("why:") == 1
    assert "Traceback" not in done.stderr
    assert "Exception ignored" not in done.stderr


def test_the_examples_of_the_help_name_real_options():
    root = Path(evenkeel.__file__).parent / "cli"
    for name in ("_inspect", "_convert", "_compare", "_explain"):
        text = (root / f"{name}.py").read_text()
        examples = [
            line.strip() for line in text.splitlines() if line.startswith("        evenkeel")
        ]
        assert examples
        for example in examples:
            options = [word for word in example.split() if word.startswith("--")]
            helped = run(name[1:], "--help").output
            assert all(option in helped for option in options)
