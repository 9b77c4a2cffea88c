"""The law of the comparison, quantity by quantity."""

import numpy as np
import pytest

from evenkeel.tools._compare._bound import (
    GROWTH,
    ORDER,
    UNIT32,
    UNIT64,
    Quantity,
    distance,
    judge,
    judge_again,
    judge_together,
    largest,
)


def quantity(exact, *, error_a=0.0, error_b=0.0, gap=0.0, **more):
    exact = np.asarray(exact, np.float64)
    return Quantity(
        "l", "l", "output", exact + error_a, exact + error_b, exact, exact + gap, **more
    )


def test_four_times_the_own_error_is_equal_and_more_is_not():
    own = 2.0**-18
    assert judge(quantity([1.0, -1.0], error_a=own, error_b=4 * own)).equal
    assert not judge(quantity([1.0, -1.0], error_a=own, error_b=4.01 * own)).equal


def test_a_lucky_source_is_granted_one_rounding():
    assert judge(quantity([3.0], error_b=4 * 3 * UNIT32)).equal
    assert not judge(quantity([3.0], error_b=4.01 * 3 * UNIT32)).equal


def test_the_float64_gap_is_scaled_to_float32():
    gap = 100 * UNIT64
    assert judge(quantity([1.0], error_b=399 * UNIT32, gap=gap)).equal
    assert not judge(quantity([1.0], error_b=410 * UNIT32, gap=gap)).equal


def test_another_function_is_never_equal():
    beyond = 1.01 * ORDER * UNIT32 / GROWTH
    judged = judge(quantity([1.0], gap=beyond))
    assert (judged.same, judged.equal, judged.ratio) == (False, False, np.inf)


def test_without_a_second_float64_the_source_alone_decides():
    exact = np.ones(2)
    q = Quantity("l", "l", "output", exact, exact + 4 * UNIT32, exact, None)
    assert judge(q).equal
    assert not judge(Quantity("l", "l", "output", exact, exact + 1e-3, exact, None)).equal


def test_a_missing_array_of_the_target_is_not_equal():
    exact = np.ones(2)
    judged = judge(Quantity("l", "l", "gradient", exact, None, exact, None))
    assert (judged.same, judged.equal) == (False, False)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("where", ["error_a", "error_b", "gap"])
def test_what_is_not_finite_is_never_equal(bad, where):
    assert not judge(quantity([1.0, 2.0], **{where: np.array([bad, 0.0])})).equal


def test_nan_on_both_sides_is_not_equal():
    nothing = np.array([np.nan])
    assert not judge(Quantity("l", "l", "output", nothing, nothing, nothing, nothing)).equal


def test_shapes_that_would_broadcast_are_different():
    assert distance(np.zeros((2, 1)), np.zeros((1, 2))) == np.inf
    assert largest(np.zeros(0)) == 0


def test_a_zero_is_judged_by_rounding_and_not_by_its_size():
    exact = np.full(3, 1e-17)
    noise = Quantity("l", "l", "g", exact + 1e-8, exact + 3e-8, exact, exact, zero=True)
    assert judge(noise).equal
    real = Quantity("l", "l", "g", exact + 1e-8, exact + 1e-3, exact, exact + 1e-3, zero=True)
    assert not judge(real).equal


def test_tensors_of_one_layer_share_their_relative_error():
    lucky = quantity([2.0], error_b=2e-5)
    honest = quantity([1.0], error_a=1e-5)
    alone, _ = judge(lucky), judge(honest)
    together, _ = judge_together([lucky, honest])
    assert not alone.equal
    assert together.equal
    assert together.bound == pytest.approx(4 * 2e-5)


def test_judging_again_only_widens():
    judged = judge(quantity([2.0], error_a=1e-5))
    assert judge_again(judged, 0.0).bound == judged.bound
    assert judge_again(judged, 1e-4).bound == pytest.approx(4 * 2e-4)
