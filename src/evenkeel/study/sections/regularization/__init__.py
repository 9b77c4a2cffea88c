"""Section ``regularization``: the train-test gap with batch norm, dropout, both, and neither."""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study._network import INITIALISATION
from evenkeel.study._statistics import listing
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.regularization._outcomes import LARGEST_LOSS, LAST
from evenkeel.study.sections.regularization._plan import DROPOUT, FULL, NAME, QUICK, plan
from evenkeel.study.sections.regularization._run import RECORDED, Record, run
from evenkeel.study.sections.regularization._verdict import RULE, judge
from evenkeel.study.sections.regularization._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Regularization",
    claim="Batch normalization regularizes, so that dropout can be left out.",
    method=(
        (
            f"{listing(FULL.steps)} training samples are drawn at random for each seed, and four "
            "networks of two hidden layers (128 and 64 units, ReLU) are trained on them: plain, "
            f"with batch norm before each ReLU, with dropout of {DROPOUT:.0%} after each ReLU, "
            f"and with both; batch sizes {listing(FULL.batch_sizes)}. Within a setting all make "
            f"the same number of steps ({listing(FULL.steps.values())} for the sizes above), "
            f"enough for nearly full training accuracy. Initialisation: {INITIALISATION}."
        ),
        (
            "Plain SGD without weight decay; all four networks have the same learning rates to "
            f"choose from ({listing(FULL.rates)}), and each takes the one with the lowest final "
            "training loss in the setting, averaged over seeds, so that the test samples have no "
            f"say. Results are the mean of the last {LAST} of {RECORDED} records of a run, all in "
            f"inference mode; a loss that is not finite counts as {LARGEST_LOSS:,.0f}. A quick "
            "look takes "
            f"{listing(QUICK.steps)} samples and the rate {listing(QUICK.rates)} alone."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, arXiv:1502.03167",
            says="Makes the claim: a sample is seen together with others of its batch, which "
            "helps generalization, and dropout could be removed or weakened.",
        ),
        Paper(
            cite="Luo et al. 2019",
            title="Towards Understanding Regularization in Batch Normalization",
            where="ICLR, arXiv:1809.00846",
            says="Decomposes batch norm into population normalization and a decay of gamma, which "
            "is the stronger the smaller the batch is.",
        ),
        Paper(
            cite="Bjorck et al. 2018",
            title="Understanding Batch Normalization",
            where="NeurIPS, arXiv:1806.02375",
            says="Attributes the better generalization to the larger learning rates that batch "
            "norm allows: at the same small rate the networks generalize alike.",
        ),
        Paper(
            cite="Li et al. 2019",
            title="Understanding the Disharmony between Dropout and Batch Normalization by "
            "Variance Shift",
            where="CVPR, arXiv:1801.05134",
            says="Dropout changes the variance between training and inference while batch norm "
            "keeps that of training, so together they often do worse than batch norm alone.",
        ),
        Paper(
            cite="Zhang et al. 2019",
            title="Fixup Initialization: Residual Learning Without Normalization",
            where="ICLR, arXiv:1901.09321",
            says="Residual networks without normalization generalize as well as with it, if they "
            "are initialised suitably and regularized in other ways.",
        ),
        Paper(
            cite="Santurkar et al. 2018",
            title="How Does Batch Normalization Help Optimization?",
            where="NeurIPS, arXiv:1805.11604",
            says="Explains the success of batch norm by a smoother loss, that is, by optimization "
            "rather than by regularization.",
        ),
    ),
    plan=plan,
    run=run,
    record=Record,
    reduce=reduce,
    judge=judge,
)
