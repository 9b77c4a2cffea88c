"""Section ``scale-and-shift``: what learning gamma and beta gives, and what their start does.

It also holds their gradients and updates, as torch makes them, against the written formulas.
"""

from __future__ import annotations

from typing import Final

from evenkeel.report import Paper
from evenkeel.study.sections._section import Section
from evenkeel.study.sections.scale_and_shift._plan import NAME, RATES, plan
from evenkeel.study.sections.scale_and_shift._records import ScaleRecord
from evenkeel.study.sections.scale_and_shift._run import run
from evenkeel.study.sections.scale_and_shift._verdict import RULE, judge
from evenkeel.study.sections.scale_and_shift._words import reduce

SECTION: Final = Section(
    name=NAME,
    title="Scale and shift",
    claim=(
        "Learning the scale gamma and the shift beta gives back what normalization takes away: "
        "the network ends better than with both fixed, wherever they start."
    ),
    method=(
        (
            "The network of three hidden layers (256, 128 and 64 units, batch norm before each "
            "ReLU) is trained in batches of 64 with gamma starting at 0, 0.1, 1 or 10 and beta "
            "at -1, 0 or 1, the same start in all layers; with both fixed at 1 and 0; and with "
            "nothing but gamma and beta learned. Weights and batches of one seed are the same "
            "in all of them. Everything gets the same learning rates "
            f"({', '.join(f'{rate:g}' for rate in RATES['sgd'])} for SGD without momentum, "
            f"{', '.join(f'{rate:g}' for rate in RATES['adam'])} for Adam; a quick study takes "
            "the larger one) and is judged at its best. Accuracy is measured with the running "
            "averages."
        ),
        (
            "At four steps of each run the input of every batch-norm layer and the gradient that "
            "arrives at its output are noted. From them, gamma's and beta's gradients are "
            "computed in float64 by the written formula (equation 9 of docs/math.md) and held "
            "against autograd's float32 gradients; the bound on the difference is k u sum|dy "
            "xhat| for gamma and k u sum|dy| for beta, with k = 16 and u = 2^-24 "
            "(docs/numerics.md). The update that torch's optimizer makes of them is held against "
            "the written rule (equation 14 for SGD, Algorithm 1 of Kingma and Ba for Adam), "
            "within a bound that counts one rounding for each operation. Both only look on."
        ),
    ),
    rule=RULE,
    papers=(
        Paper(
            cite="Ioffe & Szegedy 2015",
            title="Batch Normalization: Accelerating Deep Network Training by Reducing Internal "
            "Covariate Shift",
            where="ICML, arXiv:1502.03167",
            says="Gamma and beta are introduced because normalizing alone may change what a layer "
            "can represent; with them it can represent the identity.",
        ),
        Paper(
            cite="Frankle, Schwab & Morcos 2021",
            title="Training BatchNorm and Only BatchNorm: On the Expressive Power of Random "
            "Features in CNNs",
            where="ICLR, arXiv:2003.00152",
            says="Deep residual networks in which only gamma and beta are learned reach 82% on "
            "CIFAR-10, and about a third of the random features get switched off.",
        ),
        Paper(
            cite="Davis & Frank 2022",
            title="Revisiting Batch Norm Initialization",
            where="ECCV, arXiv:2110.13989",
            says="After training, gamma and beta are found not far from their usual start, and a "
            "smaller initial gamma, with other changes, improves the accuracy.",
        ),
        Paper(
            cite="Goyal et al. 2017",
            title="Accurate, Large Minibatch SGD: Training ImageNet in 1 Hour",
            where="arXiv:1706.02677",
            says="Gamma starts at 1 except in the last batch norm of each residual block, where "
            "it starts at 0, so that the block is the identity at first.",
        ),
        Paper(
            cite="Zhang, Dauphin & Ma 2019",
            title="Fixup Initialization: Residual Learning Without Normalization",
            where="ICLR, arXiv:1901.09321",
            says="Without normalization, a learned scalar scale in each branch and scalar biases, "
            "with a suitable initialization, are enough to train deep residual networks.",
        ),
        Paper(
            cite="Xu et al. 2019",
            title="Understanding and Improving Layer Normalization",
            where="NeurIPS, arXiv:1911.07013",
            says="For layer normalization the learned scale and shift do not help in most cases "
            "and raise the risk of overfitting.",
        ),
        Paper(
            cite="Kingma & Ba 2015",
            title="Adam: A Method for Stochastic Optimization",
            where="ICLR, arXiv:1412.6980",
            says="The update rule (Algorithm 1) that torch's Adam is held against.",
        ),
    ),
    plan=plan,
    run=run,
    record=ScaleRecord,
    reduce=reduce,
    judge=judge,
)
