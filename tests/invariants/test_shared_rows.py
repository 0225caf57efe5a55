"""Invariant 2: responses that share their prompt in one row give what rows of their own give."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny import causal_lm, response_sets, training_config, trajectory, w_mpo
from torch import Tensor
from torch.nn.attention.flex_attention import create_mask, flex_attention
from transformers import AutoModelForCausalLM, DeepseekV3Config

from raypo.data.packing import Packing, ResponseSet, pack
from raypo.errors import ModelError
from raypo.logprobs import sum_by_response
from raypo.models import attention
from raypo.models.scorer import TokenScorer, check_shared
from raypo.models.shard import recompute
from raypo.models.split import split_attention
from raypo.objective import set_loss
from raypo.scoring.reference import ReferenceScorer

# prompts of 1, 20 and 2 to 5 tokens; responses of 0, 1 and 2 tokens, of 17 to 40, and of 1 to 6
SETS = [
    ResponseSet("one", [5], [[], [3], [4, 5]]),
    ResponseSet("long", list(range(3, 23)), [list(range(4, 4 + n)) for n in (17, 18, 33, 40)]),
    *response_sets(4, responses=3),
]

MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama, as many key heads": ("llama", {"num_key_value_heads": 2}),
    "qwen2": ("qwen2", {}),
    "qwen3": ("qwen3", {}),
    "mistral": ("mistral", {"sliding_window": None}),
    "mistral, window of 4": ("mistral", {"sliding_window": 4}),
    "mistral, window of 25": ("mistral", {"sliding_window": 25}),
    "gemma2, window of 4 and soft cap": ("gemma2", {"attn_logit_softcapping": 1.0}),
    "gemma2, window of 4": ("gemma2", {"attn_logit_softcapping": None}),
    "granite": ("granite", {}),
    "cohere": ("cohere", {}),
}


def loss_and_gradients(scorer: TokenScorer, packing: Packing) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Token log-probs, the summed w-mpo loss of SETS, and its gradients by name."""
    batch = pack(SETS, pad_token_id=0, packing=packing)
    logps = scorer(batch, chunk_tokens=16).logps
    table = batch.scatter(sum_by_response(logps, batch.response_index, len(batch.slot)))
    mask = batch.scatter(torch.ones(len(batch.slot))) > 0
    rewards = -torch.arange(4.0).expand(len(SETS), 4).contiguous()
    lengths = batch.scatter(torch.bincount(batch.response_index, minlength=len(batch.slot)).float()).long()
    given = {"reference_logps": table.detach() - 1, "lengths": lengths, "rewards": rewards, "mask": mask}
    loss = set_loss(w_mpo(), policy_logps=table, psi=torch.ones(len(SETS)), **given).loss.sum()
    loss.backward()
    return logps.detach(), loss.detach(), {name: p.grad for name, p in scorer.named_parameters() if p.grad is not None}


def apart(ours: Tensor, theirs: Tensor) -> float:
    """Norm of the difference over the norm."""
    return float((ours - theirs).norm() / theirs.norm())


@pytest.mark.parametrize("name", MODELS)
def test_loss_and_gradients_are_those_of_separate_rows(name: str) -> None:
    """To 1e-5 of their norms, fp32; a parameter whose gradient cancels is measured against the largest."""
    kind, extra = MODELS[name]
    own = loss_and_gradients(TokenScorer(causal_lm(kind, max_position_embeddings=128, **extra)), "none")
    shared = loss_and_gradients(TokenScorer(causal_lm(kind, max_position_embeddings=128, **extra)), "shared")
    assert apart(shared[0], own[0]) < 1e-5
    assert apart(shared[1], own[1]) < 1e-5
    largest = max(float(gradient.norm()) for gradient in own[2].values())
    assert set(shared[2]) == set(own[2])
    for parameter, gradient in own[2].items():
        gap = float((shared[2][parameter] - gradient).norm())
        assert gap < 1e-5 * max(float(gradient.norm()), 1e-2 * largest), parameter


def test_layers_that_are_computed_again_give_the_same_gradients_bitwise() -> None:
    plain, again = (
        TokenScorer(causal_lm(max_position_embeddings=128)),
        TokenScorer(causal_lm(max_position_embeddings=128)),
    )
    recompute(again)
    own, other = loss_and_gradients(plain, "shared")[2], loss_and_gradients(again, "shared")[2]
    assert all(torch.equal(own[name], other[name]) for name in own)


def test_training_follows_one_trajectory_in_both_layouts() -> None:
    curves = [
        [
            value
            for one in trajectory(TokenScorer(causal_lm()), training_config(packing=packing), 4)
            for value in (one["loss"], one["grad_norm"])
        ]
        for packing in ("none", "shared")
    ]
    assert curves[1] == pytest.approx(curves[0], abs=1e-4)


def test_the_annotated_reference_is_the_live_one_in_either_layout(tmp_path: Path) -> None:
    """Invariant 5 with each layout on each side."""
    import pyarrow as pa

    model = causal_lm(max_position_embeddings=128)
    model.save_pretrained(tmp_path)
    rows = pa.table(
        {
            "prompt_id": [one.prompt_id for one in SETS],
            "prompt_token_ids": [list(one.prompt_token_ids) for one in SETS],
            "response_token_ids": [[list(ids) for ids in one.response_token_ids] for one in SETS],
        }
    )
    found = []
    for packing in ("none", "shared"):
        given: dict[str, Any] = {"compute_dtype": "float32", "tokens_per_batch": 60, "chunk_tokens": 5}
        cached = ReferenceScorer(str(tmp_path), packing=packing, **given).annotate(rows)
        found.append([value for row in cached["reference_logps"].to_pylist() for value in row])
        batch = pack(SETS, pad_token_id=0, packing=packing)
        with torch.no_grad():
            logps = TokenScorer(model)(batch, chunk_tokens=1000).logps
        found.append(sum_by_response(logps, batch.response_index, len(batch.slot)).tolist())
    for values in found[1:]:
        assert values == pytest.approx(found[0], abs=1e-4, rel=1e-6)


# ---- responses do not meet


def test_a_changed_token_leaves_other_responses_and_sets_as_they_are_bitwise() -> None:
    """Token 9 of the long set's third response becomes 60; log-probs of all other responses keep every bit."""
    scorer = TokenScorer(causal_lm(max_position_embeddings=128))
    changed = [list(ids) for ids in SETS[1].response_token_ids]
    changed[2][9] = 60
    batches = [
        pack([SETS[0], one, *SETS[2:]], pad_token_id=0, packing="shared")
        for one in (SETS[1], replace(SETS[1], response_token_ids=changed))
    ]
    with torch.no_grad():
        before, after = (scorer(batch, chunk_tokens=16)[0] for batch in batches)
    owner = batches[0].response_index
    touched = owner == 5  # three of the first set, then the third
    assert torch.equal(before[~touched], after[~touched])
    assert torch.equal(before[touched][:9], after[touched][:9])
    assert (before[touched][9:] != after[touched][9:]).all()


def test_a_responses_loss_has_no_gradient_at_other_responses() -> None:
    """A token that stands in one response alone: through others' log-probs its embedding gets exactly 0."""
    scorer = TokenScorer(causal_lm(max_position_embeddings=128))
    used = {token for one in SETS for ids in [one.prompt_token_ids, *one.response_token_ids] for token in ids}
    only = min(set(range(3, 64)) - used)  # 0 is padding, whose embedding never trains
    changed = [list(ids) for ids in SETS[1].response_token_ids]
    changed[2][9] = only
    batch = pack([SETS[0], replace(SETS[1], response_token_ids=changed), *SETS[2:]], pad_token_id=0, packing="shared")
    embedding = scorer.causal.get_input_embeddings().weight
    for response, nothing in ((5, False), (4, True), (6, True), (8, True)):
        logps = scorer(batch, chunk_tokens=16).logps
        (gradient,) = torch.autograd.grad(logps[batch.response_index == response].sum(), embedding)
        assert bool((gradient[only] == 0).all()) == nothing, response


# ---- the rule and its two implementations


SPANS = ((0, 2, (2, 0, 1)), (5, 1, (1,)))


def test_the_rule_of_who_sees_whom() -> None:
    """Rows: prompt a b, y1 = c d, y3 = e; prompt f, y1 = g. e stands at position 2, as c does."""
    seen = [
        "x......",  # a
        "xx.....",  # b
        "xxx....",  # c
        "xxxx...",  # d
        "xx..x..",  # e
        ".....x.",  # f
        ".....xx",  # g
    ]
    assert attention.dense_mask(SPANS, None).tolist() == [[c == "x" for c in row] for row in seen]
    windowed = ["x......", "xx.....", ".xx....", "..xx...", ".x..x..", ".....x.", ".....xx"]
    assert attention.dense_mask(SPANS, 2).tolist() == [[c == "x" for c in row] for row in windowed]


@pytest.mark.parametrize("window", [None, 1, 2, 7, 30])
def test_the_split_and_the_block_mask_follow_the_rule(window: int | None) -> None:
    """Against softmax written out, with gradients; the block mask's function, element by element, and its kernel."""
    spans = ((0, 20, (16, 17, 32, 5)), (90, 3, (0, 1, 40)), (134, 1, ()))
    mask = attention.dense_mask(spans, window)
    generator = torch.Generator().manual_seed(0)
    q, k, v, weight = (torch.randn(135, 2, 8, generator=generator, dtype=torch.float64) for _ in range(4))
    inputs = [x.requires_grad_() for x in (q, k, v)]
    scores = torch.einsum("qhd,khd->hqk", q, k).masked_fill(~mask, -torch.inf) * 0.3
    expected = torch.einsum("hqk,khd->qhd", scores.softmax(-1), v)
    gradients = torch.autograd.grad((expected * weight).sum(), inputs)
    singles = [x.detach().float().requires_grad_() for x in inputs]
    out = split_attention(*singles, spans, window=window, scale=0.3)
    assert torch.allclose(out.double(), expected, atol=1e-5)
    for ours, theirs in zip(torch.autograd.grad((out * weight.float()).sum(), singles), gradients, strict=True):
        assert torch.allclose(ours.double(), theirs, atol=1e-5)
    block = attention._block_mask(spans, window, torch.device("cpu"))
    assert torch.equal(create_mask(block.mask_mod, 1, 1, 135, 135, device="cpu")[0, 0], mask)
    flexed = flex_attention(*(x.detach().transpose(0, 1)[None] for x in inputs), block_mask=block, scale=0.3)
    assert torch.allclose(flexed[0].transpose(0, 1), expected, atol=1e-6)


def test_the_split_in_bfloat16_stays_near() -> None:
    """8 bits: values of order 1 to about 1e-2."""
    spans = ((0, 20, (16, 17)),)
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(53, 2, 8, generator=generator) for _ in range(3))
    exact = split_attention(q, k, v, spans, window=None, scale=0.3)
    rough = split_attention(*(x.bfloat16() for x in (q, k, v)), spans, window=None, scale=0.3)
    assert rough.dtype == torch.bfloat16
    assert torch.allclose(rough.float(), exact, atol=0.05)


# ---- what is refused


def test_layers_of_another_kind_are_refused() -> None:
    model = causal_lm("qwen3")
    model.config.layer_types = ["full_attention", "linear_attention"]
    with pytest.raises(ModelError, match="Qwen3ForCausalLM has linear_attention") as raised:
        TokenScorer(model).hidden(pack(SETS, pad_token_id=0, packing="shared"))
    assert "training.packing=none" in str(raised.value)


def test_attention_in_chunks_is_refused() -> None:
    model = causal_lm()
    model.config.attention_chunk_size = 8
    with pytest.raises(ModelError, match="attention in chunks"):
        check_shared(TokenScorer(model))


def test_a_model_with_an_attention_of_its_own_is_refused() -> None:
    model = causal_lm()
    model.set_attn_implementation("eager")
    with pytest.raises(ModelError, match="eager attention of its own"):
        check_shared(TokenScorer(model))


def test_heads_of_two_sizes_are_refused() -> None:
    """Queries of 8 + 16 numbers a head and values of 16, as DeepSeek-V3's of 192 and 128."""
    config = DeepseekV3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=2,
        q_lora_rank=16,
        kv_lora_rank=16,
        qk_rope_head_dim=8,
        qk_nope_head_dim=16,
        v_head_dim=16,
        first_k_dense_replace=1,
    )
    model = AutoModelForCausalLM.from_config(config, attn_implementation="sdpa")
    with pytest.raises(ModelError, match="values of 16 numbers a head and queries of 24") as raised:
        check_shared(TokenScorer(model))
    assert "training.packing=none" in str(raised.value)


def test_a_model_that_does_not_pass_the_spans_on_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = causal_lm()
    layer = type(model.model.layers[0])
    own = layer.forward

    def forgets(self: Any, *args: Any, prefix_spans: Any = None, **kwargs: Any) -> Any:
        return own(self, *args, **kwargs)

    monkeypatch.setattr(layer, "forward", forgets)
    with pytest.raises(ModelError, match="was not told which tokens share a prompt"):
        check_shared(TokenScorer(model))


def test_a_model_whose_tokens_meet_elsewhere_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here each token is mixed with the one before it, which need not be of its response."""
    model = causal_lm()
    mlp = type(model.model.layers[0].mlp)
    own = mlp.forward
    monkeypatch.setattr(mlp, "forward", lambda self, x: own(self, x + x.roll(1, 1)))
    with pytest.raises(ModelError, match="gets other hidden states"):
        check_shared(TokenScorer(model))


@pytest.mark.parametrize("kind", ["llama", "mistral", "gemma2", "qwen3"])
def test_known_architectures_pass_the_check(kind: str) -> None:
    check_shared(TokenScorer(causal_lm(kind)))


def test_one_set_of_training_needs_fewer_tokens_than_rows() -> None:
    """The long set: 20 + 16 + 17 + 32 + 39 = 124 tokens against 4 rows of 60."""
    assert SETS[1].tokens("shared") == 124
    assert SETS[1].tokens("none") == 240
