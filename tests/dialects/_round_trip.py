"""The law of round trips: b -> a -> b is the identity, or a refusal that names the field."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, given, settings

from evenkeel.errors import UnsayableError
from evenkeel.spec import IDENTITY, Momentum, Spec, State

if __name__ == "__main__":  # run by itself in a process with a backend of its own
    sys.path.insert(0, str(Path(__file__).parent))
    from _specs import specs, states
else:
    from ._specs import specs, states

if TYPE_CHECKING:
    from types import ModuleType

#: What every dialect can say, for fields that a random description has and a dialect has not.
_SIMPLE: dict[str, Any] = {
    "eps": 1e-3,
    "momentum": Momentum(0.99, "old"),
    "average": "plain",
    "axis": 1,
    "scale": True,
    "offset": True,
    "track_statistics": True,
    "activation": IDENTITY,
    "synchronized": False,
    "masked": False,
    "renorm": None,
    "affine_frozen": False,
    "statistics_frozen": False,
    "rank": 4,
}


@dataclass
class Side:
    """One dialect with one class of layers; None for the dialect's own choice."""

    name: str
    dialect: ModuleType
    kind: Any = None
    counts: Counter[str] = field(default_factory=Counter)

    def lost(self, spec: Spec, state: State | None = None) -> dict[str, str]:
        """Effect by field, without the keys of options and others."""
        extra = {} if self.kind is None else {"kind": self.kind}
        found = self.dialect.unsayable(spec, state, **extra)
        worst: dict[str, str] = {}
        for item in found:
            name = item.field.partition("[")[0].partition(".")[0]
            if worst.get(name, "none") == "none":
                worst[name] = item.effect
        return worst

    def refused(self, spec: Spec, state: State | None = None) -> list[str]:
        """Fields that only a loss of meaning could leave out."""
        return [name for name, effect in self.lost(spec, state).items() if effect != "none"]

    def through(self, spec: Spec, state: State) -> tuple[Spec, State]:
        """What a layer of this dialect says that was built from this."""
        extra = {} if self.kind is None else {"kind": self.kind}
        return self.dialect.read_module(self.dialect.build_module(spec, state, **extra), spec.name)

    def tamed(self, spec: Spec) -> Spec | None:
        """The description with simple values where this dialect has no others."""
        for variance in ("unbiased", "biased", "unbiased"):
            fields = self.refused(spec)
            if not fields:
                return spec
            changes = {name: _SIMPLE[name] for name in fields if name in _SIMPLE}
            if "variance" in fields:
                changes["variance"] = variance
            if {"statistics_dtype", "parameter_dtype"} & {*fields}:
                changes |= {"statistics_dtype": "float32", "parameter_dtype": "float32"}
            spec = replace(spec, **changes)
        return None


def check_round_trips(b: Side, a: Side, examples: int) -> Counter[str]:
    """Check the law for random layers of ``b`` through ``a``; counts how they ended."""
    ends: Counter[str] = Counter()

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.data())
    def law(data: st.DataObject) -> None:
        drawn = b.tamed(data.draw(specs()))
        # Random descriptions are mostly refused; half of them are made sayable on both sides.
        if drawn is not None and data.draw(st.booleans()):
            both = a.tamed(drawn)
            drawn = None if both is None else b.tamed(both)
        if drawn is None:
            return
        state = data.draw(states(drawn))
        if b.refused(drawn, state):
            return
        ends[_check(b, a, *b.through(drawn, state))] += 1

    law()
    return ends


def _check(b: Side, a: Side, spec: Spec, state: State) -> str:
    there = a.refused(spec, state)
    if there:
        with pytest.raises(UnsayableError) as caught:
            a.through(spec, state)
        assert all(name in str(caught.value) for name in there), (there, str(caught.value))
        return "refused"
    lost = a.lost(spec, state)
    middle, held = a.through(spec, state)
    assert not {*b.refused(middle, held)} - {*lost}, (b.lost(middle, held), spec, middle)
    lost |= b.lost(middle, held)
    again, back = b.through(middle, held)
    values, wanted = again.to_dict(), spec.to_dict()
    differing = {name for name in wanted if values[name] != wanted[name]}
    assert differing <= {*lost}, (differing - {*lost}, spec, middle, again)
    for name in ("weight", "bias", "running_mean", "running_var"):
        assert name in lost or _same(getattr(back, name), getattr(state, name)), (name, spec)
    # A layer that was not counted and gets a counter counts from 0.
    assert "batches" in lost or (back.batches or 0) == (state.batches or 0), (spec, state, back)
    assert "others" in lost or back.others.keys() == state.others.keys()
    return "identity"


def _same(one: Any, two: Any) -> bool:
    if one is None or two is None:
        return one is two
    return one.dtype == two.dtype and one.tobytes() == two.tobytes()


def sides(*names: str) -> list[Side]:
    """Dialects by name; ``keras`` and ``flax`` import their framework."""
    found: list[Side] = []
    for name in names:
        dialect = importlib.import_module(f"evenkeel.dialects.{name.partition('+')[0]}")
        kind = None
        if name == "keras+ours":
            kind = importlib.import_module("evenkeel.integrations.keras").BatchNormalization
        if name == "flax":
            importlib.import_module("evenkeel.integrations.flax")
        found.append(Side(name, dialect, kind))
    return found


def main(names: list[str], examples: int) -> None:
    """Check all ordered pairs with the first of ``names``, and print how they ended."""
    first, *others = sides(*names)
    for other in others:
        for b, a in ((first, other), (other, first)):
            ends = check_round_trips(b, a, examples)
            print(b.name, a.name, ends["identity"], ends["refused"], flush=True)  # noqa: T201 - read by the test


if __name__ == "__main__":
    main(sys.argv[2:], int(sys.argv[1]))
