from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
from torch.nn.functional import nll_loss

from evenkeel.study import RunConfig, Scale, load_dataset
from evenkeel.study._codec import decode, encode, key
from evenkeel.study._execute import isolated
from evenkeel.study._samples import Samples
from evenkeel.study._statistics import measure
from evenkeel.study._training import Training
from evenkeel.study.sections.regularization import SECTION
from evenkeel.study.sections.regularization._outcomes import LARGEST_LOSS, outcomes_of
from evenkeel.study.sections.regularization._plan import NETWORKS, network_of
from evenkeel.study.sections.regularization._run import Record

if TYPE_CHECKING:
    from collections.abc import Callable

    from evenkeel.report import Findings, Verdict

FULL = Scale((0, 1, 2, 3, 4), quick=False)
PLAN = SECTION.plan(FULL)


@pytest.fixture(scope="module")
def samples() -> Samples:
    return Samples.load(load_dataset("digits"))


# --- the plan


def test_the_four_networks_get_the_same_settings() -> None:
    settings = {
        name: {
            (c.samples, c.batch_size, c.rate, c.max_steps, c.seed)
            for c in PLAN
            if network_of(c) == name
        }
        for name in NETWORKS
    }
    assert len(settings["plain"]) == 3 * 2 * 2 * 5
    assert all(found == settings["plain"] for found in settings.values())
    assert {(c.batch_norm, c.dropout > 0) for c in PLAN} == {
        (False, False), (True, False), (False, True), (True, True)
    }  # fmt: skip


def test_runs_are_named_once_and_a_quick_look_makes_fewer_steps() -> None:
    quick = SECTION.plan(Scale((0, 1, 2), quick=True))
    assert len({key(config) for config in PLAN}) == len(PLAN)
    assert sum(c.max_steps for c in quick) < sum(c.max_steps for c in PLAN) / 5


# --- the run


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_repeats_and_ends_as_the_network_does(samples: Samples, dropout: float) -> None:
    config = RunConfig(
        section="s", seed=1, hidden=(16, 8), samples=60, batch_size=16, dropout=dropout,
        rate=0.3, epochs=99, max_steps=20,
    )  # fmt: skip
    with isolated():
        record = SECTION.run(config, samples)
        assert SECTION.run(config, samples) == record
        training = Training(config, samples)
        for x, y in training.batches():
            training.update(x, y)
    assert decode(encode(record), SECTION.record) == record
    assert record.samples == 60
    assert record.steps[0] == 0
    assert record.steps[-1] == 20
    x, y = training.train
    assert len(y) == 60
    with torch.no_grad():
        logits = training.network.eval()(x)
    probability = torch.softmax(logits.double(), dim=1)
    right = (probability.argmax(dim=1) == y).double().mean().item()
    assert record.train_accuracy[-1] == pytest.approx(right)
    # The record keeps six digits of a float32 loss.
    assert record.train_loss[-1] == pytest.approx(nll_loss(probability.log(), y).item(), rel=1e-5)
    lengths = {len(c) for c in (record.train_accuracy, record.test_accuracy, record.test_loss)}
    assert lengths == {len(record.steps)}


def test_the_networks_of_a_seed_share_training_set_and_weights(samples: Samples) -> None:
    configs = [c for c in PLAN if (c.seed, c.samples, c.batch_size, c.rate) == (0, 100, 16, 0.1)]
    assert {network_of(c) for c in configs} == set(NETWORKS)
    with isolated():
        trainings = [Training(config, samples) for config in configs]
        batches = [next(iter(training.batches())) for training in trainings]
    for training, batch in zip(trainings, batches, strict=True):
        assert torch.equal(training.train[0], trainings[0].train[0])
        assert torch.equal(batch[0], batches[0][0])
        weight, first = (t.network.state_dict()["linear2.weight"] for t in (training, trainings[0]))
        assert torch.equal(weight, first)


def test_a_run_that_breaks_down_is_recorded(samples: Samples) -> None:
    config = RunConfig(section="s", seed=0, batch_norm=False, samples=60, max_steps=40, rate=1e20)
    with isolated():
        record = SECTION.run(config, samples)
    assert not record.finite
    assert record.steps[-1] < 40
    assert record.test_loss[-1] is None
    assert record.test_accuracy[-1] < 0.2


# --- the findings, on made-up records

Accuracy = dict[str, float]


def record(config: RunConfig, accuracy: Accuracy) -> Record:
    """Full training accuracy; the larger rate has the lower training loss and is the best."""
    assert config.samples is not None
    name = network_of(config)
    larger = config.rate == 0.3
    test = accuracy[name] + 0.001 * (config.seed - 2) - (0 if larger else 0.2)
    return Record(
        config=config,
        samples=config.samples,
        steps=(0, 10, 20, 30),
        train_accuracy=(0.1, 1.0, 1.0, 1.0),
        test_accuracy=(0.1, test - 0.01, test, test + 0.01),
        train_loss=(2.3, 0.1, 0.1, 0.01 if larger else 0.02),
        test_loss=(2.3, 0.5, 0.5, 0.5 if config.batch_norm else 1.25),
        finite=True,
    )


def judged(
    accuracy: Callable[[RunConfig], Accuracy], scale: Scale = FULL
) -> tuple[Findings, Verdict]:
    found = SECTION.reduce([record(c, accuracy(c)) for c in SECTION.plan(scale)])
    return found, SECTION.judge({m.name: m for m in found.measures})


HELPS: Accuracy = {"plain": 0.90, "batch norm": 0.93, "dropout": 0.92, "both": 0.93}
USELESS: Accuracy = {"plain": 0.93, "batch norm": 0.93, "dropout": 0.92, "both": 0.93}
BEATEN: Accuracy = {"plain": 0.90, "batch norm": 0.93, "dropout": 0.95, "both": 0.92}
ADDED: Accuracy = {"plain": 0.90, "batch norm": 0.93, "dropout": 0.91, "both": 0.95}


@pytest.mark.parametrize(
    ("small", "large", "kind"),
    [
        (HELPS, HELPS, "holds"),
        (USELESS, USELESS, "fails"),
        (BEATEN, BEATEN, "fails"),
        (ADDED, USELESS, "fails"),
        (HELPS, USELESS, "depends"),
        (ADDED, HELPS, "depends"),
    ],
)
def test_verdicts(small: Accuracy, large: Accuracy, kind: str) -> None:
    _, verdict = judged(lambda config: small if config.samples == 100 else large)
    assert verdict.kind == kind
    words = {"holds": "holds here", "fails": "does not hold here"}
    assert verdict.words == words.get(kind, "depends on the size of the training set")


def test_the_verdict_needs_clear_intervals() -> None:
    clear, unclear = [0.01, 0.02, 0.03, 0.02], [0.2, -0.1, 0.0, 0.1]

    def verdict(norm: list[float], gap: list[float], added: list[float]) -> str:
        values = {"norm": norm, "gap": gap, "instead": unclear, "added": added}
        return SECTION.judge(
            {f"{n}-100": measure(f"{n}-100", "", v) for n, v in values.items()}
        ).kind

    assert verdict(clear, clear, unclear) == "holds"
    assert verdict(unclear, clear, unclear) == "fails"
    assert verdict(clear, unclear, unclear) == "fails"
    assert verdict(clear, clear, clear) == "fails"


def test_findings_follow_from_the_records() -> None:
    found, verdict = judged(lambda _: HELPS)
    assert found.headline.startswith(
        "Batch norm changed the test accuracy of the plain network by +3.0 points (95% interval"
    )
    gain, gap, loss, _ = found.figures
    assert [series.name for series in gain.panels[1].series] == ["batch norm", "dropout", "both"]
    assert gain.panels[0].series[1].y == pytest.approx((0.02, 0.02, 0.02))
    assert gap.panels[0].series[0].y == pytest.approx((0.1, 0.1, 0.1))
    assert loss.panels[0].series[0].y == pytest.approx((2 / 3, 2 / 3, 2 / 3))
    known = {m.name: m for m in found.measures}
    assert known["norm-300"].mean == pytest.approx(0.03)
    assert known["gap-300"].mean == pytest.approx(0.03)
    assert known["instead-1000"].mean == pytest.approx(-0.01)
    assert known["added-100-batch-16"].mean == pytest.approx(0, abs=1e-9)
    assert known["dropout-100"].mean == pytest.approx(0.02)
    # The mean of the last three test losses is 0.5 with and 0.75 without batch norm.
    assert known["loss-100"].mean == pytest.approx(math.log(0.5 / 0.75))
    assert known["batch-size"].mean == pytest.approx(0, abs=1e-9)
    assert "with 100, 300 and 1000 training samples" in found.answer
    assert found.highlights[1].value == "7.0 ± 0.2%"
    assert found.summary.rows[0][:4] == (100, 16, "90.0 ± 0.2%", "93.0 ± 0.2%")
    assert "3.0 points" in verdict.reason


def test_the_rate_is_chosen_by_training_loss() -> None:
    found = outcomes_of([record(c, HELPS) for c in PLAN])
    assert {o.config.rate for n in found.settings.values() for o in n.values()} == {0.3}

    def swapped(config: RunConfig) -> Record:
        made = record(config, HELPS)
        loss = 1.0 if config.rate == 0.3 else 0.1
        return replace(made, train_loss=(2.3, 0.1, 0.1, loss))

    found = outcomes_of([swapped(c) for c in PLAN])
    assert {o.config.rate for n in found.settings.values() for o in n.values()} == {0.1}


def test_a_gain_that_differs_between_batch_sizes() -> None:
    def accuracy(config: RunConfig) -> Accuracy:
        return HELPS if config.batch_size == 16 else USELESS

    found, _ = judged(accuracy)
    known = {m.name: m for m in found.measures}
    assert known["batch-size"].mean == pytest.approx(0.03)
    assert known["norm-100"].mean == pytest.approx(0.015)
    assert "was larger than that at batch size 64" in found.answer


def test_one_seed_has_no_spread() -> None:
    found, verdict = judged(lambda _: HELPS, Scale((2,), quick=True))
    assert verdict.words == "holds here"
    text = found.headline + found.answer + verdict.reason
    assert "±" not in text
    assert "interval" not in text
    assert all("One seed" in figure.caption for figure in found.figures)
    assert found.summary.rows[0][2:] == ("90.0%", "93.0%", "92.0%", "93.0%")


def test_fewer_samples_than_asked_for_are_one_size() -> None:
    def small(config: RunConfig) -> Record:
        made = record(config, HELPS)
        return replace(made, samples=min(made.samples, 200))

    found = outcomes_of([small(c) for c in PLAN])
    assert found.sizes == (100, 200)
    assert len(found.values("test", "plain", 200)) == 5
    figures = SECTION.reduce([small(c) for c in PLAN]).figures
    assert figures[0].panels[0].series[0].x == (100, 200)


def test_findings_when_nothing_trains_and_every_run_breaks_down() -> None:
    def broken(config: RunConfig) -> Record:
        return Record(
            config=config,
            samples=config.samples or 0,
            steps=(0, 1 + config.seed),
            train_accuracy=(0.1, 0.0),
            test_accuracy=(0.1, 0.0),
            train_loss=(2.3, None),
            test_loss=(2.3, None),
            finite=False,
        )

    found = SECTION.reduce([broken(c) for c in PLAN])
    verdict = SECTION.judge({m.name: m for m in found.measures})
    assert verdict.kind == "fails"
    assert "With no size of the training set" in found.answer
    losses = [v for m in found.measures for v in m.values]
    assert np.isfinite(losses).all()
    column = [c.title for c in found.tables[0].columns].index("Test loss")
    assert found.tables[0].rows[0][column] == pytest.approx((2.3 + LARGEST_LOSS) / 2)
