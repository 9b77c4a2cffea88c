"""The inputs that two networks are compared on: the user's, or random ones of the right shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from evenkeel.errors import FileError, InputError, explain

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from evenkeel.cli._networks import Side

#: Samples where the network takes any number.
SAMPLES: Final = 32
_SEED: Final = 0


def choose_inputs(paths: list[Path], a: Side, b: Side) -> tuple[Any, str]:
    """The inputs for ``compare``, and a sentence where they were made here.

    Raises:
        FileError: a file is no .npy file.
        InputError: there are more than two, or none and no shape is known.
    """
    if len(paths) > 2:
        raise InputError(
            explain(
                asked="--inputs",
                got=f"{len(paths)} files",
                why="two networks are compared",
                do="pass one file in the layout of A, or one for each",
            )
        )
    if paths:
        arrays = [_load(path) for path in paths]
        return (arrays[0] if len(arrays) == 1 else (arrays[0], arrays[1])), ""
    if a.shape is not None and (made := _random(a.shape)) is not None:
        return made, _said(made, a)
    if b.shape is not None and (made := _random(b.shape)) is not None:
        return (_for_other(made, a, b), made), _said(made, b)
    raise InputError(
        explain(
            asked=f"compare {a.said} and {b.said}",
            got="no --inputs",
            why="neither says the shape of its input in full",
            do="save an array with numpy.save and pass it: --inputs x.npy",
        )
    )


def _load(path: Path) -> NDArray[Any]:
    import numpy as np

    try:
        with path.open("rb") as file:
            return np.lib.format.read_array(file, allow_pickle=False)
    except OSError as error:
        raise FileError(
            explain(
                asked=f"read the inputs {path}",
                got=error.strerror or type(error).__name__,
                why="the system does not let this process read it",
                do="check the path; numpy.save(path, array) writes such a file",
            )
        ) from error
    except (ValueError, EOFError, MemoryError) as error:
        raise FileError(
            explain(
                asked=f"read the inputs {path}",
                got=str(error).splitlines()[0] if str(error) else type(error).__name__,
                why="it is no array that numpy.save wrote",
                do="save it with numpy.save(path, array), without objects",
            )
        ) from error


def _random(shape: tuple[int | None, ...]) -> NDArray[Any] | None:
    """Normal numbers; None where a size besides the number of samples is open."""
    import numpy as np

    first, *rest = shape
    if not rest or any(size is None for size in rest):
        return None
    sizes = (first or SAMPLES, *(size for size in rest if size is not None))
    return np.random.default_rng(_SEED).standard_normal(sizes).astype(np.float32)


def _for_other(made: NDArray[Any], a: Side, b: Side) -> NDArray[Any]:
    """Inputs of ``b`` in the layout of ``a``: channels first in torch."""
    import numpy as np

    last = b.network.canonical_inputs(made)
    first = a.network.framework == "torch"
    if first and last.ndim == 3:
        raise InputError(
            explain(
                asked=f"compare {a.said} and {b.said}",
                got=f"no --inputs, and the shape {made.shape} of {b.said}",
                why="a torch network takes such inputs as (N, C, T) or as (N, T, C)",
                do="pass inputs for each: --inputs a.npy --inputs b.npy",
            )
        )
    return np.moveaxis(last, -1, 1) if first and last.ndim > 3 else last


def _said(made: NDArray[Any], side: Side) -> str:
    shape = "x".join(map(str, made.shape))
    return (
        f"inputs: {shape} random normal numbers, seed {_SEED}, by the shape that {side.said} says"
    )
