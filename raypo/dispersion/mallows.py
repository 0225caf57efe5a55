"""The Mallows model of annotators' rankings: central ranking and dispersion by maximum likelihood.

    P(r) = phi^d(r, c) / Z(phi),   phi in (0, 1]

r and c are rankings as ranks: r[i] is the rank of item i, 0 the best. d is one of

    kendall     pairs in another order               spearman    sum of squared differences of ranks
    cayley      fewest swaps                         footrule    sum of absolute differences of ranks
    hamming     items at another rank

MallowsPO (arXiv 2405.14953) has kendall (phi) and spearman (theta), and leaves the others open. All are
right-invariant (Diaconis, Group Representations in Probability and Statistics, chapter 6), so Z does not depend on c:
c minimises the sum of distances, and phi makes the expected distance the mean one. Z is exact: the rankings at
every distance are counted, by closed form for kendall, cayley and hamming, by a dynamic program over sets of ranks for
spearman and footrule. fp64 holds these counts exactly up to 18 items.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from itertools import permutations

import torch
from torch import Tensor

from raypo.dispersion.index import clamp_index, psi_of

MOST_ITEMS = 16
"""2^16 sets of ranks; one more item doubles time and memory."""

SEARCHED = 7
"""Items up to which every central ranking is tried under cayley: 7! = 5,040."""

LAMBDA_MOST = 40.0
"""-ln phi beyond which phi is 0 to all that fp64 tells."""


def kendall(ranks: Tensor, center: Tensor) -> Tensor:
    """Pairs of items in another order; [..., m] and [m] -> [...]."""
    first, second = torch.triu_indices(ranks.shape[-1], ranks.shape[-1], offset=1)
    return ((ranks[..., first] - ranks[..., second]).sign() != (center[first] - center[second]).sign()).sum(-1)


def spearman(ranks: Tensor, center: Tensor) -> Tensor:
    """Sum of squared differences of ranks."""
    return ((ranks - center) ** 2).sum(-1)


def footrule(ranks: Tensor, center: Tensor) -> Tensor:
    """Sum of absolute differences of ranks."""
    return (ranks - center).abs().sum(-1)


def hamming(ranks: Tensor, center: Tensor) -> Tensor:
    """Items at another rank."""
    return (ranks != center).sum(-1)


def cayley(ranks: Tensor, center: Tensor) -> Tensor:
    """Fewest swaps that make one of the other: m less the cycles of ranks after the inverse of center."""
    after = ranks[..., center.argsort()]
    label = torch.arange(after.shape[-1]).expand_as(after).clone()
    at = after
    for _ in range(after.shape[-1]):  # the least member of each cycle reaches all of it
        label = torch.minimum(label, label.gather(-1, at))
        at = after.gather(-1, at)
    return (label != torch.arange(after.shape[-1])).sum(-1)


DISTANCES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "kendall": kendall,
    "spearman": spearman,
    "footrule": footrule,
    "cayley": cayley,
    "hamming": hamming,
}


@cache
def counts(distance: str, items: int) -> Tensor:
    """How many of the m! rankings lie at distance 0, 1, 2, ... of a given one: float64, exact.

    Args:
        distance: a name in DISTANCES.
        items: m, from 1 to MOST_ITEMS.

    Raises:
        ValueError: an unknown distance, or items out of their domain.
    """
    if distance not in DISTANCES or not 1 <= items <= MOST_ITEMS:
        raise ValueError(f"{distance!r} of {items} items; expected one of {', '.join(DISTANCES)}, 1 to {MOST_ITEMS}")
    if distance == "kendall":  # Mahonian numbers: the k-th item adds 0 .. k-1 inversions
        return _product([[1.0] * size for size in range(1, items + 1)])
    if distance == "cayley":  # Stirling numbers of the first kind: prod (1 + i x)
        return _product([[1.0, float(index)] for index in range(1, items)])
    if distance == "hamming":
        return torch.tensor([float(math.comb(items, k) * _derangements(k)) for k in range(items + 1)]).double()
    return _by_sets(items, power=2 if distance == "spearman" else 1)


def _product(factors: list[list[float]]) -> Tensor:
    """Coefficients of a product of polynomials."""
    found = [1.0]
    for factor in factors:
        longer = [0.0] * (len(found) + len(factor) - 1)
        for i, a in enumerate(found):
            for j, b in enumerate(factor):
                longer[i + j] += a * b
        found = longer
    return torch.tensor(found, dtype=torch.float64)


def _derangements(items: int) -> int:
    """Permutations without a fixed point."""
    now, before = 1, 0
    for size in range(1, items + 1):
        now, before = (size - 1) * (now + before) if size > 1 else 0, now
    return now


def _by_sets(items: int, *, power: int) -> Tensor:
    """Counts by the sum over items of |item - rank|^power: item after item, for every set of ranks that is taken."""
    longest = sum(abs(2 * i - items + 1) ** power for i in range(items))
    found: dict[int, Tensor] = {0: torch.ones(1, dtype=torch.float64)}
    for item in range(items):
        after: dict[int, Tensor] = {}
        for taken, ways in found.items():
            for rank in range(items):
                if not taken >> rank & 1:
                    step, key = abs(item - rank) ** power, taken | 1 << rank
                    held = after.get(key)
                    if held is None:
                        held = after[key] = torch.zeros(longest + 1, dtype=torch.float64)
                    held[step : step + len(ways)] += ways[: longest + 1 - step]
        found = after
    (whole,) = found.values()
    return whole


@dataclass(frozen=True)
class Fit:
    """A fitted Mallows model.

    Args:
        center: ranks of the items in the central ranking, 0 the best.
        phi: dispersion in [0, 1]: 0 where all rankings agree, 1 where they agree no more than chance.
        distance: its name.
        mean_distance: of the rankings to the center.
        log_likelihood: of all rankings, nats.
        rankings: how many.
    """

    center: tuple[int, ...]
    phi: float
    distance: str
    mean_distance: float
    log_likelihood: float
    rankings: int


def fit(rankings: Tensor, distance: str) -> Fit:
    """Central ranking and dispersion by maximum likelihood.

    With few annotators phi is too low: the center is fitted to the same rankings. Compare prompts that have equally
    many.

    Args:
        rankings: [R, m] int, each a permutation of 0 .. m-1, R >= 1: the rank of each item by one annotator.
        distance: a name in DISTANCES.

    Raises:
        ValueError: not rankings, an unknown distance, or more items than MOST_ITEMS.
    """
    items = rankings.shape[-1]
    order = torch.arange(items)
    if rankings.dim() != 2 or not len(rankings) or not bool((rankings.sort(-1).values == order).all()):
        raise ValueError(f"rankings {list(rankings.shape)}: expected [R, m], each a permutation of 0 .. m-1")
    ways = counts(distance, items)
    rankings = rankings.long()
    center = central(rankings, distance)
    mean = float(DISTANCES[distance](rankings, center).double().mean())
    lam = _rate(ways, mean)
    log_z = float(torch.logsumexp(ways.log() - lam * torch.arange(len(ways)), 0)) if math.isfinite(lam) else 0.0
    likelihood = len(rankings) * (-(lam * mean if mean else 0.0) - log_z)
    return Fit(tuple(center.tolist()), math.exp(-lam), distance, mean, likelihood, len(rankings))


def known_index(rankings: Tensor, *, model: str) -> float:
    """Dispersion index of a prompt from several people's rankings of its responses, for `dispersion.estimator: given`.

    d = exp(-psi) with psi = `psi_of` the fitted phi: phi of the Kendall model, phi^2 of the Spearman model. Clamped to
    [1e-3, 0.999]: where all rankings agree phi is 0, which few people say of many prompts, and psi would be infinite.

        known_index(torch.tensor([[0, 1], [0, 1], [1, 0]]), model="phi")    # 0.5: two of three agree, odds of 2 to 1

    Args:
        rankings: [R, m] int as of `fit`, R >= 2 and m >= 2: one ranking, or rankings of one response, always agree and
            say nothing of dispersion.
        model: "phi" or "theta", as of `psi_of`.

    Raises:
        ValueError: as of `fit` and `psi_of`, or fewer than two rankings or two responses.
    """
    if rankings.dim() == 2 and min(rankings.shape) < 2:
        raise ValueError(
            f"rankings {list(rankings.shape)}: expected two of two responses at least, as fewer always agree"
        )
    phi = fit(rankings, "spearman" if model == "theta" else "kendall").phi
    return float(clamp_index((-psi_of(torch.tensor(phi, dtype=torch.float64), model=model)).exp()))


def expected_distance(distance: str, items: int, phi: float) -> float:
    """Mean distance of a ranking to the center, phi in (0, 1]."""
    return _expected(counts(distance, items), -math.log(phi))


def _expected(ways: Tensor, lam: float) -> float:
    at = torch.arange(len(ways), dtype=torch.float64)
    return float((torch.softmax(ways.log() - lam * at, 0) * at).sum())


def _rate(ways: Tensor, mean: float) -> float:
    """Lambda = -ln phi >= 0 at which the expected distance is the mean one, by bisection: it falls with lambda."""
    if mean == 0:
        return math.inf
    if mean >= _expected(ways, 0.0):
        return 0.0
    low, high = 0.0, LAMBDA_MOST
    while high - low > 1e-12 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if _expected(ways, middle) > mean else (low, middle)
    return (low + high) / 2


def central(rankings: Tensor, distance: str) -> Tensor:
    """A ranking with the least sum of distances, [m]: exact, except under cayley above SEARCHED items.

    Spearman's is the ranking by mean rank; kendall's (Kemeny's) comes from a dynamic program over sets of items;
    footrule's and hamming's are assignments of items to ranks, by another. Under cayley all rankings are tried, and
    above SEARCHED items swaps from each annotator's own ranking and from the mean rank.

    Args:
        rankings: [R, m] int.
        distance: a name in DISTANCES.
    """
    items = rankings.shape[-1]
    by_mean = rankings.double().mean(0).argsort(stable=True).argsort()
    if distance == "spearman":
        return by_mean
    if distance == "cayley":
        return _searched(rankings) if items <= SEARCHED else _swapped(rankings, by_mean)
    if distance == "kendall":
        before = (rankings[:, :, None] > rankings[:, None, :]).sum(0).double()  # [i, j]: annotators with j before i
        return _placed(_members(items).double() @ before)
    gaps = (rankings[:, :, None] - torch.arange(items)).abs()  # [R, item, rank]
    cost = (gaps if distance == "footrule" else (gaps > 0)).sum(0).double()
    return _placed(cost.T[_members(items).sum(-1).clamp_max(items - 1)])  # the next rank is how many are placed


def _members(items: int) -> Tensor:
    """Which items are in each set of items, the set's number in binary: [2^m, m] of 0 and 1."""
    return torch.arange(2**items)[:, None] >> torch.arange(items) & 1


def _placed(price: Tensor) -> Tensor:
    """Ranks of least total price, by the best order of every set of items, smaller sets first.

    Args:
        price: [2^m, m] of placing an item next when those of a set are placed before it.
    """
    items = price.shape[-1]
    members, bits = _members(items), 1 << torch.arange(items)
    best = torch.zeros(2**items, dtype=price.dtype)
    last = torch.zeros(2**items, dtype=torch.long)
    for size in range(1, items + 1):
        sets = (members.sum(-1) == size).nonzero().squeeze(-1)
        without = sets[:, None] ^ bits  # [sets, m]: read for members alone
        total = best[without] + price[without, torch.arange(items)]
        best[sets], last[sets] = torch.where(members[sets] > 0, total, math.inf).min(-1)
    ranks, taken = torch.empty(items, dtype=torch.long), 2**items - 1
    for rank in range(items - 1, -1, -1):
        ranks[last[taken]] = rank
        taken ^= 1 << int(last[taken])
    return ranks


def _total(rankings: Tensor, centers: Tensor) -> Tensor:
    """Sum of cayley distances to each of [C, m] centers: [C]; the distance is symmetric."""
    return torch.stack([cayley(centers, one) for one in rankings]).sum(0)


def _searched(rankings: Tensor) -> Tensor:
    centers = torch.tensor(list(permutations(range(rankings.shape[-1]))))
    return centers[int(_total(rankings, centers).argmin())]


def _swapped(rankings: Tensor, by_mean: Tensor) -> Tensor:
    """The best that swaps of two items reach from any annotator's ranking, or from the mean rank."""
    first, second = torch.triu_indices(rankings.shape[-1], rankings.shape[-1], offset=1)
    best, least = by_mean, math.inf
    for center in (*rankings, by_mean):
        total = float(_total(rankings, center[None])[0])
        while True:
            near = center.repeat(len(first), 1)
            rows = torch.arange(len(first))
            near[rows, first], near[rows, second] = center[second], center[first]
            totals = _total(rankings, near)
            if float(totals.min()) >= total:
                break
            center, total = near[int(totals.argmin())], float(totals.min())
        if total < least:
            best, least = center, total
    return best
