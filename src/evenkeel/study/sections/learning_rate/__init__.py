"""Section ``learning-rate``: which rates train, how fast, and how well."""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study._network import INITIALISATION
from evenkeel.study._records import OUTCOME_RULE, RunRecord
from evenkeel.study._run import run
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.learning_rate._plan import NAME, TARGET, plan
from evenkeel.study.sections.learning_rate._verdict import RULE, judge
from evenkeel.study.sections.learning_rate._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Learning rate",
    claim=(
        "With batch normalization a network trains at larger learning rates, over a wider range "
        "of them, and in fewer steps."
    ),
    method=(
        (
            "Two networks with ReLU, one of three hidden layers (256, 128 and 64 units) and one "
            "of eight (64 units each), are trained with batch norm between each linear layer and "
            "its ReLU, and without. Both start from the same initialisation "
            f"({INITIALISATION}) and see the same grid of learning rates: "
            "0.001 to 100 for SGD without momentum, 0.00001 to 1 for Adam, one or two per "
            "decade. Batches of 64, a constant rate, no weight decay, no dropout."
        ),
        (
            f"A rate counts as usable if every seed reaches {TARGET:.0%} test accuracy at some "
            "step; a network's best rate is the one with the highest best accuracy, averaged over "
            "seeds. "
            "Accuracy is measured with the running statistics, every 5 steps up to step 100."
        ),
        OUTCOME_RULE,
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, arXiv:1502.03167",
            says="An Inception network with batch norm trained at rates 5 to 30 times larger and "
            "reached the same accuracy in 14 times fewer steps.",
        ),
        Paper(
            cite="Bjorck et al. 2018",
            title="Understanding Batch Normalization",
            where="NeurIPS, arXiv:1806.02375",
            says="The larger usable rate explains most of the gain: at a small rate a network "
            "with batch norm does hardly better than one without.",
        ),
        Paper(
            cite="Zhang et al. 2019",
            title="Fixup Initialization: Residual Learning Without Normalization",
            where="ICLR, arXiv:1901.09321",
            says="With a suitable initialisation deep residual networks train at large rates "
            "without any normalization.",
        ),
    ),
    plan=plan,
    run=run,
    record=RunRecord,
    reduce=reduce,
    judge=judge,
)
