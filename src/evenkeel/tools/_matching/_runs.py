"""Running a network on an example that it may not take."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from evenkeel.errors import EvenkeelError, InputError, explain

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from evenkeel.dialects._network import Network, Trace


def traced(network: Network, inputs: NDArray[Any]) -> Trace:
    """The network's trace on channels-last inputs.

    Raises:
        InputError: the framework does not run it on them.
    """
    try:
        return network.trace(inputs)
    except EvenkeelError:
        raise
    except Exception as error:
        text = str(error).strip().splitlines() or [""]
        raise InputError(
            explain(
                asked=f"run the {network.framework} network on the example",
                got=f"{inputs.dtype} of shape {inputs.shape}, channels last; "
                f"{type(error).__name__}: {text[0]}",
                why="the network does not take these inputs",
                do="pass an example that the source itself runs on; a target that takes others "
                "cannot be compared with it",
            )
        ) from error


def require_finite(trace: Trace, inputs: NDArray[Any]) -> None:
    """Refuse a network whose output is NaN or Inf: nothing tells its layers apart.

    Raises:
        InputError: naming the first layer whose output is not finite.
    """
    if np.isfinite(trace.output).all():
        return
    if not np.isfinite(inputs).all():
        where, do = "an example with NaN or Inf", "pass finite inputs"
    else:
        calls = (call.layer for call in trace.calls if not np.isfinite(call.output).all())
        layer = next(calls, "")
        where = f"NaN or Inf in the output of {layer!r}" if layer else "NaN or Inf in the output"
        do = "repair its weights and statistics first; evenkeel inspect shows those of batch norm"
    raise InputError(
        explain(
            asked="match the layers of two networks",
            got=where,
            why="layers are told apart by what they compute, and NaN equals nothing",
            do=do,
        )
    )
