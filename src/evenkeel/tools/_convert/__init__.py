"""``convert``: a checkpoint of one framework as a checkpoint of another, file to file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from evenkeel import checkpoints
from evenkeel.errors import InputError, explain
from evenkeel.tools._convert._formats import choose_target, framework_of, open_like
from evenkeel.tools._convert._plan import Job, plan_copy

if TYPE_CHECKING:
    import os
    from collections.abc import Mapping

    from evenkeel.checkpoints import Checkpoint
    from evenkeel.tools._convert._formats import Target
    from evenkeel.tools._convert._plan import Plan
    from evenkeel.tools._convert._records import Conversion


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    *,
    to: Literal["torch", "keras", "flax", "onnx"] | None = None,
    like: object = None,
    kinds: Mapping[str, str] | None = None,
    mapping: Mapping[str, str] | None = None,
    purpose: Literal["training", "inference"] = "training",
    overwrite: bool = False,
) -> Conversion:
    """Write the weights of one file as a file of another format or framework.

    Layouts are changed layer by layer, values are read and written array by array. Everything
    is checked before the target is opened, and a target that is there is replaced at the end
    or not at all.

    Args:
        source: any checkpoint that is read here; its content decides what it is.
        target: its ending decides: ``.safetensors``, ``.pt``, ``.pth`` (torch), ``.keras``,
            ``.h5`` (Keras), ``.msgpack``, none for Orbax (Flax), ``.onnx``, ``.npz``.
        to: whose names and layouts the target has, where the ending leaves it open.
        like: a file of the target framework, or a live model, that gives names and structure.
            Needed for Keras and ONNX. Layers are matched by name, else by order, kind and shape.
        kinds: layer name (with ``*`` for any part of it) to kind, where names and shapes do not
            tell: ``"embedding"``, ``"conv_transpose"``. ``"dense:4x4x8"`` follows a flattened
            picture of 4 by 4 with 8 channels, ``"dense"`` does not.
        mapping: names in the source to names in ``like``, before anything else is matched.
        purpose: ``"inference"`` lists what only further training would need and the target
            cannot say, instead of refusing it.
        overwrite: whether a target that exists is replaced.

    Returns:
        What became what, and what the code that builds the model has to set. Momentum is in the
        target's convention; the running variance is never rescaled.

    Raises:
        FileError: a file cannot be read or written.
        UnsayableError: the target cannot say what the source says.
        InputError: a kind is not known, or two layers could be meant equally well.

    Example:
        >>> import tempfile, torch
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     torch.save({"fc.weight": torch.ones(2, 3), "fc.bias": torch.ones(2)},
        ...                f"{folder}/a.pt")
        ...     convert(f"{folder}/a.pt", f"{folder}/a.msgpack").rows[0].change
        '(out, in) -> (in, out)'
    """
    _require_purpose(purpose)
    goal = choose_target(target, to, overwrite=overwrite)
    checkpoint = checkpoints.read(source)
    _require_one_part(checkpoint)
    if mapping and like is None:
        raise _nothing_to_map(mapping)
    with open_like(like, goal) as example:
        framework = framework_of(checkpoint)
        if framework == goal.framework and example is None:
            plan = plan_copy(checkpoint, goal)
        else:
            job = Job(checkpoint, framework, goal, example, purpose)
            plan = job.plan(dict(kinds or {}), mapping)
        structure = example.checkpoint if example else None
        _write(plan, goal, structure, overwrite=overwrite)
    return plan.report


def _nothing_to_map(mapping: Mapping[str, str]) -> InputError:
    named = ", ".join(f"{a}={b}" for a, b in mapping.items())
    return InputError(
        explain(
            asked="convert a checkpoint",
            got=f"mapping (--map) {named}, and no like",
            why="a mapping goes to the names of like; without it the source's own names stay",
            do="pass like as well, or leave the mapping out",
        )
    )


def _write(plan: Plan, goal: Target, like: Checkpoint | None, *, overwrite: bool) -> None:
    checkpoints.write(
        goal.path,
        plan.arrays,
        kind=goal.kind,
        like=like,
        metadata=plan.metadata,
        overwrite=overwrite,
    )


def _require_purpose(purpose: str) -> None:
    if purpose not in {"training", "inference"}:
        raise InputError(
            explain(
                asked="convert a checkpoint",
                got=f"purpose={purpose!r}",
                why="what may be left out depends on what the target is for",
                do='pass "training" or "inference"',
            )
        )


def _require_one_part(checkpoint: Checkpoint) -> None:
    if len(checkpoint.parts) > 1:
        raise InputError(
            explain(
                asked=f"convert {checkpoint.path}",
                got=f"several state dicts: {', '.join(checkpoint.parts)}",
                why="one target holds the weights of one model",
                do="save the one that you want by itself",
            )
        )
