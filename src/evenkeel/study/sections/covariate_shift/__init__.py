"""Section ``covariate-shift``: do layers' inputs hold still with batch norm, and is that why?"""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study._network import INITIALISATION
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.covariate_shift._noise import REACH
from evenkeel.study.sections.covariate_shift._plan import LAG, NAME, PROBE, SIZES, plan
from evenkeel.study.sections.covariate_shift._run import ShiftRecord, run
from evenkeel.study.sections.covariate_shift._verdict import RULE, judge
from evenkeel.study.sections.covariate_shift._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Internal covariate shift",
    claim="Batch normalization works because it reduces internal covariate shift.",
    method=(
        (
            "The network with hidden layers of 256, 128 and 64 units and ReLU is trained with SGD "
            "without momentum, batches of 64, with batch norm between each linear layer and its "
            f"ReLU and without, from the same weights ({INITIALISATION}), on the same batches and "
            "the same grid of learning rates. All measurements are made on copies of the network, "
            "in training mode, and on the same runs; they change neither weights nor running "
            "statistics."
        ),
        (
            f"(a) Drift. At most {PROBE} fixed test samples go through the network, and for every "
            "unit j of the input of a linear layer (the activations of the layer before) mean "
            "m_j and standard deviation s_j over the samples are taken. Between two steps the "
            "drift is sqrt(sum_j [(m'_j - m_j)^2 + (s'_j - s_j)^2] / sum_j s_j^2): 1 means that "
            "the units moved by as much as they vary. It is taken over the last "
            f"{LAG} steps, and since the start. On any batch, batch norm sets mean and deviation "
            "of what enters each ReLU to beta and gamma, so with it this drift is small almost by "
            "construction."
        ),
        (
            "(b) Change of gradients, definition 2.1 of Santurkar et al.: the gradient of a "
            "layer's weights before and after the update of the layers below it, on the same "
            "batch, with the layer itself and those above as before. Shown are the L2 norm of the "
            "difference over the norm of the gradient before, and the cosine between the two."
        ),
        (
            "(c) Smoothness, as in section 3 of the same paper: the network is moved along the "
            f"negative gradient of a batch by step sizes of {SIZES[0]:g} to {SIZES[-1]:g}, the "
            "same for all runs. Shown are the largest minus the smallest loss of that batch, the "
            "largest change of the gradient relative to its norm, and the largest change of the "
            "gradient over the distance moved (effective beta-smoothness)."
        ),
        (
            "Noisy batch norm, after an experiment in the same paper: after each batch-norm layer "
            f"every unit is multiplied by a number from {1 - REACH:g} to {1 + REACH:g} and "
            f"shifted by one from {-REACH:g} to {REACH:g}, drawn anew at every step. Its inputs "
            "drift on purpose. Here all samples of a batch share the numbers of a unit; in the "
            "paper each sample also gets noise of its own."
        ),
        (
            "A quantity is averaged over steps and layers by its geometric mean; single values "
            "are kept between 1e-6 and 1e6, and a run that had no finite value counts as 1e6. A "
            "run that was not finite counts as a mean training loss of 1000."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, arXiv:1502.03167",
            says="Named internal covariate shift, the change of the layers' input distributions "
            "while the layers before them train, and proposed batch norm in order to reduce it.",
        ),
        Paper(
            cite="Santurkar et al. 2018",
            title="How Does Batch Normalization Help Optimization?",
            where="NeurIPS, arXiv:1805.11604",
            says="Found that batch norm need not reduce the shift, that networks with noise after "
            "batch norm shift more and still train well, and that batch norm makes the loss and "
            "its gradient vary less along the gradient.",
        ),
        Paper(
            cite="Bjorck et al. 2018",
            title="Understanding Batch Normalization",
            where="NeurIPS, arXiv:1806.02375",
            says="Explains the gain by larger usable rates: without batch norm, activations grow "
            "out of hand with depth and large steps diverge.",
        ),
    ),
    plan=plan,
    run=run,
    record=ShiftRecord,
    reduce=reduce,
    judge=judge,
)
