"""The name of an activation, read and refused."""

from __future__ import annotations

import pytest

from evenkeel.errors import InputError
from evenkeel.spec import ACTIVATIONS, IDENTITY, Activation


def test_every_name_is_read_with_its_default():
    for name, parameter in ACTIVATIONS.items():
        assert Activation.parse(name) == Activation(name, parameter or 0.0)


def test_other_forms():
    assert Activation.parse(None) == IDENTITY == Activation("identity", 0.0)
    assert Activation.parse(("leaky_relu", 0.3)) == Activation("leaky_relu", 0.3)
    assert Activation.parse(("leaky_relu", 0.0)) == Activation("leaky_relu", 0.0)
    assert Activation.parse(("elu", 0.5)) == Activation("elu", 0.5)
    assert Activation.parse(IDENTITY) is IDENTITY


@pytest.mark.parametrize("value", ["tanh", "ReLU", ("relu", 0.1), ("prelu", 0.1)])
def test_unknown_is_refused(value):
    with pytest.raises(InputError, match="only leaky_relu and elu take a parameter"):
        Activation.parse(value)
