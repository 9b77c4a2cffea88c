"""Every example in a docstring runs, and says what it prints."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import evenkeel.reference
import evenkeel.spec

MODULES = [
    f"{package.__name__}.{module.name}"
    for package in (evenkeel.reference, evenkeel.spec)
    for module in pkgutil.iter_modules(package.__path__)
]


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    failed, _ = doctest.testmod(importlib.import_module(name))
    assert failed == 0


@pytest.mark.parametrize("name", ["_forward", "_running", "_parameters"])
def test_the_cycle_has_examples(name):
    module = importlib.import_module(f"evenkeel.reference.{name}")
    assert doctest.testmod(module).attempted > 0


def test_public_names_are_documented_and_complete():
    for package in (evenkeel.reference, evenkeel.spec):
        for name in package.__all__:
            assert getattr(package, name).__doc__
        public = {n for n, v in vars(package).items() if not n.startswith("_") and callable(v)}
        assert public <= set(package.__all__)
