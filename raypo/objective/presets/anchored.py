"""A response against a given score, the anchor: 0, or what `terms["anchor"]` says."""

from __future__ import annotations

from raypo.objective.choices import Contrast, Link
from raypo.objective.presets.row import Row, compose

BOTH = Contrast(kind="anchored", parameters={"chosen_weight": 1.0, "rejected_weight": 1.0})

ROWS: dict[str, Row] = {
    "nca": Row(
        meaning="each response against 0 by the softmax of its reward, and 0 against each response",
        paper="2402.05369",
        equation="NCA; code cbb9248",
        make=lambda p: compose(p, contrast=Contrast(kind="anchored-all", parameters={"temperature": p["temperature"]})),
        hyperparameters=("temperature",),
    ),
    "bco-pair": Row(
        meaning="the best above 0 and the worst below, each by the logistic link",
        paper="2404.04656",
        equation="TRL bco_pair: delta 0",
        make=lambda p: compose(p, contrast=BOTH),
    ),
    "bco": Row(
        meaning="the best above the running mean of implicit rewards and the worst below",
        paper="2404.04656",
        equation="delta: running mean",
        make=lambda p: compose(p, contrast=BOTH, anchor="running-mean"),
    ),
    "sppo-hard": Row(
        meaning="the best's log-ratio is regressed to 1/(2 beta), the worst's to -1/(2 beta)",
        paper="2405.00675",
        equation="TRL sppo_hard",
        make=lambda p: compose(
            p, contrast=BOTH, link=Link(kind="squared", parameters={"target_margin": 0.5, "scale": p["beta"]})
        ),
    ),
    "apo-zero": Row(
        meaning="the best becomes likelier and the worst less likely than under the reference",
        paper="2408.06266",
        equation="APO-zero",
        make=lambda p: compose(p, contrast=BOTH, link=Link(kind="sigmoid")),
    ),
    "apo-down": Row(
        meaning="both become less likely, the worst more so: for data worse than the policy",
        paper="2408.06266",
        equation="APO-down",
        make=lambda p: compose(p, contrast=Contrast(kind="anchor-chosen"), link=Link(kind="sigmoid")),
    ),
    "kto": Row(
        meaning="desirable responses above, others below, a divergence estimated from mismatched pairs; labels 1 and 0",
        paper="2402.01306",
        equation="Eq. 8; TRL f2cd577",
        make=lambda p: compose(
            p,
            contrast=Contrast(
                kind="labelled",
                parameters={name: p[name] for name in ("desirable_weight", "undesirable_weight")},
            ),
            link=Link(kind="sigmoid"),
            anchor="mismatched-pairs",
        ),
        hyperparameters=("desirable_weight", "undesirable_weight"),
    ),
}
