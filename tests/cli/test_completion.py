"""What a shell suggests: by typer's protocol, and in the shells that are installed."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from evenkeel.cli import _completion, app
from evenkeel.kernels._contract import FLOATS
from evenkeel.study._data._formats import FORMS
from evenkeel.study.sections import SECTIONS

COMMANDS = ["study", "inspect", "convert", "compare", "bench", "bench-steps", "explain"]


def environment(shell: str, line: str) -> dict[str, str]:
    """What the script of a shell tells the command when TAB is pressed at the end of the line."""
    done = [*shlex.split(line), ""] if line.endswith(" ") else shlex.split(line)
    return {
        "_EVENKEEL_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": "\n".join(done),
        "COMP_CWORD": str(len(done) - 1),
        "_TYPER_COMPLETE_ARGS": line,
        "_TYPER_COMPLETE_FISH_ACTION": "get-args",
    }


def suggested(line: str) -> list[str]:
    """The suggestions in bash, by the protocol but without a shell."""
    done = CliRunner().invoke(app, [], prog_name="evenkeel", env=environment("bash", line))
    assert done.exit_code == 0
    assert done.stderr == ""
    return done.stdout.split()


def ask(shell: str, line: str) -> str:
    """What a process of its own answers to a shell."""
    done = subprocess.run(
        [sys.executable, "-m", "evenkeel"],
        env={**os.environ, **environment(shell, line)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return done.stdout


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A current directory with data of every kind."""
    for name in ("mnist", "pets/cat", ".hidden"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("one.npz", "two.npz", "notes.txt", "pets/three.npz"):
        (tmp_path / name).touch()
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evenkeel ", COMMANDS),
        ("evenkeel ex", ["explain"]),
        ("evenkeel explain --d", ["--device", "--dtype", "--debug"]),
        ("evenkeel explain --device ", ["cpu", "cuda", "mps", "xpu"]),
        ("evenkeel explain --dtype fl", ["float16", "float32", "float64"]),
        ("evenkeel explain --shape ", []),
        ("evenkeel inspect --js", ["--json"]),
        ("evenkeel inspect ", []),  # the shell itself completes paths
        ("evenkeel inspect mo", []),
        ("evenkeel convert a.pt b --to ", ["torch", "keras", "flax", "onnx"]),
        ("evenkeel convert a.pt b --kind x=em", ["x=embedding"]),
        ("evenkeel compare a.keras b.keras --backend-b ja", ["jax"]),
        ("evenkeel study --qu", ["--quick"]),
        ("evenkeel study --out ", []),
    ],
)
def test_commands_options_and_values(data, line, words):
    assert suggested(line) == words


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("evenkeel study --only gr", ["gradients"]),
        ("evenkeel study --only gradients,sm", ["gradients,small-batches"]),
        ("evenkeel study --data d", ["digits"]),
        ("evenkeel study --data npz:pets/", ["npz:pets/cat/", "npz:pets/three.npz"]),
        ("evenkeel study --device cu", ["cuda"]),
    ],
)
def test_values_of_the_study(data, line, words):
    assert suggested(line) == words


def test_every_option_of_every_command_is_suggested():
    for command in COMMANDS:
        shown = CliRunner().invoke(app, [command, "--help"]).output
        named = {word for word in shown.split() if word.startswith("--")}
        assert set(suggested(f"evenkeel {command} --")) >= named & {"--json", "--debug", "--help"}
        assert set(suggested(f"evenkeel {command} --")) <= named


@pytest.mark.parametrize(
    ("incomplete", "values"),
    [
        ("", ["digits", "npz:", "idx:", "folder:"]),
        ("dig", ["digits"]),
        ("digits", ["digits"]),
        ("digits:", []),
        ("csv:", []),
        ("x", []),
        # A bare kind would get a space behind it, so what can follow is suggested with it.
        ("i", ["idx:mnist/", "idx:pets/"]),
        ("idx:", ["idx:mnist/", "idx:pets/"]),
        ("npz:", ["npz:mnist/", "npz:pets/", "npz:one.npz", "npz:two.npz"]),
        ("npz:o", ["npz:mnist/", "npz:pets/", "npz:one.npz", "npz:two.npz"]),  # typer filters
        ("folder:pets/", ["folder:pets/cat/"]),
        ("folder:pets/cat/", ["folder:"]),
        ("folder:none/", ["folder:"]),
        ("folder:.", ["folder:.hidden/", "folder:mnist/", "folder:pets/"]),
    ],
)
def test_kinds_of_data_and_their_paths(data, incomplete, values):
    assert [value for value, _ in _completion.complete_data(incomplete)] == values


def test_absolute_paths_stay_absolute(data, tmp_path):
    found = [value for value, _ in _completion.complete_data(f"idx:{tmp_path}/")]
    assert found == [f"idx:{tmp_path}/mnist/", f"idx:{tmp_path}/pets/"]


def test_sections_are_suggested_once():
    assert _completion.complete_sections("") == list(_completion.SECTIONS)
    left = _completion.complete_sections("gradients,regularization,le")
    assert len(left) == len(_completion.SECTIONS) - 2
    assert all(word.startswith("gradients,regularization,") for word in left)


def test_the_sections_are_the_real_ones():
    assert list(_completion.SECTIONS) == [section.name for section in SECTIONS]


def test_the_other_words_are_the_real_ones():
    assert [kind.removesuffix(":") for kind in _completion.KINDS] == list(FORMS)
    for kind, form in FORMS.items():
        assert (f"{kind}:" in _completion.KINDS) == (":" in form)
    assert _completion.DTYPES == FLOATS
    for device in _completion.DEVICES:
        __import__("torch").device(device)


def test_zsh_gets_descriptions_or_is_told_to_complete_files():
    answer = ask("zsh", "evenkeel ex")
    assert answer.startswith('_arguments \'*: :(("explain":"Say which kernels')
    assert ask("zsh", "evenkeel inspect ") == "_files\n"


def test_bash_and_fish_are_answered_by_the_module():
    assert ask("bash", "evenkeel explain --dtype b").split() == ["bfloat16"]
    assert ask("fish", "evenkeel st").startswith("study\tTrain a network")


def test_nothing_heavy_is_imported_for_a_suggestion():
    code = (
        "import json, sys\n"
        "from evenkeel.cli import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "print(json.dumps(sorted(sys.modules)))"
    )
    for line in ("evenkeel ", "evenkeel study --only ", "evenkeel explain --device "):
        done = subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, **environment("zsh", line)},
            capture_output=True,
            text=True,
            check=True,
        )
        loaded = set(json.loads(done.stdout.splitlines()[-1]))
        assert not loaded & {"torch", "numpy", "sklearn", "safetensors", "plotly", "PIL"}
        assert "evenkeel.cli._completion" in loaded  # the probe sees what is there


@pytest.fixture
def home(tmp_path, monkeypatch):
    """A home directory, and a command evenkeel on the path that is this one."""
    folder = tmp_path / "bin"
    folder.mkdir()
    script = folder / "evenkeel"
    script.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m evenkeel "$@"\n')
    script.chmod(script.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def in_shell(shell: str, text: str) -> list[str]:
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    options = ["--norc"] if shell == "bash" else []
    done = subprocess.run(
        [program, *options, "-c", text], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_bash_itself(home):
    press = (
        'eval "$(evenkeel --show-completion)"; COMP_WORDS=(evenkeel explain --dtype fl); '
        'COMP_CWORD=3; _evenkeel_completion evenkeel; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    assert in_shell("bash", press) == ["float16", "float32", "float64"]


def test_zsh_itself(home):
    press = (
        "compdef() {}; _arguments() { print -r -- $1 }; "
        'eval "$(evenkeel --show-completion)"; words=(evenkeel explain --dtype fl); CURRENT=4; '
        "_evenkeel_completion"
    )
    assert in_shell("zsh", press) == ['*: :(("float16" "float32" "float64"))']


def test_fish_itself(home):
    press = 'evenkeel --show-completion | source; complete -C "evenkeel explain --dtype fl"'
    assert in_shell("fish", press) == ["float16", "float32", "float64"]


def test_installing_for_bash(home):
    assert in_shell("bash", "evenkeel --install-completion; true")[0].startswith("bash completion")
    installed = home / ".bash_completions" / "evenkeel.sh"
    assert str(installed) in (home / ".bashrc").read_text()
    assert "_EVENKEEL_COMPLETE=complete_bash" in installed.read_text()


@pytest.mark.parametrize("option", ["--install-completion", "--show-completion"])
def test_a_shell_that_is_unknown(option, monkeypatch):
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("nu", "/usr/bin/nu"))
    done = CliRunner().invoke(app, [option])
    assert (done.exit_code, done.stdout) == (2, "")
    assert done.stderr.startswith(f"evenkeel: {option}\n  got: the shell 'nu'\n")


def test_a_shell_that_is_not_found(monkeypatch):
    import shellingham

    def fail() -> None:
        raise shellingham.ShellDetectionFailure

    monkeypatch.setattr(shellingham, "detect_shell", fail)
    done = CliRunner().invoke(app, ["--show-completion"])
    assert done.exit_code == 2
    assert "no shell that called this command" in done.stderr


def test_a_home_that_cannot_be_written(tmp_path, monkeypatch):
    (tmp_path / "home").write_text("a file")
    monkeypatch.setattr("shellingham.detect_shell", lambda: ("bash", "/bin/bash"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    done = CliRunner().invoke(app, ["--install-completion"])
    assert done.exit_code == 2
    assert done.stderr.startswith(f"evenkeel: to write {Path(tmp_path / 'home')}")
    assert done.stderr.count("why:") == 1
