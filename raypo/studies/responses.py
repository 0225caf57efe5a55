"""Does the bias of what is learned fall as 1/sqrt(n) over n responses per prompt, and where does that break?

A response has an attribute that its reward does not show (a style, a topic). The theorem (arXiv 2412.04628): responses
are independent, attributes have finite variance, and training drives the policy to the responses it was given; then the
expected bias of the policy's mean attribute is at most sigma / sqrt(n), slope -1/2 of its logarithm over log n.

For each n a policy over a prompt's n responses is trained through `set_loss`; its bias is the distance of its mean
attribute from the truth. Broken assumptions: attributes without variance (Student t of 1.5 degrees of freedom, Cauchy),
responses that share a part. Also: seconds and memory of the real training step, in a process of its own per n.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from raypo.bench.train import Plan, make_inputs, own_case, run_own
from raypo.evaluation.significance import Floats
from raypo.objective import AnyObjective, preset, set_loss
from raypo.report import plots
from raypo.report.plots import Figure
from raypo.studies.arena import generator
from raypo.studies.result import CONFIDENCE, Drawing, Result, Row, Setting, Verdict, adjusted, compared, differs
from raypo.studies.sentences import grouped

COUNTS = (2, 3, 5, 10, 20, 50, 100, 200, 512)
STEPS, DONE = 150, 0.01
"""Steps, each of 0.1 / beta for the fastest log-odds of a prompt; it is done when its gradient fell to this share."""
TIMED = 14
"""Steps of a size whose seconds are taken; the benchmark leaves the first two out."""
CLAIMED, TOLERANCE = -0.5, 0.1
"""The slope that is claimed, and how far from it a slope may lie and still be called that."""

QUICK = 7
"""How many of COUNTS are trained on with --quick: up to 100 responses."""

SHARED = 0.3
"""Correlation of the responses of a prompt where they share a part."""

METHODS: dict[str, AnyObjective] = {
    "mpo": preset("mpo", beta=0.1),
    "w-mpo, beta 0.1": preset("w-mpo", beta=0.1, alpha=1.0),
    "w-mpo, beta 1": preset("w-mpo", beta=1.0, alpha=1.0),
    "dpo": preset("dpo", beta=0.1, label_smoothing=0.0),
}
PLAIN = "mean of responses"
LAWS = ("normal", "uniform", "t, 1.5 degrees", "cauchy", f"normal, correlation {SHARED:g}")


def attributes(law: str, shape: tuple[int, ...], rng: torch.Generator) -> Tensor:
    """Attributes with mean or median 0 [S, prompts, n], independent unless the law says otherwise."""
    normal = torch.randn(shape, generator=rng)
    if law == "normal":
        return normal
    if law == "uniform":
        return (torch.rand(shape, generator=rng) - 0.5) * math.sqrt(12)
    if law.startswith("normal, corr"):
        return SHARED**0.5 * torch.randn((*shape[:-1], 1), generator=rng) + (1 - SHARED) ** 0.5 * normal
    degrees = 1.5 if law.startswith("t") else 1.0
    chi = torch._standard_gamma(torch.full(shape, degrees / 2), generator=rng)
    return normal / (2 * chi / degrees).sqrt()


def trained(objective: AnyObjective, rewards: Tensor) -> Tensor:
    """Probabilities of a policy over each prompt's n responses after training from uniform: [B, n]."""
    logits = torch.zeros_like(rewards)
    everyone = torch.ones_like(rewards, dtype=torch.bool)
    reference = torch.full_like(rewards, -math.log(rewards.shape[1]))
    first = None
    for _ in range(STEPS):
        logits.requires_grad_(True)
        found = set_loss(
            objective,
            policy_logps=torch.log_softmax(logits, -1),
            reference_logps=reference,
            lengths=torch.ones_like(rewards, dtype=torch.long),
            rewards=rewards,
            mask=everyone,
        )
        (gradient,) = torch.autograd.grad(found.loss.sum(), logits)
        size = gradient.abs().amax(-1, keepdim=True)
        first = size if first is None else first
        moving = size > DONE * first
        if not bool(moving.any()):
            break
        step = 0.1 / objective.beta * gradient / size.clamp_min(1e-30)
        logits = logits.detach() - torch.where(moving, step, 0.0)
    return torch.softmax(logits.detach(), -1)


def biases(law: str, method: str | None, counts: tuple[int, ...], seeds: int, prompts: int, seed: int) -> Floats:
    """Mean absolute bias of each seed at each n, [seeds, len(counts)].

    Args:
        law: of attributes, one of LAWS.
        method: that trains; None: the plain mean over the responses, the theorem's own core.
        counts: each n.
        seeds: S.
        prompts: per seed.
        seed: of all draws.
    """
    found = []
    for count in counts:
        rng = generator(seed, f"{count} responses")
        attribute = attributes(law, (seeds, prompts, count), rng)
        if method is None:
            mean = attribute.mean(-1)
        else:
            rewards = torch.randn(seeds * prompts, count, generator=rng)
            mean = (trained(METHODS[method], rewards).view_as(attribute) * attribute).sum(-1)
        found.append(mean.abs().mean(-1).double().numpy())
    return np.stack(found, axis=1)


def slopes(bias: Floats) -> Floats:
    """Least-squares slope of log bias over log n for each seed, [seeds]; the first so many of COUNTS."""
    x = np.log(COUNTS[: bias.shape[1]])
    x = x - x.mean()
    return np.asarray((np.log(bias) @ x) / (x @ x), dtype=np.float64)


def slope_row(condition: str, found: Floats, prompts: int) -> Row:
    """Slopes of each seed, tested against the claimed one; what matters is TOLERANCE off it.

    To confirm, both bounds must be told apart, so that `power` is the least chance of that where the slope is CLAIMED:
    each is missed with chance 1 - power of one test, and either with 2 (1 - power) at most.
    """
    row = compared(condition, SLOPE, found, n=prompts, matters=TOLERANCE, against=CLAIMED)
    one = row.means
    assert one is not None  # `compared` gives it

    def both(confidence: float) -> tuple[float, float]:
        chance, least = one(confidence)
        return _both(chance), least

    return replace(row, power=_both(row.power), means=both)


def _both(power: float) -> float:
    return max(0.0, 2 * power - 1) if math.isfinite(power) else power


@dataclass(frozen=True)
class Cost:
    """Of a step on one set: seconds of each repetition, and the peak of its process in GiB."""

    seconds: Floats
    peak: float


def cost(counts: tuple[int, ...], prompt: int = 32, response: int = 8) -> dict[int, Cost]:
    """Cost of a real optimizer step on one set of n responses, each in a process of its own."""
    found = {}
    with TemporaryDirectory() as place:
        folder = Path(place)
        make_inputs(folder, max(counts), prompt, response)
        for count in counts:
            case = own_case(Plan(steps=TIMED, threads=1), responses=count)
            answer = run_own(folder, case)
            found[count] = Cost(np.array(answer["seconds"], dtype=np.float64), answer["peak_bytes"] / 2**30)
    return found


def cost_rows(spent: Mapping[int, Cost]) -> list[Row]:
    """Median seconds, with the interval between two of them, and peaks. Nothing is claimed, so nothing is tested.

    The interval is that of the sign test (Conover, Practical Nonparametric Statistics, section 3.2): none below six
    steps. It is over the steps of one process, which does not show how processes differ.
    """
    rows = []
    for count, one in spent.items():
        name = f"w-mpo, {count} responses"
        middle = float(np.median(one.seconds))
        bounds = stats.quantile_test(one.seconds, p=0.5).confidence_interval(CONFIDENCE)
        rows.append(Row(name, "seconds per step", len(one.seconds), 1, middle, float(bounds.low), float(bounds.high)))
        rows.append(Row(name, "peak GiB", 1, 1, one.peak, float("nan"), float("nan")))
    return rows


def run(setting: Setting) -> Result:
    """Slopes of every law and method, and the cost of a step."""
    seeds, prompts = setting.size(20, 60), setting.size(20, 40)
    curves: dict[str, Floats] = {}
    rows: list[Row] = []
    trained_on = COUNTS[: setting.size(QUICK, len(COUNTS))] if setting.quick else COUNTS
    # outside of the assumptions one objective, beside the plain mean: that what breaks is not the mean's alone
    cases = [(law, None) for law in LAWS] + [("normal", name) for name in METHODS] + [(law, "mpo") for law in OUTSIDE]
    for law, method in cases:
        name = f"{law}, {method or PLAIN}"
        counts = COUNTS if method is None else trained_on
        curves[name] = biases(law, method, counts, seeds, prompts, setting.seed)
        rows.append(slope_row(name, slopes(curves[name]), prompts))
    most = setting.size(128, 512)
    stepped = tuple(count for count in (2, 8, 32, 128, 512) if count <= most)
    spent = cost(stepped)
    rows = adjusted(rows) + cost_rows(spent)
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows, spent), finding(rows, spent)],
        headline=claimed(rows),
        rule=RULE,
        drawings=[
            Drawing(
                "bias",
                "Mean absolute bias over responses per prompt; the dashed line falls as 1/sqrt(n).",
                _figure(curves),
            ),
        ],
        settings={
            "prompts": prompts,
            "counts": {PLAIN: COUNTS, "trained": trained_on},
            "steps": STEPS,
            "cost": {"counts": stepped, "prompt": 32, "response": 8},
        },
    )


SLOPE = "log-log slope of bias"


def claimed(rows: list[Row]) -> list[Row]:
    """MPO and W-MPO under the theorem's own assumptions."""
    decisive = [f"normal, {name}" for name in METHODS if "mpo" in name]
    return [row for row in rows if row.measure == SLOPE and row.condition in decisive]


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [at_claim(row) for row in claimed(rows)]


RULE = (
    f"A slope confirms the claim when its whole interval lies within {TOLERANCE:g} of {CLAIMED:g}, and refutes it when "
    "its whole interval lies outside. Of the adjusted p that the slope is one of these bounds, both must be below 0.05 "
    "to confirm, and that of the nearer bound to refute. The claim holds when all slopes of the headline confirm it, "
    "holds in part when some confirm and others refute it, fails when some refute it and none confirms it, and is "
    "undecided otherwise."
)


def at_claim(row: Row) -> Verdict:
    """Holds: the interval lies within the tolerance around the claimed slope. Fails: wholly outside. Else undecided.

    A 95 % interval within the tolerance is an equivalence test at 2.5 % on each side (Schuirmann, Journal of
    Pharmacokinetics and Biopharmaceutics 15 (1987), 657-680); that other slopes are tested beside it is in the row's
    adjusted p at the bounds. Within, the slope must differ from both of them, and outside from the nearer one.
    """
    low, high = CLAIMED - TOLERANCE, CLAIMED + TOLERANCE
    off_low, off_high = differs(row.p_down), differs(row.p_up)
    if low <= row.low and row.high <= high:
        return "holds" if off_low and off_high else "undecided"
    return "fails" if (row.high < low and off_low) or (row.low > high and off_high) else "undecided"


WORDS = {"holds": "", "fails": " (not -1/2)", "undecided": " (undecided)"}


PACES = (
    "falls as 1/sqrt(n)",
    "falls faster",
    "falls more slowly",
    "does not fall",
    "grows",
    "has a slope that is undecided",
)
OUTSIDE = {LAWS[2]: "tails of a t of 1.5 degrees", LAWS[3]: "Cauchy tails", LAWS[4]: f"a correlation of {SHARED:g}"}


def pace(row: Row) -> str:
    """What a slope says of its bias: one of PACES."""
    decided = at_claim(row)
    if decided != "fails":
        return PACES[0] if decided == "holds" else PACES[-1]
    if row.high < CLAIMED:
        return PACES[1]
    return PACES[2] if row.high < 0 else PACES[4] if row.low > 0 else PACES[3]


def plain(rows: list[Row], spent: Mapping[int, Cost]) -> str:
    """How each bias falls, under the assumptions and outside of them, and how a step's cost grows, in words."""
    paces = {row.condition: pace(row) for row in rows if row.measure == SLOPE}

    def told(called: Mapping[str, str], link: str) -> str:
        said = {name: f"{paces[one]} {link}" for one, name in called.items() if one in paces}
        return grouped(said, [f"{one} {link}" for one in PACES])

    trained_on = {f"normal, {name}": name.replace(", ", " at ") for name in METHODS}
    plainly, by_mpo = ({f"{law}, {by}": name for law, name in OUTSIDE.items()} for by in (PLAIN, "mpo"))
    least, most, times = _grown(spent)
    return (
        f"Under the theorem's assumptions the bias {told(trained_on, 'with')}; outside of them that of the plain mean "
        f"{told(plainly, 'under')}, and that of a policy trained with mpo {told(by_mpo, 'under')}; a step with "
        f"{most // least} times the responses takes {times:.1f} times as long and "
        f"{spent[most].peak / spent[least].peak:.1f} times the memory."
    )


def _grown(spent: Mapping[int, Cost]) -> tuple[int, int, float]:
    """The least and the greatest count whose step was timed, and how many times as long the latter takes."""
    least, most = min(spent), max(spent)
    return least, most, float(np.median(spent[most].seconds) / np.median(spent[least].seconds))


def finding(rows: list[Row], spent: Mapping[int, Cost]) -> str:
    """Slopes by law and by objective, then what a step costs."""
    told = [f"{row.condition} {row.told(2)}{WORDS[at_claim(row)]}" for row in rows if row.measure == SLOPE]
    least, most, ratio = _grown(spent)
    return (
        f"Log-log slope of bias over responses per prompt; the claim is -1/2, within "
        f"{TOLERANCE:g}. {'; '.join(told)}. A step with "
        f"{most} responses takes {ratio:.1f} times as long as with {least} ({most // least} times as many), at "
        f"{spent[most].peak:.2f} against {spent[least].peak:.2f} GiB."
    )


def _figure(curves: dict[str, Floats]) -> Figure:
    figure, ax = plots.axes(6.4, 4.2)
    for index, (name, values) in enumerate(curves.items()):
        colour = plots.COLOURS[index % len(plots.COLOURS)]
        style = "-" if PLAIN in name else "--"
        ax.plot(
            COUNTS[: values.shape[1]],
            values.mean(0),
            color=colour,
            linestyle=style,
            marker="o",
            markersize=3,
            label=name,
        )
    ax.plot(COUNTS, [0.8 / math.sqrt(n) for n in COUNTS], color="0.4", linestyle=":", label="0.8 / sqrt(n)")
    ax.set_xscale("log")
    ax.set_yscale("log")
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter("{x:g}")  # powers of ten are formulas otherwise, which plots print as text
    ax.set_xlabel("responses per prompt")
    ax.set_ylabel("mean absolute bias")
    ax.legend(frameon=False, fontsize=7)
    return figure
