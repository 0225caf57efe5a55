"""raypo.scoring.reference: cached == live, batch 1 == batch n, and the exact KL."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tiny import VOCABULARY, causal_lm, response_sets

from raypo.data.packing import ResponseSet, pack
from raypo.errors import ModelError
from raypo.logprobs import sum_by_response
from raypo.models.load import load_causal_lm
from raypo.models.scorer import TokenScorer
from raypo.scoring.reference import ReferenceScorer

SETS = response_sets(5, responses=3, seed=1)
SUMS = ["reference_logps", "response_lengths", "reference_entropies"]
ANNOTATION = [*SUMS, "reference_token_logps", "contrastive_token_gaps"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Two policies of one vocabulary, and one of another."""
    root = tmp_path_factory.mktemp("policies")
    causal_lm(seed=0).save_pretrained(root / "initial")
    causal_lm(seed=1).save_pretrained(root / "later")
    causal_lm(seed=2, vocab_size=VOCABULARY + 8).save_pretrained(root / "wider")
    return {name: str(root / name) for name in ("initial", "later", "wider")}


def table(sets: list[ResponseSet]) -> pa.Table:
    """The columns that are read, and one that is not."""
    return pa.table(
        {
            "prompt_id": [one.prompt_id for one in sets],
            "prompt_token_ids": [list(one.prompt_token_ids) for one in sets],
            "response_token_ids": [[list(ids) for ids in one.response_token_ids] for one in sets],
            "metadata": ["{}"] * len(sets),
        }
    )


def scorer(path: str, **changes: Any) -> ReferenceScorer:
    """A small budget, so that several batches and several chunks are needed."""
    given: dict[str, Any] = {"compute_dtype": "float32", "tokens_per_batch": 40, "chunk_tokens": 3}
    return ReferenceScorer(path, **given | changes)


def flat(found: pa.Table, name: str) -> list[float]:
    """All values of a list column."""
    return [value for row in found[name].to_pylist() for value in row]


def distributions(path: str, sets: list[ResponseSet]) -> list[list[tuple[torch.Tensor, torch.Tensor]]]:
    """By transformers alone, one sequence at a time: per response the log-probs [tokens, V] and the tokens."""
    model = load_causal_lm(path, dtype=torch.float32)
    rows = []
    for one in sets:
        row = []
        for ids in one.response_token_ids:
            whole = torch.tensor([[*one.prompt_token_ids, *ids]])
            with torch.no_grad():
                logps = model(whole).logits[0].double().log_softmax(-1)
            row.append((logps[len(one.prompt_token_ids) - 1 : -1], torch.tensor(list(ids))))
        rows.append(row)
    return rows


def test_sums_are_those_of_transformers_one_sequence_at_a_time(folders: dict[str, str]) -> None:
    """The log p of each response token from the position before it; entropy -sum p ln p at these positions."""
    found = scorer(folders["initial"]).annotate(table(SETS))
    expected = [pair for row in distributions(folders["initial"], SETS) for pair in row]
    logps = [float(logp.gather(1, ids[:, None]).sum()) for logp, ids in expected]
    entropies = [float(-(logp.exp() * logp).sum()) for logp, _ in expected]
    assert flat(found, "reference_logps") == pytest.approx(logps, abs=2e-5)
    assert flat(found, "reference_entropies") == pytest.approx(entropies, abs=2e-5)
    assert flat(found, "response_lengths") == [len(ids) for _, ids in expected]
    assert found.drop_columns(ANNOTATION).equals(table(SETS))


def test_gaps_are_the_difference_of_two_contrastive_models_at_each_token(folders: dict[str, str]) -> None:
    """lp of "later" less lp of "initial", each by transformers alone; a reference of one of the two changes nothing."""
    models = folders["later"], folders["initial"]
    found = scorer(folders["initial"], importance=models).annotate(table(SETS), with_gaps=True)
    expected = [
        (positive[0] - negative[0]).gather(1, positive[1][:, None]).squeeze(1)
        for rows in zip(*(distributions(path, SETS) for path in models), strict=True)
        for positive, negative in zip(*rows, strict=True)
    ]
    gaps = [torch.tensor(values) for row in found["contrastive_token_gaps"].to_pylist() for values in row]
    assert [len(one) for one in gaps] == [len(one) for one in expected]
    assert torch.allclose(torch.cat(gaps).double(), torch.cat(expected), atol=2e-5)
    with pytest.raises(ModelError, match="one vocabulary"):
        scorer(folders["initial"], importance=(folders["wider"], folders["later"])).annotate(
            table(SETS), with_gaps=True
        )


def test_the_cached_reference_is_the_live_one(folders: dict[str, str]) -> None:
    """Invariant 5: the training forward over one batch of all sets, summed as the step sums."""
    live = TokenScorer(load_causal_lm(folders["initial"], dtype=torch.float32))
    batch = pack(SETS, pad_token_id=0)
    with torch.no_grad():
        logps = live(batch, chunk_tokens=1024).logps
    sums = batch.scatter(sum_by_response(logps, batch.response_index, 15)).tolist()
    cached = scorer(folders["initial"]).annotate(table(SETS))["reference_logps"].to_pylist()
    assert [value for row in cached for value in row] == pytest.approx([v for row in sums for v in row], abs=2e-5)


def test_a_value_does_not_depend_on_the_batch_or_its_order(folders: dict[str, str]) -> None:
    """Invariant 11, to fp32: one set at a time, all at once, and in another order."""
    rows, order = table(SETS), [3, 0, 4, 2, 1]
    together = scorer(folders["initial"], tokens_per_batch=10_000).annotate(rows)
    small = scorer(folders["initial"], tokens_per_batch=1)
    alone = pa.concat_tables([small.annotate(rows.slice(i, 1)) for i in range(len(SETS))])
    permuted = scorer(folders["initial"]).annotate(rows.take(pa.array(order)))
    for name in SUMS:
        assert flat(alone, name) == pytest.approx(flat(together, name), abs=2e-5)
        assert flat(permuted, name) == pytest.approx(flat(together.take(pa.array(order)), name), abs=2e-5)


def test_a_response_of_no_token_has_sums_of_zero_and_ragged_sets_stay_ragged(folders: dict[str, str]) -> None:
    """Sets of 3, 1 and 0 responses."""
    sets = [ResponseSet("a", [3, 4], [[5], [], [6, 2]]), ResponseSet("b", [7], [[8, 9]]), ResponseSet("c", [7], [])]
    found = scorer(folders["initial"]).annotate(table(sets))
    assert found["response_lengths"].to_pylist() == [[1, 0, 2], [2], []]
    assert [len(row) for row in found["reference_logps"].to_pylist()] == [3, 1, 0]
    assert found["reference_logps"][0].as_py()[1] == 0.0
    expected = distributions(folders["initial"], sets[1:2])[0][0]
    assert found["reference_logps"][1].as_py()[0] == pytest.approx(
        float(expected[0].gather(1, expected[1][:, None]).sum()), abs=1e-5
    )


def test_the_kl_is_exact_at_every_token_and_summed_over_the_response(folders: dict[str, str]) -> None:
    """sum_t sum_v p (ln p - ln q) in float64 by transformers alone; so are the log-probs and entropies beside it."""
    found = scorer(folders["initial"]).exact_kl(table(SETS), folders["later"])
    ours, theirs = distributions(folders["later"], SETS), distributions(folders["initial"], SETS)
    pairs = [(*p, q[0]) for mine, other in zip(ours, theirs, strict=True) for p, q in zip(mine, other, strict=True)]
    kl = [float((p.exp() * (p - q)).sum()) for p, _, q in pairs]
    assert flat(found, "kl") == pytest.approx(kl, rel=1e-5)
    assert flat(found, "policy_logps") == pytest.approx(
        [float(p.gather(1, ids[:, None]).sum()) for p, ids, _ in pairs], abs=2e-5
    )
    assert flat(found, "reference_logps") == pytest.approx(
        [float(q.gather(1, ids[:, None]).sum()) for _, ids, q in pairs], abs=2e-5
    )
    assert flat(found, "policy_entropies") == pytest.approx(
        [float(-(p.exp() * p).sum()) for p, _, _ in pairs], abs=2e-5
    )
    assert min(kl) > 0.05


def test_a_policy_is_no_distance_from_itself(folders: dict[str, str]) -> None:
    """KL(p || p) = 0 exactly, and the two log-probs are one number."""
    found = scorer(folders["initial"]).exact_kl(table(SETS), folders["initial"])
    assert flat(found, "kl") == [0.0] * 15
    assert flat(found, "policy_logps") == flat(found, "reference_logps")


def test_the_mean_kl_along_samples_is_the_mean_log_ratio(folders: dict[str, str]) -> None:
    """Along T = 1 samples E[KL sum] = E[ln p - ln q]: 600 responses of 3 tokens, 5 standard errors.

    The exact KL varies less than the log-ratio it replaces.
    """
    policy = load_causal_lm(folders["later"], dtype=torch.float32)
    torch.manual_seed(0)
    ids = torch.full((600, 1), 5)
    with torch.no_grad():
        for _ in range(3):
            ids = torch.cat([ids, torch.multinomial(policy(ids).logits[:, -1].softmax(-1), 1)], dim=1)
    drawn = [ResponseSet("p", [5], ids[:, 1:].tolist())]
    found = scorer(folders["initial"], tokens_per_batch=4000).exact_kl(table(drawn), folders["later"])
    kl = torch.tensor(flat(found, "kl"))
    ratio = torch.tensor(flat(found, "policy_logps")) - torch.tensor(flat(found, "reference_logps"))
    difference = ratio - kl
    assert abs(difference.mean()) < 5 * difference.std() / 600**0.5
    assert kl.std() < ratio.std()


def test_another_reference_is_taken_and_models_at_hand_are_not_read_again(
    folders: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Initial, KL with later (one read, asked twice), later becomes the reference: no further read."""
    from raypo.scoring import reference

    reads = []
    real = reference.load_causal_lm
    monkeypatch.setattr(reference, "load_causal_lm", lambda path, **k: (reads.append(path), real(path, **k))[1])
    made = scorer(folders["initial"])
    made.exact_kl(table(SETS[:1]), folders["later"])
    made.exact_kl(table(SETS[1:2]), folders["later"])
    made.load(folders["later"])
    made.load(folders["later"])
    moved = made.annotate(table(SETS))
    assert reads == [folders["initial"], folders["later"]]
    assert made.folder == folders["later"]
    assert flat(moved, "reference_logps") == flat(scorer(folders["later"]).annotate(table(SETS)), "reference_logps")


def test_bf16_annotation_is_near_and_not_equal(folders: dict[str, str]) -> None:
    """The compute type is that of training: 8 bits of mantissa, so within 3 % here, and not the fp32 sums."""
    exact = flat(scorer(folders["initial"]).annotate(table(SETS)), "reference_logps")
    rough = flat(scorer(folders["initial"], compute_dtype="bfloat16").annotate(table(SETS)), "reference_logps")
    assert rough == pytest.approx(exact, rel=0.03, abs=0.05)
    assert rough != exact


def test_the_vocabulary_is_the_width_of_the_logits(folders: dict[str, str]) -> None:
    """64, and 72 with eight more."""
    assert scorer(folders["initial"]).vocabulary_size() == VOCABULARY
    assert scorer(folders["wider"]).vocabulary_size() == VOCABULARY + 8


def test_kl_between_two_vocabularies_is_refused(folders: dict[str, str]) -> None:
    """72 logits against 64."""
    with pytest.raises(ModelError, match=r"has 72 logits, the reference .* has 64"):
        scorer(folders["initial"]).exact_kl(table(SETS), folders["wider"])


def test_a_sequence_longer_than_the_context_is_refused_and_not_extrapolated(folders: dict[str, str]) -> None:
    """The tiny model's context is 64: 60 + 4 fit, 61 + 4 do not."""
    made = scorer(folders["initial"])
    made.annotate(table([ResponseSet("fits", [5] * 60, [[6] * 4])]))
    with pytest.raises(
        ModelError, match=r"prompt long with its longest response has 65 tokens, the context of .* is 64"
    ):
        made.annotate(table([ResponseSet("long", [5] * 61, [[6] * 4])]))


def test_a_folder_that_cannot_be_read_is_refused(folders: dict[str, str], tmp_path: Path) -> None:
    """Missing, or a config that is no JSON."""
    with pytest.raises(ModelError, match="no such folder"):
        scorer(str(tmp_path / "nothing"))
    (tmp_path / "config.json").write_text(json.dumps({})[:-1])
    with pytest.raises(ModelError, match=r"config\.json cannot be read"):
        scorer(str(tmp_path))
