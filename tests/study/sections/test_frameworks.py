from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from evenkeel.study import Scale, load_dataset
from evenkeel.study._codec import decode, encode, key
from evenkeel.study._execute import isolated
from evenkeel.study._samples import Samples
from evenkeel.study._statistics import measure
from evenkeel.study.sections.frameworks import SECTION, _groups, _layers, _plan, _run, _verdict
from evenkeel.study.sections.frameworks._plan import ARMS, Arm, FrameworkConfig
from evenkeel.study.sections.frameworks._records import FrameworkRecord

# Keras on JAX imports the array interface of NumPy under its old name.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

FULL = SECTION.plan(Scale((0, 1, 2, 3, 4), quick=False))
QUICK = SECTION.plan(Scale((0,), quick=True))


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


def test_plan() -> None:
    assert len({key(config) for config in FULL}) == len(FULL) == 5 * len(ARMS)
    assert {config.arm for config in QUICK} == set(ARMS)
    assert {arm.origin for arm in ARMS if arm.settings == "own"} == set(_plan.ORIGINS)
    assert f"step {_plan.EARLY} " in SECTION.rule
    assert f"{_verdict.MARGIN:.0%}" in SECTION.rule


def test_layers_say_what_their_arm_says() -> None:
    translated = _layers.norm_layer(Arm("keras", "torch", "translated"), 3)
    assert (translated.eps, translated.momentum, translated.variance) == (1e-3, 0.01, "biased")
    copied = _layers.norm_layer(Arm("keras", "torch", "copied"), 3)
    assert (copied.eps, copied.momentum, type(copied)) == (1e-3, 0.99, torch.nn.BatchNorm1d)
    own = _layers.norm_layer(Arm("torch", "torch", "own"), 3)
    assert (own.eps, own.momentum, type(own)) == (1e-5, 0.1, torch.nn.BatchNorm1d)


def test_score_is_accuracy_and_cross_entropy() -> None:
    logits = np.array([[0.0, 0.0], [3.0, 0.0], [np.nan, 1.0]], np.float32)
    accuracy, loss = _run.score(logits[:2], np.array([0, 1]))
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:2]).double(), torch.tensor([0, 1])
    )
    assert accuracy == 0.5  # the first of two equal outputs wins
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    accuracy, loss = _run.score(logits, np.array([0, 0, 1]))
    assert accuracy == pytest.approx(2 / 3)
    assert math.isnan(loss)


def record(arm: Arm, seed: int, factor: float) -> FrameworkRecord:
    config = next(c for c in FULL if c.arm == arm and c.seed == seed)
    steps = (5, 100, 200, 300, 350, 400, 450, 500)
    base = [1.0 + 0.1 * seed, 0.5, 0.4, 0.3, 0.3, 0.3, 0.3, 0.3]
    return FrameworkRecord(
        config=config,
        steps=steps,
        test_accuracy=tuple(0.9 for _ in steps),
        test_loss=tuple(factor * loss for loss in base),
        losses=(2.3, 2.0),
        finite=True,
    )


def found(factor) -> dict[str, object]:
    records = [record(arm, seed, factor(arm)) for arm in ARMS for seed in range(5)]
    findings = SECTION.reduce(records)
    assert findings.summary.rows
    return {m.name: m for m in findings.measures}


@pytest.mark.parametrize(
    ("factor", "kind"),
    [
        (lambda arm: 1.0, "holds"),
        (lambda arm: 1.2 if arm.settings == "copied" else 1.0, "fails"),
        (lambda arm: 1.2 if arm == _verdict.COPIED[0] else 1.0, "depends"),
        (lambda arm: 0.9 if arm.settings != "own" else 1.0, "depends"),
    ],
)
def test_verdict_follows_the_rule(factor, kind) -> None:
    assert SECTION.judge(found(factor)).kind == kind


def test_change_is_relative_to_the_same_seed() -> None:
    measures = found(lambda arm: 1.2 if arm.settings == "copied" else 1.0)
    name = _verdict.key(_verdict.COPIED[0], "early")
    assert measures[name].values == pytest.approx([0.2] * 5, rel=1e-12)


def test_a_loss_that_is_not_finite_counts() -> None:
    broken = replace(record(ARMS[2], 0, 1.0), test_loss=(1.0, None) * 4, losses=(None, 2.0))
    assert _groups.loss(broken)[1] == _groups.LOST
    group = _groups.Group(ARMS[2], (broken,), (record(ARMS[0], 0, 1.0),))
    assert group.first() == [_groups.LOST]
    assert all(map(math.isfinite, group.ratios("end")))
    measure("x", "x", group.ratios("early"))


def run(arm: Arm, samples: Samples, steps: int = 12) -> FrameworkRecord:
    config = replace(next(c for c in FULL if c.arm == arm), max_steps=steps)
    with isolated():
        return SECTION.run(config, samples)


def test_torch_trains_as_plain_torch_does(samples) -> None:
    one = run(Arm("torch", "torch", "own"), samples)
    copied = run(Arm("keras", "torch", "copied"), samples)
    assert one == run(Arm("torch", "torch", "own"), samples)
    # The same weights and batches: only eps differs in training.
    assert one.losses == pytest.approx(copied.losses, rel=2e-2)
    assert one.losses != copied.losses
    assert decode(encode(one), FrameworkRecord) == one


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["keras", "flax"])
def test_frameworks_train_alike_when_translated(framework, samples) -> None:
    home = run(Arm("torch", "torch", "own"), samples, steps=40)
    there = run(Arm("torch", framework, "translated"), samples, steps=40)
    copied = run(Arm("torch", framework, "copied"), samples, steps=40)
    # One step of rounding per operation; five steps of SGD at rate 0.1 amplify it little.
    assert there.losses == pytest.approx(home.losses, rel=64 * 2.0**-24)
    assert copied.losses == pytest.approx(home.losses, rel=64 * 2.0**-24)
    assert there.test_loss == pytest.approx(home.test_loss, rel=1e-3)
    worst = max(abs(a / b - 1) for a, b in zip(copied.test_loss, home.test_loss, strict=True))
    assert worst > 0.02


def test_settings_survive_the_file() -> None:
    for config in QUICK:
        assert decode(encode(config), FrameworkConfig) == config
