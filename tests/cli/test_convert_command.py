"""``evenkeel convert``: options, output, messages and exit codes."""

from __future__ import annotations

import json

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from evenkeel import checkpoints, tools
from evenkeel.cli import _completion, app
from evenkeel.dialects._layers import Kind

BUILD = """
from torch import nn

print("building")

def build():
    return nn.ModuleDict({"conv": nn.Conv1d(2, 3, 3), "norm": nn.BatchNorm1d(3)})
"""


def run(*args: object):
    return CliRunner().invoke(app, ["convert", *map(str, args)])


@pytest.fixture
def source(tmp_path, monkeypatch):
    """The weights of a small network; a module that builds it stands beside them."""
    model = nn.Sequential(nn.Conv1d(2, 3, 3), nn.BatchNorm1d(3))
    torch.save(model.state_dict(), tmp_path / "a.pt")
    (tmp_path / "convertnets.py").write_text(BUILD)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path / "a.pt"


def test_it_prints_the_report_and_writes_the_file(source, tmp_path):
    done = run(source, "b.safetensors")
    assert done.exit_code == 0, done.stderr
    assert load_file(tmp_path / "b.safetensors").keys() == torch.load(source).keys()
    done = run(source, "b.safetensors", "--force", "--json")
    wanted = tools.convert(str(source), "b.safetensors", overwrite=True)
    assert json.loads(done.stdout) == json.loads(json.dumps(wanted.to_dict()))


def test_names_of_a_live_model(source, tmp_path):
    done = run(source, "b.pt", "--like", "convertnets:build")
    assert done.exit_code == 0, done.stderr
    assert "building" not in done.stdout
    assert set(torch.load(tmp_path / "b.pt")) >= {"conv.weight", "norm.running_mean"}
    swapped = run(source, "c.pt", "--like", "convertnets:build", "--map", "1=conv")
    assert (swapped.exit_code, "'1', batch_norm" in swapped.stderr) == (2, True)


def test_a_kind_is_told(source, tmp_path):
    torch.save({"words.weight": torch.ones(5, 2)}, tmp_path / "e.pt")
    assert "--kind NAME=KIND" in run("e.pt", "e.msgpack").stderr
    assert run("e.pt", "e.msgpack", "--kind", "wo*=embedding").exit_code == 0
    assert [*checkpoints.read(tmp_path / "e.msgpack").arrays] == ["params/words/embedding"]


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (("missing.pt", "b.safetensors"), "no such file"),
        (("a.pt", "a.pt"), "--force"),
        (("a.pt", "b.keras"), "like.keras"),
        (("a.pt", "b.pt", "--to", "jax"), "to='jax'"),
        (("a.pt", "b.msgpack", "--kind", "embedding"), "got: 'embedding'"),
        (("a.pt", "b.msgpack", "--map", "=x"), "got: '=x'"),
        (("a.pt", "b.pt", "--like", "missing.pt"), "no such file"),
    ],
)
def test_what_cannot_be_used_ends_with_2_and_one_message(source, args, message):
    done = run(*args)
    assert (done.exit_code, done.stdout) == (2, "")
    assert message in done.stderr
    assert done.stderr.count("why:") == 1
    assert {path.name for path in source.parent.iterdir()} <= {
        "a.pt",
        "convertnets.py",
        "__pycache__",
    }


def test_the_suggested_words_are_the_real_ones():
    from typing import get_args

    assert {*_completion.LAYER_KINDS} == {*get_args(Kind)} - {"other"}
    assert _completion.complete_kind("emb*=l")[:1] == ["emb*=dense"]
    assert _completion.complete_kind("emb") == []
