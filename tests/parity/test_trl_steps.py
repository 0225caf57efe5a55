"""Whole steps against TRL 1.16: its forward pass and loss on a tiny Llama, and raypo's, with every gradient.

    uv run --extra cpu --group parity pytest -m trl

Unlike in `test_trl`, log-probs are each side's own, in fp32: TRL's from its fused head over rows of padded pairs,
raypo's from `raypo.training.passes` over sets that share their prompt in one row without padding.
"""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from compare import close
from torch import Tensor, nn
from trainers import batch, trainer

from raypo.config import TrainingConfig
from raypo.data.packing import ResponseSet, pack
from raypo.models.live import LiveReference
from raypo.models.scorer import TokenScorer
from raypo.objective import AnyObjective, preset
from raypo.training.against import mismatched_anchor
from raypo.training.passes import Ranks, backward
from raypo.training.sets import TrainingSet
from raypo.training.terms import Means

pytest.importorskip("trl", minversion="1.16", reason="TRL is not here: the dependency group parity brings it")
pytestmark = pytest.mark.trl

BETA = 0.3
ROWS = [0, 1, 2, 3]
FP32 = 1e-5  # DPO's gradient here is 2.7e-6 from float64's by TRL and 2.3e-6 by raypo; its value 9e-7 and 6e-7


@pytest.fixture
def away(tiny_model: Path, tmp_path: Path) -> Any:
    """A trainer whose policy has left its reference: each weight a little elsewhere."""

    def make(kind: str, **config: Any) -> Any:
        made, generator = trainer(kind, tiny_model, tmp_path, **config), torch.Generator().manual_seed(7)
        with torch.no_grad():
            for parameter in made.model.parameters():
                parameter.add_(0.02 * torch.randn(parameter.shape, generator=generator))
        return made

    return make


def plain(model: nn.Module) -> Any:
    """A copy with the architecture's own forward, which TRL's trainers replace."""
    copied = type(model)(deepcopy(model.config))
    copied.load_state_dict(model.state_dict())
    return copied.eval()


def against(reference: TokenScorer, sets: list[ResponseSet], rewards: list[list[float]]) -> list[TrainingSet]:
    """Sets with the reference's log-probs."""
    packed = pack(sets, pad_token_id=0)
    with torch.no_grad():
        logps = reference(packed, chunk_tokens=64).logps
    parts = iter([part.tolist() for part in logps.split(torch.bincount(packed.response_index).tolist())])
    made = []
    for one, row in zip(sets, rewards, strict=True):
        values = [next(parts) for _ in row]
        sums = [sum(each) for each in values]
        made.append(TrainingSet(one, sums, row, [True] * len(row), 1.0, reference_token_logps=values))
    return made


def step(
    objective: AnyObjective, policy: TokenScorer, reference: TokenScorer, sets: list[TrainingSet]
) -> tuple[float, dict[str, Tensor]]:
    """Mean loss and gradients of a step."""
    means = Means(policy, objective, TrainingConfig(), 0, "cpu", LiveReference(reference))
    if "anchor" in objective.terms:
        anchor = mismatched_anchor(means, sets, 0, 1)
        assert anchor > 0
        means = Means(policy, objective, TrainingConfig(), 0, "cpu", LiveReference(reference), anchor)
    sums = backward(means, sets, Ranks(0, 1))
    return sums["loss"].item() / len(sets), gradients(policy.model)


def gradients(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize(
    ("config", "name", "hyper"),
    [
        ({"loss_type": "sigmoid"}, "dpo", {"label_smoothing": 0.0}),
        ({"loss_type": "ipo"}, "ipo-mean", {}),
        ({"loss_type": "sigmoid_norm"}, "ln-dpo", {}),
        ({"loss_type": "aot_unpaired"}, "aot-unpaired", {"label_smoothing": 0.0}),
        ({"ld_alpha": 0.5}, "ld-dpo", {"tail": 0.5}),
        ({"use_weighting": True}, "wpo", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_a_step_over_pairs_is_trls(config: dict[str, Any], name: str, hyper: dict[str, float], away: Any) -> None:
    found = away("dpo", beta=BETA, **config)
    pairs = [found.train_dataset[i] for i in ROWS]
    sets = [
        ResponseSet(f"{i}", row["prompt_ids"], [row["chosen_ids"], row["rejected_ids"]]) for i, row in enumerate(pairs)
    ]
    compare(found, preset(name, beta=BETA, **hyper), sets, [[2.0, 1.0]] * len(sets))


def test_a_step_over_labels_is_trls(away: Any) -> None:
    """TRL shows each prompt the completion before its own, raypo the one after: rows in the other order, the same."""
    found = away("kto", beta=BETA)
    rows = [found.train_dataset[i] for i in reversed(ROWS)]
    sets = [ResponseSet(f"{i}", row["prompt_ids"], [row["completion_ids"]]) for i, row in enumerate(rows)]
    chosen = preset("kto", beta=BETA, desirable_weight=1.0, undesirable_weight=1.0)
    compare(found, chosen, sets, [[float(row["label"])] for row in rows])


def compare(of: Any, objective: AnyObjective, sets: list[ResponseSet], rewards: list[list[float]]) -> None:
    """The loss, and each parameter's gradient against the norm of all, to `FP32`."""
    of.model.zero_grad()
    value = of.compute_loss(of.model, batch(of, ROWS))
    value.backward()
    policy, reference = TokenScorer(plain(of.model)), TokenScorer(plain(of.ref_model))
    found, ours = step(objective, policy, reference, against(reference, sets, rewards))
    close(found, value.item(), FP32)
    theirs = gradients(of.model)
    norm = torch.stack([gradient.norm() for gradient in theirs.values()]).norm()
    assert norm > 0.01
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).norm() < FP32 * norm, name
