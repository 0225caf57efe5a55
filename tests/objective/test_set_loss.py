"""The kernel: oracles as literals, invariances as properties, and what must never pass."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from examples import LONE, NAMES, inputs, loss, objective
from hypothesis import given, settings
from hypothesis import strategies as st

from raypo.errors import ConfigError, DataError
from raypo.objective import preset, set_loss
from raypo.objective.presets import hyperparameters

REWARDS = [9.0, 1.0, 7.0, 4.0, 2.0]


@pytest.mark.parametrize("beta", [0.01, 0.1, 1.0, 10.0])
def test_dpo_starts_at_ln_2_with_gradient_half_beta(beta: float) -> None:
    """Policy == reference: margin 0, loss ln 2, d loss / d lp = -beta/2 on the best and +beta/2 on the worst."""
    given = inputs([[-5.0, -5.0, -5.0]], [[3.0, 1.0, 2.0]])
    given["policy_logps"].requires_grad_()
    out = set_loss(objective("dpo", beta=beta), **given)
    out.loss.sum().backward()
    assert out.loss.tolist() == [pytest.approx(math.log(2), abs=1e-15)]
    assert given["policy_logps"].grad.tolist() == [[pytest.approx(-beta / 2), pytest.approx(beta / 2), 0.0]]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("dpo", math.log(2)),
        ("ipo", 25.0),  # 1/(4 beta^2), beta .1
        ("simpo", math.log1p(math.exp(0.5))),  # equal length-normalised log-probs: margin -gamma = -.5
        ("mallows-theta", math.log(2)),
        ("mallows-phi", math.log(2)),
        ("mpo", math.log(5 / 2)),  # mean 4.6: 9 and 7 above it, ln(n / |Y+|)
        # deviations 4.4 3.6 2.4 .6 2.6 times .6: ln(1 + sum of the rejected exponentials / sum of the chosen)
        (
            "w-mpo",
            math.log1p((math.exp(2.16) + math.exp(0.36) + math.exp(1.56)) / (math.exp(2.64) + math.exp(1.44))),
        ),
        ("plackett-luce", math.log(120)),  # ln K!
    ],
)
def test_first_step_value_of_every_preset(name: str, expected: float) -> None:
    """Rewards 9 1 7 4 2, policy == reference."""
    out = set_loss(objective(name), **inputs([[-5.0] * 5], [REWARDS]))
    assert out.loss.tolist() == [pytest.approx(expected, abs=1e-12)]


def test_mallows_mpo_with_psi_one_is_w_mpo() -> None:
    given = inputs([[-4.0, -6.0, -5.5, -3.0, -5.0]], [REWARDS])
    assert torch.equal(set_loss(objective("mallows-mpo"), **given).loss, set_loss(objective("w-mpo"), **given).loss)


@pytest.mark.parametrize("name", ["mpo", "w-mpo", "mallows-mpo", "plackett-luce", "mallows-theta"])
@pytest.mark.parametrize("alpha", [0.0, 0.7, 5.0])
def test_two_responses_are_dpo_for_every_alpha(name: str, alpha: float) -> None:
    """|r_w - mean| = |r_l - mean|: absolute deviations cancel. -ln sigma(.1 (1.3 - (-.4))) = 0.6117553."""
    given = inputs([[-3.7, -5.4]], [[7.0, 3.0]])
    extra = {"alpha": alpha} if "alpha" in hyperparameters(name) else {}
    assert set_loss(objective(name, **extra), **given).loss.tolist() == [pytest.approx(0.6117553389, abs=1e-9)]


def test_one_chosen_response_is_the_softmax_of_the_best() -> None:
    """Rewards 9 1 1 1: only 9 lies above the mean; -ln softmax of beta s."""
    s = np.array([0.8, -0.3, 1.1, 0.2])
    expected = -math.log(np.exp(0.1 * s[0]) / np.exp(0.1 * s).sum())
    out = set_loss(objective("mpo"), **inputs([(s - 5).tolist()], [[9.0, 1.0, 1.0, 1.0]]))
    assert out.loss.tolist() == [pytest.approx(expected, abs=1e-13)]


def naive_w_mpo(lp: np.ndarray, r: np.ndarray, psi: float, beta: float, alpha: float) -> float:
    """ArXiv 2412.04628 by its fraction: -ln [sum over Y+ of e^u / sum over Y of e^u]."""
    u = psi * beta * (lp + 5) + alpha * np.abs(r - r.mean())
    return float(-np.log(np.exp(u[r > r.mean()]).sum() / np.exp(u).sum()))


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_w_mpo_is_its_fraction(seed: int) -> None:
    """Random sets against the direct formula."""
    rng = np.random.default_rng(seed)
    lp, r, psi = rng.normal(-5, 3, 6), rng.normal(0, 2, 6), float(rng.uniform(0.1, 3))
    given = inputs([lp.tolist()], [r.tolist()], psi=torch.tensor([psi], dtype=torch.float64))
    found = set_loss(objective("mallows-mpo"), **given).loss.item()
    assert found == pytest.approx(naive_w_mpo(lp, r, psi, 0.1, 0.6), abs=1e-11)


@settings(max_examples=60)
@given(st.integers(0, 10_000))
def test_plackett_luce_is_its_product(seed: int) -> None:
    """-sum_k [u_(k) - ln sum_(j >= k) e^u_(j)] over the ranking, without ties."""
    rng = np.random.default_rng(seed)
    lp, r = rng.normal(-5, 3, 5), rng.permutation(5).astype(float)
    u = 0.1 * (lp + 5)[np.argsort(-r)]
    expected = -sum(u[k] - np.log(np.exp(u[k:]).sum()) for k in range(4))
    found = set_loss(objective("plackett-luce"), **inputs([lp.tolist()], [r.tolist()])).loss.item()
    assert found == pytest.approx(expected, abs=1e-11)


@settings(max_examples=30)
@given(st.integers(0, 10_000), st.sampled_from(NAMES))
def test_order_and_padding_change_nothing(seed: int, name: str) -> None:
    """Permuted responses, and two masked columns of NaN, infinities and huge numbers."""
    rng = np.random.default_rng(seed)
    lp, r = rng.normal(-5, 2, 5), rng.permutation(5).astype(float) * 1.5
    plain = loss(name, inputs([lp.tolist()], [r.tolist()])).loss
    order = rng.permutation(5)
    permuted = loss(name, inputs([lp[order].tolist()], [r[order].tolist()])).loss
    assert permuted.item() == pytest.approx(plain.item(), abs=1e-12)
    padded = inputs([[*lp, math.nan, 1e30]], [[*r, math.inf, math.nan]])
    padded["mask"] = torch.tensor([[True] * 5 + [False] * 2])
    padded["policy_logps"].requires_grad_()
    out = loss(name, padded)
    out.loss.sum().backward()
    assert out.loss.item() == pytest.approx(plain.item(), abs=1e-12)
    assert padded["policy_logps"].grad[0, 5:].tolist() == [0.0, 0.0]
    assert bool(torch.isfinite(padded["policy_logps"].grad).all())


SHIFT_FREE = ["dpo", "ipo", "robust", "hinge", "exo", "cauchy", "discopop", "odpo", "mallows-theta", "mallows-phi"]
SHIFT_FREE += ["mallows-phi-pairs", "mallows-phi-sets", "mpo", "w-mpo", "w-mpo-signed", "mallows-mpo", "infonca"]
SHIFT_FREE += ["mpo-top-bottom", "mpo-levels", "all-pairs", "lipo", "plackett-luce", "one-vs-rest", "exo-rewards"]


@settings(max_examples=60)
@given(st.integers(0, 10_000), st.floats(-50, 50), st.sampled_from(SHIFT_FREE))
def test_a_constant_added_to_all_log_probs_or_all_rewards_changes_nothing(seed: int, shift: float, name: str) -> None:
    """Comparisons are of differences."""
    rng = np.random.default_rng(seed)
    lp, r = rng.normal(-5, 2, 5), rng.permutation(5) * 1.5
    before = loss(name, inputs([lp.tolist()], [r.tolist()])).loss.item()
    for moved in (inputs([(lp + shift).tolist()], [r.tolist()]), inputs([lp.tolist()], [(r + shift).tolist()])):
        assert loss(name, moved).loss.item() == pytest.approx(before, rel=1e-9, abs=1e-9)


@settings(max_examples=60)
@given(
    st.integers(0, 10_000),
    st.sampled_from(["mpo", "w-mpo", "w-mpo-signed", "mallows-mpo", "mallows-phi-pairs", "mallows-phi-sets", "dpo"]),
)
def test_duplicating_every_response_leaves_sets_as_they_are(seed: int, name: str) -> None:
    """Both pools grow by the same factor, and every pair by the same count."""
    rng = np.random.default_rng(seed)
    lp, r = rng.normal(-5, 2, 4).tolist(), (rng.permutation(4) * 1.5).tolist()
    once, twice = (loss(name, inputs([lp * n], [r * n])).loss.item() for n in (1, 2))
    assert twice == pytest.approx(once, abs=1e-11)


@pytest.mark.parametrize("name", [name for name in NAMES if name != "tdpo2"])
def test_gradients_of_every_preset_are_those_of_finite_differences(name: str) -> None:
    """All but TDPO2, whose gradient is by design not that of its value."""
    lp = torch.tensor([[-4.1, -6.3, -5.2, -3.9]], dtype=torch.float64, requires_grad=True)
    given = inputs([[0.0] * 4], [[3.0, 1.0, 4.0, 1.5]], psi=torch.tensor([0.8], dtype=torch.float64))
    assert torch.autograd.gradcheck(lambda x: loss(name, given | {"policy_logps": x}).loss, (lp,))


@pytest.mark.parametrize("name", [name for name in NAMES if name not in LONE])
@settings(max_examples=20)
@given(st.floats(-1e6, 1e6), st.integers(2, 6))
def test_a_tie_is_never_a_preference(name: str, reward: float, size: int) -> None:
    """All rewards equal, whatever rounding a mean would have: not used, loss 0, gradient 0."""
    given = inputs([[-5.0 + k for k in range(size)]], [[reward] * size])
    given["policy_logps"].requires_grad_()
    out = loss(name, given)
    out.loss.sum().backward()
    assert out.used.tolist() == [False]
    assert out.loss.tolist() == [0.0]
    assert given["policy_logps"].grad.abs().sum().item() == 0.0


@pytest.mark.parametrize("rewards", [[math.nan, 2.0, math.nan], [math.nan] * 3])
def test_a_set_without_two_rewards_does_not_train(rewards: list[float]) -> None:
    out = set_loss(objective("w-mpo"), **inputs([[-5.0, -4.0, -6.0]], [rewards]))
    assert (out.used.tolist(), out.loss.tolist()) == ([False], [0.0])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_every_preset_is_finite_in_fp32_at_huge_log_ratios(name: str, size: float) -> None:
    """Scores beyond +-1e3 with beta .1, +-1e4 with beta 1."""
    given = inputs([[-5.0 + size, -5.0, -5.0 - size]], [[3.0, 1.0, 2.0]])
    given = {key: v.float() if v.is_floating_point() else v for key, v in given.items()}
    given["policy_logps"].requires_grad_()
    out = loss(name, given, beta=1.0)
    out.loss.sum().backward()
    assert math.isfinite(out.loss.item())
    assert bool(torch.isfinite(given["policy_logps"].grad).all())


def test_metrics_are_unscaled_by_psi() -> None:
    """Beta .1, log-ratios 1 and -1: rewards .1 and -.1, margin .2; psi 3 makes the scaled margin .6."""
    given = inputs([[-4.0, -6.0]], [[1.5, 0.5]], psi=torch.tensor([3.0], dtype=torch.float64))
    metrics = set_loss(objective("mallows-theta"), **given).metrics
    assert metrics["rewards/chosen"].item() == pytest.approx(0.1)
    assert metrics["rewards/margins"].item() == pytest.approx(0.2)
    assert metrics["margins/scaled"].item() == pytest.approx(0.6)
    assert metrics["rewards/accuracies"].item() == 1.0


def test_a_preset_names_the_hyperparameters_that_it_needs_and_no_optional_one() -> None:
    """tie_eps and label_smoothing may be left out: 0 is none of them."""
    with pytest.raises(ConfigError, match="needs alpha") as caught:
        preset("w-mpo", beta=0.1)
    assert caught.value.expected == "all of beta, alpha"
    assert preset("dpo", beta=0.1) == preset("dpo", beta=0.1, label_smoothing=0.0)


def test_ordinal_rewards_train_mpo_and_are_refused_by_w_mpo() -> None:
    given = inputs([[-4.0, -6.0, -5.0]], [[1.0, 0.0, 0.0]])
    assert set_loss(objective("mpo"), **given).used.tolist() == [True]
    with pytest.raises(DataError, match="every reward is 0 or 1"):
        set_loss(objective("w-mpo"), **given)


def test_what_is_missing_is_named() -> None:
    given = inputs([[-4.0, -6.0]], [[2.0, 0.0]])
    with pytest.raises(ConfigError, match="psi is None"):
        set_loss(objective("mallows-phi"), **(given | {"psi": None}))
    with pytest.raises(ConfigError, match="reference_logps is None"):
        set_loss(objective("dpo"), **(given | {"reference_logps": None}))
    assert set_loss(objective("simpo"), **(given | {"reference_logps": None})).used.tolist() == [True]
    with pytest.raises(DataError, match=r"\[B, K\]"):
        set_loss(objective("dpo"), **(given | {"rewards": torch.zeros(1, 3)}))


@pytest.mark.parametrize(
    ("name", "given", "told"),
    [
        ("w-mop", {"beta": 0.1}, "did you mean 'w-mpo'"),
        ("w-mpo", {"beta": 0.1}, "needs alpha"),
        ("w-mpo", {"beta": 0.1, "alhpa": 1.0}, "did you mean 'alpha'"),
        ("dpo", {"beta": 0.0, "label_smoothing": 0.0}, "above 0"),
        ("dpo", {"beta": True, "label_smoothing": 0.0}, "a number"),
    ],
)
def test_a_preset_refuses_what_it_does_not_know(name: str, given: dict[str, float], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        preset(name, **given)


def test_labels_are_labels_and_psi_is_a_scale() -> None:
    """KTO of scores would take every one above 1/2 for desirable; a psi of 0, -1 or NaN scales nothing."""
    given = inputs([[-5.0, -4.0, -6.0]], [[7.0, 8.0, 9.0]])
    anchor = {"anchor": torch.zeros(1, 3, dtype=torch.float64)}
    with pytest.raises(DataError, match=r"kto: a reward of 7\n.*labels: 1 for a desirable"):
        set_loss(objective("kto"), **given, terms=anchor)
    for psi in (0.0, -1.0, math.nan, math.inf):
        with pytest.raises(DataError, match="psi with an entry that is not above 0"):
            set_loss(objective("mallows-theta"), **(given | {"psi": torch.tensor([psi], dtype=torch.float64)}))


@pytest.mark.parametrize("kind", [torch.int64, torch.bool, torch.float16])
def test_labels_of_any_type_are_numbers(kind: torch.dtype) -> None:
    """MPO of 1 0 0 is the same whatever holds the labels."""
    given = inputs([[-5.0, -4.0, -6.0]], [[1.0, 0.0, 0.0]])
    expected = set_loss(objective("mpo"), **given).loss
    found = set_loss(objective("mpo"), **(given | {"rewards": given["rewards"].to(kind)})).loss
    assert torch.equal(found, expected)


def test_negative_lengths_and_sets_of_nothing_are_refused() -> None:
    given = inputs([[-5.0, -4.0]], [[1.0, 0.0]])
    with pytest.raises(DataError, match="a response of -2 tokens"):
        set_loss(objective("dpo"), **(given | {"lengths": torch.tensor([[3, -2]])}))
    with pytest.raises(DataError, match=r"policy_logps \[1, 0\]"):
        set_loss(objective("dpo"), **{key: value[:, :0] if key != "psi" else value for key, value in given.items()})


def test_rewards_that_are_large_and_differ_by_little_are_told_apart() -> None:
    """1e8 + 0.1, 0.2, 0.4 in float64 beside fp32 log-probs: equal only if they were cast first."""
    given = inputs([[-5.0, -4.0, -6.0]], [[1e8 + 0.1, 1e8 + 0.2, 1e8 + 0.4]])
    given |= {name: given[name].float() for name in ("policy_logps", "reference_logps", "psi")}
    assert set_loss(objective("dpo"), **given).used.tolist() == [True]


@pytest.mark.parametrize("size", [3e38, -3e38])
def test_rewards_whose_differences_fp32_cannot_hold_are_refused(size: float) -> None:
    """3e38 - (-3e38) is infinite in fp32, and so are squares from 1.9e19 on; a size of 1e18 trains."""
    with pytest.raises(DataError, match=r"a reward of 3e\+38 in size"):
        set_loss(objective("w-mpo"), **inputs([[-5.0, -4.0]], [[size, 0.0]]))
    assert math.isfinite(set_loss(objective("w-mpo"), **inputs([[-5.0, -4.0]], [[1e18, 0.0]])).loss.item())


def test_log_probs_are_floats() -> None:
    given = inputs([[-5.0, -4.0]], [[1.0, 0.0]])
    with pytest.raises(DataError, match=r"policy_logps of torch\.int64"):
        set_loss(objective("dpo"), **(given | {"policy_logps": torch.tensor([[-5, -4]])}))


def test_lipo_is_finite_at_rewards_of_two_thousand() -> None:
    assert math.isfinite(set_loss(objective("lipo"), **inputs([[-5.0, -4.0]], [[2000.0, 0.0]])).loss.item())


@pytest.mark.parametrize("shift", [0.0, 1.06, -3.7, 100.1])
def test_a_reward_that_is_the_mean_is_not_above_it_by_rounding(shift: float) -> None:
    """Rewards 0, 1, 2: the mean is 1, so 2 alone stands above; 1 + 1.06 - 1.06 is more than 1 in floating point."""
    given = inputs([[-5.0, -4.0, -6.0]], [[shift, 1 + shift, 2 + shift]])
    found = set_loss(objective("mallows-phi-pairs"), **given)
    expected = set_loss(objective("mallows-phi-pairs"), **inputs([[-5.0, -4.0, -6.0]], [[0.0, 1.0, 2.0]]))
    assert found.loss.item() == pytest.approx(expected.loss.item(), abs=1e-12)
