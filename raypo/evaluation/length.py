"""Length-controlled win rate: what a policy would win if its responses were as long as the other's.

The regression of AlpacaEval 2 (arXiv 2404.04475, equation 1; github.com/tatsu-lab/alpaca_eval, glm_winrate.py), one
logistic GLM per policy m against one baseline b:

    logit q(m wins on x) = theta + phi tanh(delta / std(delta)) + psi gamma_x      delta: length of m's less b's

    controlled win rate  = mean over x of q with delta = 0

theta is the policy's own strength, phi its gain from length, gamma_x how easy the prompt is for everybody. gamma_x
comes from one joint regression with psi = 1 over all *other* policies: the paper fits it over all of its hundred, where
one more hardly counts; among few, a policy's own luck would become the prompt's ease and narrow its interval falsely.
Fitted by scikit-learn; a preference between 0 and 1 is a row for a win and a row for a loss with that weight.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from raypo.evaluation.intervals import FEW, SHARE, Interval, constant_interval, jackknife
from raypo.evaluation.significance import Floats, detectable, paired_test
from raypo.evaluation.statistics import expanded, mean_interval

DIFFICULTY_PRIOR = 1.0
"""Standard deviation to which a prompt's difficulty is shrunk, in logits."""

FIT = 1e-6
"""How near to its end a fit stops; no rate is known better."""

WEAK_PRIOR = 10.0
"""Standard deviation to which the other coefficients are shrunk, in logits: one that always wins stays finite."""


@dataclass(frozen=True)
class Duel:
    """One policy's responses against a baseline's to the same prompts.

    Args:
        prompt: index of the prompt of each comparison, [N], from 0.
        preference: probability or share in [0, 1] that the policy wins each comparison, a tie being 1/2, [N].
        longer: length of the policy's response less that of the baseline's, in any unit, [N].
    """

    prompt: NDArray[np.int64]
    preference: Floats
    longer: Floats

    def finite(self) -> Duel:
        """Without comparisons whose preference or length is not known."""
        kept = np.isfinite(self.preference) & np.isfinite(self.longer)
        return Duel(self.prompt[kept], self.preference[kept], self.longer[kept])

    def length_term(self) -> Floats:
        """Tanh of the standardized difference of lengths, in (-1, 1); 0 where all differences are equal."""
        spread = float(self.longer.std()) if len(self.longer) else 0.0
        if spread == 0:
            return np.zeros(len(self.longer))
        return np.tanh(self.longer / spread)


@dataclass(frozen=True)
class LengthControlled:
    """A win rate with and without the policy's lengths.

    Args:
        win_rate: mean preference over prompts, as it is.
        controlled: the same if lengths were equal; its interval is from resampled prompts, difficulties held.
        p: p-value that `controlled` is one half, from what each prompt adds to it; 1 where nothing can be told.
        detectable: smallest true distance from one half that would have been found four times in five.
        length_effect: phi: logits won by a response that is much longer than the baseline's; interval as of
            `controlled`. It describes the judge and is not tested: its interval tells whether it may be 0.
        uses_difficulty: whether gamma_x could be told: it needs two comparisons per prompt by other policies.
    """

    win_rate: Interval
    controlled: Interval
    p: float
    detectable: float
    length_effect: Interval
    uses_difficulty: bool


def logistic(features: NDArray[np.float64] | sparse.csr_array, preference: Floats, weight: Floats) -> Floats:
    """Coefficients of a logistic regression without intercept on preferences in [0, 1], [features].

    Args:
        features: [N, F], scaled so that a coefficient's prior has standard deviation 1.
        preference: [N], in [0, 1].
        weight: [N], of each comparison.
    """
    from sklearn.linear_model import LogisticRegression  # seconds to import; a round's first evaluation has no duel

    stack = sparse.vstack if sparse.issparse(features) else np.concatenate
    twice = stack([features, features])
    wins = np.repeat([1, 0], len(preference))
    weights = np.concatenate([weight * preference, weight * (1 - preference)])
    used = weights > 0
    if len(set(wins[used])) < 2:  # all won or all lost: a row of no weight to speak of names the other class
        used[np.argmax(wins != wins[used][0])] = True
        weights = np.where(used & (weights == 0), 1e-12, weights)
    solver = "lbfgs" if sparse.issparse(features) else "newton-cholesky"  # few columns: some Newton steps, exact
    fitted = LogisticRegression(C=1.0, fit_intercept=False, max_iter=1000, tol=FIT, solver=solver)
    fitted.fit(twice[used], wins[used], sample_weight=weights[used])
    return np.asarray(fitted.coef_[0], dtype=np.float64)


def difficulties(duels: Mapping[str, Duel], prompts: int) -> Floats:
    """gamma_x: logits that prompt x gives to every policy, [prompts], by one joint regression over all of them.

    Each policy has its own theta and phi; gamma is shrunk to 0, so that theta and gamma are told apart.
    """
    blocks, columns = [], 2 * len(duels)
    for number, duel in enumerate(duels.values()):
        rows = len(duel.prompt)
        block = sparse.lil_array((rows, columns + prompts))
        block[:, [2 * number]] = np.full((rows, 1), WEAK_PRIOR)
        block[:, [2 * number + 1]] = WEAK_PRIOR * duel.length_term()[:, None]
        block[np.arange(rows), columns + duel.prompt] = DIFFICULTY_PRIOR
        blocks.append(block.tocsr())
    preference = np.concatenate([duel.preference for duel in duels.values()])
    found = logistic(sparse.csr_array(sparse.vstack(blocks)), preference, np.ones(len(preference)))
    return found[columns:] * DIFFICULTY_PRIOR


def length_controlled(
    duels: Mapping[str, Duel], prompts: int, *, confidence: float, samples: int, seed: int = 0
) -> dict[str, LengthControlled]:
    """Length-controlled win rates of several policies against one baseline.

    Args:
        duels: by policy; all on the same prompts.
        prompts: number of prompts.
        confidence: coverage of the intervals, in (0, 1).
        samples: bootstrap resamples of prompts.
        seed: of the resampling.

    Returns:
        by policy; NaN for one without a single known comparison.
    """
    known = {name: duel.finite() for name, duel in duels.items()}
    told = {name: duel for name, duel in known.items() if len(duel.prompt)}
    rng = np.random.default_rng(seed)
    draws = rng.multinomial(prompts, np.full(prompts, 1 / prompts), samples).astype(np.float64)
    nothing = Interval(math.nan, math.nan, math.nan, 0)
    found = {}
    for name in duels:
        others = {other: duel for other, duel in told.items() if other != name}
        # one comparison per prompt is noise, not difficulty
        uses = sum(len(duel.prompt) for duel in others.values()) >= 2 * prompts
        gamma = difficulties(others, prompts) if uses else np.zeros(prompts)
        found[name] = (
            controlled(told[name], gamma, draws, confidence=confidence, uses_difficulty=uses)
            if name in told
            else LengthControlled(nothing, nothing, 1.0, math.nan, nothing, False)
        )
    return found


def controlled(
    duel: Duel, gamma: Floats, draws: Floats, *, confidence: float, uses_difficulty: bool
) -> LengthControlled:
    """One policy's regression, given the prompts' difficulties.

    Args:
        duel: known comparisons only.
        gamma: logits per prompt, [prompts].
        draws: how often each prompt is drawn in each resample, [samples, prompts].
        confidence: coverage, in (0, 1).
        uses_difficulty: whether gamma was estimated.
    """
    counts = np.bincount(duel.prompt, minlength=len(gamma)).astype(np.float64)
    here = counts > 0
    known = int(here.sum())
    features = WEAK_PRIOR * np.stack([np.ones(len(duel.prompt)), duel.length_term(), gamma[duel.prompt]], axis=1)

    def weight(drawn: Floats) -> Floats:
        # prompts weigh alike, however many comparisons each has
        return (drawn / np.maximum(counts, 1))[duel.prompt] * (counts.sum() / known)

    def figures(drawn: Floats) -> tuple[float, float]:
        theta, phi, psi = logistic(features, duel.preference, weight(drawn)) * WEAK_PRIOR
        equal = 1 / (1 + np.exp(-(theta + psi * gamma[here])))
        return float(np.average(equal, weights=drawn[here])), float(phi)

    everyone = np.ones(len(gamma))
    rate, effect = figures(everyone)
    sums = np.bincount(duel.prompt, weights=duel.preference, minlength=len(gamma))
    shares = np.where(here, sums / np.maximum(counts, 1), math.nan)
    raw = mean_interval(shares, confidence=confidence, samples=len(draws), within=SHARE)
    if known < 2:
        told = [Interval(one, math.nan, math.nan, known) for one in (rate, effect)]
        return LengthControlled(raw, told[0], 1.0, math.nan, told[1], uses_difficulty)
    if known < FEW:
        left = np.array([figures(everyone - one) for one in np.eye(len(gamma))[here]])
        told = [
            jackknife(rate, left[:, 0], confidence=confidence, within=SHARE),
            jackknife(effect, left[:, 1], confidence=confidence),
        ]
    else:
        found = np.array([figures(drawn) for drawn in draws if drawn[here].sum()])
        tail = (1 - expanded(confidence, known, len(found))) / 2
        bounds = np.quantile(found, [tail, 1 - tail], axis=0).T.tolist()
        told = [Interval(one, low, high, known) for one, (low, high) in zip((rate, effect), bounds, strict=True)]
    told[0] = widened(told[0], shares[here], confidence=confidence)
    beyond = rate - 0.5 + influence(duel, features, weight(everyone), gamma)[here]
    beyond[np.abs(beyond) < FIT] = 0.0  # ties alone: the fit's own rounding would be found to have a sign
    return LengthControlled(
        raw, told[0], paired_test(beyond), detectable(beyond, confidence=confidence), told[1], uses_difficulty
    )


def widened(found: Interval, shares: Floats, *, confidence: float) -> Interval:
    """A controlled rate's interval where every prompt was won, or every one lost: no resample shows another prompt.

    Others may have missed the sample just as for the rate as it is, so the interval reaches as far as that of
    `constant_interval`; it keeps what it has, since the fit's prior holds the rate a little off the end.

    Args:
        found: of the rate, with bounds.
        shares: won of each prompt with a comparison, at least 2.
        confidence: coverage, in (0, 1).
    """
    for end in SHARE:
        if (shares == end).all():
            missed = constant_interval(end, len(shares), confidence=confidence, within=SHARE)
            return Interval(found.mean, min(found.low, missed.low), max(found.high, missed.high), found.n)
    return found


def influence(duel: Duel, features: Floats, weight: Floats, gamma: Floats) -> Floats:
    """What each prompt adds to the controlled win rate, [prompts]: its derivative by the prompt's weight, by prompts.

    The infinitesimal jackknife (Efron and Tibshirani, chapter 21): prompt x moves the mean by its own q less the mean,
    and the coefficients by H^-1 times its part of the score, H being the penalized Hessian. Their mean, which the
    prior alone moves from 0, is taken off. A prompt without a comparison has what is not read.

    Args:
        duel: known comparisons only.
        features: [N, 3], as fitted.
        weight: [N], as fitted.
        gamma: logits per prompt, [prompts].
    """
    fitted = logistic(features, duel.preference, weight)
    chance = 1 / (1 + np.exp(-(features @ fitted)))
    hessian = (features * (weight * chance * (1 - chance))[:, None]).T @ features + np.eye(len(fitted))
    score = np.zeros((len(gamma), len(fitted)))
    np.add.at(score, duel.prompt, features * (weight * (duel.preference - chance))[:, None])
    here = np.bincount(duel.prompt, minlength=len(gamma)) > 0
    at_equal = WEAK_PRIOR * np.stack([np.ones(len(gamma)), np.zeros(len(gamma)), gamma], axis=1)
    equal = 1 / (1 + np.exp(-(at_equal @ fitted)))
    slope = ((equal * (1 - equal))[:, None] * at_equal)[here].mean(0)
    moved = equal + here.sum() * (score @ np.linalg.solve(hessian, slope))
    return np.asarray(moved - moved[here].mean(), dtype=np.float64)
