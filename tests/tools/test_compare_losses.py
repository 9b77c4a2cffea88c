"""Losses, batches and update rules that drive both sides."""

import pickle

import numpy as np
import pytest
import torch

from evenkeel.errors import InputError
from evenkeel.tools._compare._losses import choose_loss, cross_entropy, draw_batch, squared_error
from evenkeel.tools._compare._updates import Updates, checked_rules

RANDOM = np.random.default_rng(0)


def numeric(loss, output, targets, at):
    step = np.zeros_like(output)
    step[at] = 1e-6
    return (loss(output + step, targets)[0] - loss(output - step, targets)[0]) / 2e-6


@pytest.mark.parametrize(
    ("loss", "targets"),
    [(squared_error, RANDOM.standard_normal((4, 3))), (cross_entropy, np.array([0, 2, 1, 1]))],
)
def test_gradients_are_those_of_the_value(loss, targets):
    output = RANDOM.standard_normal((4, 3))
    _, gradient = loss(output, targets)
    for at in np.ndindex(output.shape):
        # Central differences: truncation h^2 / 6 f''' < 1e-12, rounding w / h = 1e-10.
        assert gradient[at] == pytest.approx(numeric(loss, output, targets, at), abs=1e-9)


def test_cross_entropy_is_torchs():
    output, targets = RANDOM.standard_normal((5, 4)), np.array([0, 3, 1, 1, 2])
    expected = torch.nn.functional.cross_entropy(torch.tensor(output), torch.tensor(targets))
    assert cross_entropy(output, targets)[0] == pytest.approx(float(expected), rel=1e-14)


def test_gradients_have_the_dtype_of_the_output():
    output = RANDOM.standard_normal((4, 3)).astype(np.float32)
    assert squared_error(output, np.zeros((4, 3)))[1].dtype == np.float32
    assert cross_entropy(output, np.zeros(4, np.int64))[1].dtype == np.float32


def test_integer_targets_mean_classes_and_real_ones_a_distance():
    output = np.zeros((6, 3))
    classes = choose_loss(None, np.arange(6) % 3, output)
    distance = choose_loss(None, np.ones((6, 3)), output)
    assert classes.of(np.arange(6))(output)[0] == pytest.approx(np.log(3))
    assert distance.of(np.arange(6))(output)[0] == pytest.approx(0.5)


def test_targets_follow_the_samples():
    output = np.zeros((6, 3))
    losses = choose_loss(None, np.arange(18.0).reshape(6, 3), output)
    assert losses.of(np.array([0]))(output[:1])[0] == pytest.approx((0 + 1 + 4) / 6)


def test_default_targets_are_fixed_and_the_loss_can_be_pickled():
    output = RANDOM.standard_normal((6, 3))
    one, two = (choose_loss(None, None, output).of(np.arange(3)) for _ in range(2))
    assert pickle.loads(pickle.dumps(one))(output[:3])[0] == two(output[:3])[0] > 0


def test_targets_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match=r"targets of shape \(6, 2\)"):
        choose_loss(None, np.zeros((6, 2)), np.zeros((6, 3)))


def test_batches_differ_between_steps_and_repeat():
    assert len(draw_batch(32, 0)) == 16
    assert np.array_equal(draw_batch(32, 0), draw_batch(32, 0))
    assert not np.array_equal(draw_batch(32, 0), draw_batch(32, 1))
    assert not np.array_equal(draw_batch(32, 0), draw_batch(32, 0, 1))
    assert len(draw_batch(32, 0, 3)) == 8
    assert np.array_equal(draw_batch(3, 5), [0, 1, 2])


@pytest.mark.parametrize("rule", ["sgd", "adam"])
def test_rules_are_torchs_in_float64(rule):
    start, gradients = RANDOM.standard_normal((3, 2)), RANDOM.standard_normal((5, 3, 2))
    parameter = torch.tensor(start, requires_grad=True)
    optimizer = (
        torch.optim.SGD([parameter], 0.01, 0.9)
        if rule == "sgd"
        else torch.optim.Adam([parameter], 0.001)
    )
    updates, state = Updates(rule), {"l": {"kernel": start, "running_mean": np.zeros(2)}}
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
        statistics = {"l": {"running_mean": np.ones(2)}}
        state = updates.apply(state, {"l": {"kernel": gradient}}, statistics)
    np.testing.assert_allclose(state["l"]["kernel"], parameter.detach().numpy(), rtol=1e-13)
    assert state["l"]["running_mean"].tolist() == [1, 1]
    assert start is not state["l"]["kernel"]


def test_rules_are_checked():
    assert checked_rules("adam") == ("adam",)
    assert checked_rules(("adam", "sgd")) == ("sgd", "adam")
    for wrong in ("rmsprop", (), ("sgd", "x")):
        with pytest.raises(InputError, match="optimizer="):
            checked_rules(wrong)
