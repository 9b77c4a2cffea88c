"""Names for what has no type of its own here: the framework is imported inside functions only."""

from __future__ import annotations

from typing import Any, TypeAlias

#: An NNX or a Linen module.
Module: TypeAlias = Any
#: Nested dictionaries of arrays.
Variables: TypeAlias = Any
#: A jax.Array, concrete or traced.
JaxArray: TypeAlias = Any
