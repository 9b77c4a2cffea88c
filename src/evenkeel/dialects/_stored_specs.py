"""Batch-norm settings that evenkeel writes beside the weights, where a format has none."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, cast

from evenkeel.errors import InputError, explain
from evenkeel.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from evenkeel.checkpoints import Checkpoint

#: Key of a file's metadata: JSON of {layer name: JSON text of its Spec}.
METADATA: Final = "evenkeel.batch_norm"


def to_metadata(specs: Mapping[str, Spec]) -> dict[str, str]:
    """The entry of a file's metadata, or none without specs."""
    told = {name: spec.to_json() for name, spec in specs.items()}
    return {METADATA: json.dumps(told)} if told else {}


def stored_specs(checkpoint: Checkpoint) -> dict[str, Spec]:
    """The settings that :func:`to_metadata` put into a file, by layer.

    Raises:
        InputError: they are damaged.
    """
    metadata = checkpoint.config.get("metadata")
    text = cast("dict[str, Any]", metadata).get(METADATA) if isinstance(metadata, dict) else None
    if text is None:
        return {}
    try:
        return {str(name): Spec.from_json(spec) for name, spec in json.loads(text).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise InputError(
            explain(
                asked=f"read the batch-norm settings of {checkpoint.path}",
                got=f"{METADATA} = {str(text)[:80]!r}",
                why=f"it is not what evenkeel writes ({str(error).splitlines()[0]})",
                do="remove that entry from the metadata, or convert the file again",
            )
        ) from error
