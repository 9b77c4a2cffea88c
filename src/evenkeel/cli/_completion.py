"""What the shell suggests after an option. Nothing is imported for it: a user waits at each TAB.

The lists stand here in plain words for that reason; tests hold them against the real ones.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from evenkeel.errors import InputError, explain

#: Names of the study's sections, in the order of the report.
SECTIONS: Final = (
    "learning-rate",
    "gradients",
    "covariate-shift",
    "regularization",
    "scale-and-shift",
    "small-batches",
    "train-vs-inference",
    "frameworks",
)
#: What the study's --data begins with, and what it means.
KINDS: Final = {
    "digits": "handwritten digits that scikit-learn carries",
    "npz:": "FILE with arrays x and y",
    "idx:": "DIR with four files in the format of MNIST",
    "folder:": "DIR with a folder of images per class",
}
DEVICES: Final = ("cpu", "cuda", "mps", "xpu")
DTYPES: Final = ("float16", "bfloat16", "float32", "float64")
#: Whose checkpoints are written.
FRAMEWORKS: Final = ("torch", "keras", "flax", "onnx")
#: Backends of Keras that train.
BACKENDS: Final = ("tensorflow", "jax", "torch")
#: What a layer can be.
LAYER_KINDS: Final = (
    "dense",
    "conv",
    "conv_transpose",
    "embedding",
    "layer_norm",
    "group_norm",
    "batch_norm",
    "prelu",
    "lstm",
    "gru",
    "simple_rnn",
    "normalization",
    "rescaling",
)
#: Shells that typer writes completion for.
SHELLS: Final = ("bash", "zsh", "fish", "powershell", "pwsh")
_OPTIONS: Final = frozenset({"--install-completion", "--show-completion"})


def complete_device() -> list[str]:
    """Device types that torch has; which of them are here, only torch could say."""
    return list(DEVICES)


def complete_dtype() -> list[str]:
    """Element types that batch normalization is defined for."""
    return list(DTYPES)


def complete_framework() -> list[str]:
    """Frameworks that ``convert`` writes for."""
    return list(FRAMEWORKS)


def complete_backend() -> list[str]:
    """Backends of Keras; which of them are installed, only Python could say."""
    return list(BACKENDS)


def complete_kind(incomplete: str) -> list[str]:
    """Kinds of layers behind a pattern and its equals sign."""
    pattern, equals, _ = incomplete.rpartition("=")
    return [f"{pattern}={kind}" for kind in LAYER_KINDS] if equals else []


def complete_sections(incomplete: str) -> list[str]:
    """Sections that are not yet in the list, each behind what is."""
    *named, _ = incomplete.split(",")
    before = "".join(f"{name}," for name in named)
    return [before + name for name in SECTIONS if name not in named]


def complete_data(incomplete: str) -> list[tuple[str, str]]:
    """Kinds of data; behind a kind, or where only one is left, the files and folders that fit it.

    bash takes the colon for the end of a word and completes the path behind it by itself.
    """
    kind, colon, start = incomplete.partition(":")
    fitting = [known for known in KINDS if known.startswith(kind + colon)]
    if len(fitting) == 1 and fitting[0].endswith(":"):
        # The shell sets a space behind a single suggestion, which a bare kind must not have.
        paths = [(fitting[0] + path, "") for path in _paths(start, files=fitting[0] == "npz:")]
        if paths:
            return paths
    return [(known, KINDS[known]) for known in fitting]


def _paths(start: str, *, files: bool) -> list[str]:
    """Folders, and .npz files if wanted, in the folder that ``start`` lies in."""
    folder = start[: start.rfind("/") + 1]
    try:
        present = sorted(Path(folder or ".").iterdir())
    except OSError:
        return []
    hidden = start[len(folder) :].startswith(".")
    shown = [path for path in present if hidden or path.name[0] != "."]
    names = [f"{path.name}/" for path in shown if path.is_dir()]
    if files:
        names += [path.name for path in shown if path.suffix == ".npz" and path.is_file()]
    return [folder + name for name in names]


def require_shell(args: list[str]) -> None:
    """Refuse to write completion for a shell that is unknown or not to be found.

    Raises:
        InputError: the arguments ask for completion, and no known shell called this command.
    """
    asked = _OPTIONS.intersection(args)
    if not asked or "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION" in os.environ:
        return
    import shellingham

    try:
        shell: str = shellingham.detect_shell()[0]
    except shellingham.ShellDetectionFailure:
        shell = ""
    if shell in SHELLS:
        return
    raise InputError(
        explain(
            asked=min(asked),
            got=f"the shell {shell!r}" if shell else "no shell that called this command",
            why=f"completion is written for one of {', '.join(SHELLS)}, the one that calls",
            do="run the command by itself in such a shell",
        )
    )
