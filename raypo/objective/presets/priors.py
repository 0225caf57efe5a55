"""Best against worst under other log-ratios: what the policy is measured against (MI-DPO, arXiv 2501.01544)."""

from __future__ import annotations

from raypo.objective.choices import LinearPrior, Link, TokenPrior, TransformPrior
from raypo.objective.presets.row import Row, compose
from raypo.objective.presets.sets import weighted

ROWS: dict[str, Row] = {
    "cpo": Row(
        meaning="DPO without a reference, with a likelihood term",
        paper="2401.08417",
        equation="TRL experimental/cpo; likelihood over response tokens",
        make=lambda p: compose(p, prior=LinearPrior(b=0), nll=p["nll"]),
        hyperparameters=("nll",),
    ),
    "simpo": Row(
        meaning="reference-free and length-normalised, with a target margin gamma",
        paper="2405.14734",
        equation="Eq. 6",
        make=lambda p: compose(p, prior=LinearPrior(b=0, eta=1, h=p["gamma"] / p["beta"])),
        hyperparameters=("gamma",),
    ),
    "ln-dpo": Row(
        meaning="DPO on length-normalised log-ratios",
        paper="2405.14734",
        equation="Appendix I; TRL sigmoid_norm",
        make=lambda p: compose(p, prior=LinearPrior(eta=1)),
    ),
    "r-dpo": Row(
        meaning="DPO that regularises length: the implicit reward gains a per token",
        paper="2403.19159",
        equation="implicit reward beta s + a |y|",
        make=lambda p: compose(p, prior=LinearPrior(rho=p["length_reward"] / p["beta"])),
        hyperparameters=("length_reward",),
    ),
    "h-dpo": Row(
        meaning="DPO with the policy's entropy weighted by a; below 1 sharpens",
        paper="2411.07595",
        equation="a beta lp - beta lr",
        make=lambda p: compose(p, prior=LinearPrior(a=p["entropy_weight"])),
        hyperparameters=("entropy_weight",),
    ),
    "rpo": Row(
        meaning="DPO with a likelihood term",
        paper="2404.19733",
        equation="Eq. 1; also 2405.16436",
        make=lambda p: compose(p, nll=p["nll"]),
        hyperparameters=("nll",),
    ),
    "tdpo1": Row(
        meaning="DPO with the forward KL along each response in its implicit reward",
        paper="2404.11999",
        equation="TDPO1; code 2a736ec",
        make=lambda p: compose(p, prior=TokenPrior(kl=1.0)),
    ),
    "tdpo2": Row(
        meaning="TDPO1 with a weight, and the preferred response's KL held constant",
        paper="2404.11999",
        equation="TDPO2; code 2a736ec",
        make=lambda p: compose(p, prior=TokenPrior(kl=p["kl_weight"], detach_preferred_kl=True)),
        hyperparameters=("kl_weight",),
    ),
    "tis-dpo": Row(
        meaning="DPO whose tokens are weighted by two contrastive models",
        paper="2410.04350",
        equation="code cbad7c1, without its KL term",
        make=lambda p: compose(p, prior=TokenPrior(weights="importance")),
    ),
    "ld-dpo": Row(
        meaning="DPO whose tokens beyond the set's shortest response count less",
        paper="2409.06411",
        equation="TRL ld_alpha; shortest of K",
        make=lambda p: compose(p, prior=TokenPrior(weights="length-desensitized", tail=p["tail"])),
        hyperparameters=("tail",),
    ),
    "sparsepo": Row(
        meaning="TDPO with trained sparse masks over the reference's hidden states",
        paper="2410.05102",
        equation="common mask; HEBO ee6112d",
        make=lambda p: compose(p, prior=TokenPrior(weights="learned-mask", kl=1.0, penalty=p["sparsity"])),
        hyperparameters=("sparsity",),
    ),
    "sparsepo-independent": Row(
        meaning="SparsePO whose log-ratios and KL have masks of their own",
        paper="2410.05102",
        equation="independent masks; HEBO ee6112d",
        make=lambda p: compose(
            p, prior=TokenPrior(weights="learned-mask", masks="independent", kl=1.0, penalty=p["sparsity"])
        ),
        hyperparameters=("sparsity",),
    ),
    "mapo": Row(
        meaning="TDPO with masks from the size of the reference's activations",
        paper="2410.05102",
        equation="MaPO",
        make=lambda p: compose(p, prior=TokenPrior(weights="activation-mask", kl=1.0)),
    ),
    "dpop": Row(
        meaning="DPO that penalises a preferred response that became less likely than under the reference",
        paper="2402.13228",
        equation="penalty inside the link",
        make=lambda p: compose(
            p, prior=TransformPrior(transform="positive", parameters={"penalty": p["preferred_penalty"]})
        ),
        hyperparameters=("preferred_penalty",),
    ),
    "chi-po": Row(
        meaning="DPO with a chi-squared penalty: the sequence ratio is added to its logarithm; margin clipped",
        paper="2407.13399",
        equation="phi(z) = z + log z, clip 2R",
        make=lambda p: compose(
            p,
            prior=TransformPrior(transform="chi"),
            link=Link(kind="clipped-logistic", parameters={"bound": p["bound"]}),
        ),
        hyperparameters=("bound",),
    ),
    "f-dpo-forward-kl": Row(
        meaning="DPO under a forward KL constraint",
        paper="2309.16240",
        equation="f'(u) = -1/u",
        make=lambda p: compose(p, prior=TransformPrior(transform="forward-kl")),
    ),
    "f-dpo-js": Row(
        meaning="DPO under a Jensen-Shannon constraint",
        paper="2309.16240",
        equation="f'(u) = log(2u/(1+u))",
        make=lambda p: compose(p, prior=TransformPrior(transform="jensen-shannon")),
    ),
    "f-dpo-alpha": Row(
        meaning="DPO under an alpha-divergence constraint",
        paper="2309.16240",
        equation="(u^(a-1) - 1)/(a-1); TRL f2cd577",
        make=lambda p: compose(p, prior=TransformPrior(transform="alpha-divergence", parameters={"order": p["order"]})),
        hyperparameters=("order",),
    ),
    "alphapo": Row(
        meaning="SimPO whose reward is a power of the mean probability",
        paper="2501.03884",
        equation="r = (1 - p^-a)/a",
        make=lambda p: compose(
            p, prior=TransformPrior(transform="alpha", parameters={"order": p["order"]}, h=p["gamma"] / p["beta"])
        ),
        hyperparameters=("order", "gamma"),
    ),
    "tr-dpo": Row(
        meaning="DPO whose reference follows the policy: a moving average, or a copy every so many steps",
        paper="2404.09656",
        equation="soft and hard update; training.reference_*",
        make=lambda p: compose(p, reference="moving"),
    ),
    "learned-prior": Row(
        meaning="W-MPO's set against a prior learned with the policy: the policy's moving average",
        paper="2501.01544",
        equation="zeta learned; see raypo.objective.prior",
        make=lambda p: compose(p, reference="moving", contrast=weighted("abs", 1), alpha=p["alpha"]),
        hyperparameters=("alpha",),
    ),
}
