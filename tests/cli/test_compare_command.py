"""``evenkeel compare``: what is compared with what, on which inputs, and the exit codes."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from typer.testing import CliRunner

from evenkeel.cli import app
from evenkeel.cli._inputs import SAMPLES, choose_inputs
from evenkeel.cli._networks import Side
from evenkeel.errors import FileError, InputError

NETS = """
import torch
from torch import nn

print("building")

def build(eps=1e-5):
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, eps=eps), nn.ReLU())

def other():
    return build(eps=0.1)
"""


def run(*args: object):
    return CliRunner().invoke(app, ["compare", *map(str, args)])


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Networks, their weights and inputs."""
    (tmp_path / "comparenets.py").write_text(NETS)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    changed = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    save_file(changed.state_dict(), tmp_path / "c.safetensors")
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", rng.standard_normal((4, 3, 6, 6)).astype(np.float32))
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def test_equal_networks_end_with_0(project):
    done = run("comparenets:build", "comparenets:build", "--inputs", "x.npy", "--json")
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["equal"] is True
    assert "building" not in done.stdout


def test_different_networks_end_with_1_and_say_why(project):
    done = run("comparenets:build", "comparenets:other", "--inputs", "x.npy")
    assert done.exit_code == 1, done.stderr
    assert "eps" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 80


def test_weights_behind_an_at_sign_are_used(project):
    one = ("comparenets:build@a.pt", "comparenets:build@a.safetensors")
    assert run(*one, "--inputs", "x.npy").exit_code == 0
    other = ("comparenets:build@a.pt", "comparenets:build@c.safetensors")
    assert run(*other, "--inputs", "x.npy").exit_code == 1


def test_files_of_weights_are_compared_array_by_array(project):
    done = run("a.pt", "a.safetensors")
    assert (done.exit_code, "\nequal: 9" in done.stdout or "equal: " in done.stdout) == (0, True)
    done = run("a.pt", "c.safetensors", "--json")
    record = json.loads(done.stdout)
    assert (done.exit_code, record["equal"]) == (1, False)
    assert {row["a"] for row in record["rows"] if row["verdict"] == "differs"} == {
        "0.weight",
        "0.bias",
    }


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("comparenets:build", "comparenets:build"), "--inputs x.npy"),
        (("a.pt", "a.safetensors", "--steps", "2"), "MODULE:CALLABLE@a.pt"),
        (("comparenets:build", "a.pt", "--inputs", "x.npy"), "MODULE:CALLABLE@a.pt"),
        (("comparenets:build", "missing.keras", "--inputs", "x.npy"), "no such file"),
        (("comparenets:bild", "comparenets:build", "--inputs", "x.npy"), "did you mean build"),
        (("comparenets:build@missing.pt", "comparenets:build"), "no such file"),
        (("comparenets:build", "comparenets:build", "--inputs", "a.pt"), "numpy.save"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_message(project, args, message):
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("why:") == 1


class Stub:
    """A network whose inputs are channels last already."""

    def __init__(self, framework: str) -> None:
        self.framework = framework

    def canonical_inputs(self, inputs):
        return inputs


def side(framework: str, shape: tuple[int | None, ...] | None) -> Side:
    return Side(framework, Stub(framework), shape)


def test_random_inputs_follow_the_shape_that_is_known():
    made, said = choose_inputs([], side("keras", (None, 8, 6, 3)), side("torch", None))
    assert (made.shape, "seed 0" in said) == ((SAMPLES, 8, 6, 3), True)
    (first, last), _ = choose_inputs([], side("torch", None), side("keras", (5, 8, 6, 3)))
    assert (first.shape, last.shape) == ((5, 3, 8, 6), (5, 8, 6, 3))
    assert np.array_equal(np.moveaxis(first, 1, -1), last)


@pytest.mark.parametrize("shape", [None, (None, None, 3), (None,)])
def test_a_shape_that_is_open_asks_for_inputs(shape):
    with pytest.raises(InputError, match=r"--inputs x\.npy"):
        choose_inputs([], side("keras", shape), side("torch", None))


def test_sequences_for_torch_are_asked_for():
    with pytest.raises(InputError, match=r"--inputs a\.npy --inputs b\.npy"):
        choose_inputs([], side("torch", None), side("keras", (None, 9, 3)))


def test_two_files_are_one_for_each_and_three_too_many(tmp_path):
    paths = [tmp_path / f"{index}.npy" for index in range(3)]
    for index, path in enumerate(paths):
        np.save(path, np.full((2, index + 1), index))
    sides = side("torch", None), side("keras", None)
    (first, second), said = choose_inputs(paths[:2], *sides)
    assert (first.shape, second.shape, said) == ((2, 1), (2, 2), "")
    with pytest.raises(InputError, match="3 files"):
        choose_inputs(paths, *sides)


def test_objects_in_an_input_file_are_refused(tmp_path):
    np.save(tmp_path / "x.npy", np.array([{}], object), allow_pickle=True)
    with pytest.raises(FileError, match="without objects"):
        choose_inputs([tmp_path / "x.npy"], side("torch", None), side("torch", None))
