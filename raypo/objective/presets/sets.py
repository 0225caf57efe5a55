"""Sets, rankings and levels: contrasts that use more than two responses."""

from __future__ import annotations

import math
from typing import Any, Literal

from raypo.objective.choices import Contrast, LinearPrior, Link
from raypo.objective.presets.row import ABOVE_MEAN, Hyper, Row, compose


def weighted(deviation: Literal["abs", "signed"], power: int, **rest: Any) -> Contrast:
    """Above the mean against the others, with W-MPO's deviations."""
    return Contrast(**({"kind": "above-mean", "deviation": deviation, "power": power} | rest))


def _power(p: Hyper) -> int:
    return p.whole("power")


ROWS: dict[str, Row] = {
    "mpo": Row(
        meaning="responses above the mean reward against the others, as sets",
        paper="2412.04628",
        equation="REFA (2412.16378) Eq. 5 with alpha 0",
        make=lambda p: compose(p, contrast=ABOVE_MEAN),
    ),
    "w-mpo": Row(
        meaning="MPO in which a response counts by its reward's distance from the mean",
        paper="2412.04628",
        equation="v4: absolute deviation added to each logit",
        make=lambda p: compose(p, contrast=weighted("abs", _power(p)), alpha=p["alpha"]),
        hyperparameters=("alpha", "power"),
    ),
    "w-mpo-signed": Row(
        meaning="W-MPO with signed deviations: a bad response counts less the worse it is",
        paper="2412.16378",
        equation="REFA Eq. 5",
        make=lambda p: compose(p, contrast=weighted("signed", _power(p)), alpha=p["alpha"]),
        hyperparameters=("alpha", "power"),
    ),
    "w-mpo-inside": Row(
        meaning="W-MPO with signed deviations multiplied by beta",
        paper="2412.16378",
        equation="REFA App. G.5: beta (s + alpha dev)",
        make=lambda p: compose(p, contrast=weighted("signed", _power(p), inside_beta=True), alpha=p["alpha"]),
        hyperparameters=("alpha", "power"),
    ),
    "mallows-mpo": Row(
        meaning="W-MPO whose scores are scaled by the prompt's dispersion, inside the pools",
        paper="2405.14953",
        equation="theta's psi over the sets of 2412.04628",
        make=lambda p: compose(p, dispersion="score", contrast=weighted("abs", _power(p)), alpha=p["alpha"]),
        hyperparameters=("alpha", "power"),
    ),
    "mallows-phi-pairs": Row(
        meaning="the Mallows-phi link over every pair of a response above the mean and one of the others",
        paper="2405.14953",
        equation="g_phi over chosen-by-rejected pairs",
        make=lambda p: compose(
            p, dispersion="link", contrast=Contrast(kind="chosen-by-rejected"), link=Link(kind="phi")
        ),
    ),
    "mallows-phi-sets": Row(
        meaning="the Mallows-phi link over the pools' means",
        paper="2405.14953",
        equation="g_phi over logmeanexp pools",
        make=lambda p: compose(
            p,
            dispersion="link",
            contrast=Contrast(kind="above-mean", pool="logmeanexp"),
            link=Link(kind="phi"),
        ),
    ),
    "mpo-top-bottom": Row(
        meaning="the best against the worst few, the middle left out: the on-policy recipe is 2 and 2 of 5",
        paper="2412.16378",
        equation="REFA section 5: top 2, bottom 2",
        make=lambda p: compose(
            p,
            contrast=Contrast(
                kind="top-vs-bottom",
                parameters={"top": p.whole("top"), "bottom": p.whole("bottom")},
                deviation="abs",
            ),
            alpha=p["alpha"],
        ),
        hyperparameters=("top", "bottom", "alpha"),
    ),
    "refa": Row(
        meaning="reference-free, length-normalised MPO whose negatives weigh gamma; its EOS terms are `refa-eos`",
        paper="2412.16378",
        equation="REFA without R",
        make=lambda p: compose(
            p,
            prior=LinearPrior(b=0, eta=1),
            contrast=Contrast(kind="above-mean", offset=math.log(p["negative_weight"])),
        ),
        hyperparameters=("negative_weight",),
    ),
    "all-pairs": Row(
        meaning="DPO over every ordered pair of the set, each prompt weighing 1",
        paper="2305.18290",
        equation="Eq. 7, weight 1/C",
        make=lambda p: compose(p, contrast=Contrast(kind="all-pairs")),
    ),
    "chosen-by-rejected": Row(
        meaning="DPO over every pair of a response above the mean and one of the others",
        paper="2305.18290",
        equation="Eq. 7, weight 1/(|P||N|)",
        make=lambda p: compose(p, contrast=Contrast(kind="chosen-by-rejected")),
    ),
    "lipo": Row(
        meaning="DPO over every pair with LambdaLoss weights of the current ranking",
        paper="2402.01878",
        equation="LiPO-lambda",
        make=lambda p: compose(p, contrast=Contrast(kind="lambda-pairs")),
    ),
    "mpo-levels": Row(
        meaning="sets above and below each of several cuts by rank: ordinal levels",
        paper="2412.04628",
        equation="MPO at each cut, weight 1/cuts",
        make=lambda p: compose(p, contrast=Contrast(kind="levels", parameters={"levels": p.whole("levels")})),
        hyperparameters=("levels",),
    ),
    "plackett-luce": Row(
        meaning="likelihood of the whole ranking: each response against all that are strictly worse",
        paper="2305.18290",
        equation="Appendix A.3",
        make=lambda p: compose(p, contrast=Contrast(kind="plackett-luce")),
    ),
    "one-vs-rest": Row(
        meaning="the best against all worse responses: InfoNCA at temperature 0",
        paper="2402.05369",
        equation="InfoNCA, T -> 0",
        make=lambda p: compose(p, contrast=Contrast(kind="one-vs-rest")),
    ),
    "infonca": Row(
        meaning="cross-entropy from the softmax of rewards to the softmax of scores",
        paper="2402.05369",
        equation="InfoNCA; code cbb9248",
        make=lambda p: compose(p, contrast=Contrast(kind="infonca", parameters={"temperature": p["temperature"]})),
        hyperparameters=("temperature",),
    ),
    "exo-rewards": Row(
        meaning="reverse KL from the softmax of rewards to the softmax of scores",
        paper="2402.00856",
        equation="EXO-rw; code a8ab360",
        make=lambda p: compose(
            p,
            contrast=Contrast(kind="each-vs-rest", parameters={"temperature": p["temperature"]}),
            link=Link(kind="soft-exo"),
        ),
        hyperparameters=("temperature",),
    ),
    "ampo-bottom": Row(
        meaning="the best against the few worst responses",
        paper="2502.18293",
        equation="bottom-k",
        make=lambda p: _ampo(p, "bottom"),
        hyperparameters=("keep",),
    ),
    "ampo-coreset": Row(
        meaning="the best against the worst response of each cluster of embeddings",
        paper="2502.18293",
        equation="coreset",
        make=lambda p: _ampo(p, "coreset"),
        hyperparameters=("keep",),
    ),
    "ampo-opt-select": Row(
        meaning="the best against responses that cover the bad ones: weighted medoids of embeddings",
        paper="2502.18293",
        equation="OptSelect, local search",
        make=lambda p: _ampo(p, "opt-select"),
        hyperparameters=("keep",),
    ),
}


def _ampo(p: Hyper, select: str) -> Any:
    contrast: dict[str, Any] = {"kind": "one-vs-rest", "select": select, "keep": p.whole("keep")}
    return compose(p, contrast=Contrast(**contrast))
