"""raypo.bench: the arithmetic of its figures, and that gradients are compared before anything is timed."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

import pytest
import torch

from raypo.bench import floor, train, trl_environment
from raypo.bench.measure import spread
from raypo.errors import RunError


def test_the_spread_of_repeats() -> None:
    """1, 2, 6: mean 3, deviations -2, -1, 3, variance (4 + 1 + 9) / 2 = 7."""
    found = spread([1.0, 2.0, 6.0])
    assert found == {"mean": 3.0, "std": pytest.approx(7**0.5), "min": 1.0, "max": 6.0}
    assert spread([2.0])["std"] == 0.0


def test_the_operations_of_a_set() -> None:
    """One response of 1 token after a prompt of 1, apart: 2 tokens, 1 + 1 + 1 pairs, one application of the head.

    6 x 6 x (4 x 384^2 + 3 x 384 x 1024) = 63,700,992 per token; 14 x 6 x 384 = 32,256 per pair; head 6 x 384 x 8192 =
    18,874,368. Shared, the response's token is left out of the row: 1 token, 1 pair. 20 responses of 64 tokens predict
    1,280, of which a first chunk of 1,024 is computed again: 6 x 1,280 + 2 x 1,024 = 9,728 applications of the head.
    """
    assert floor.flops(1, 1, 1, shared=False) == 2 * 63_700_992 + 3 * 32_256 + 18_874_368
    assert floor.flops(1, 1, 1, shared=True) == 63_700_992 + 32_256 + 18_874_368
    pairs = 1 + 20 * (63 * 64 / 2 + 63)
    expected = 63_700_992 * (1 + 20 * 63) + 32_256 * pairs + 9_728 * 384 * 8192
    assert floor.flops(20, 1, 64, shared=True) == expected


def test_ratios_take_the_peers_best_batch_size_with_cached_references() -> None:
    """Per pair 0.4 and 0.3 s: 16 x 0.3 / 0.2 = 24, 0.3 / 0.2 = 1.5, 900 / 300; memory against batch 1: 0.5 / 1, 0.1 /
    0.8; and 0.6 / 0.2 = 3.
    """
    own = {"per pair": None, "tokens/s": 900.0, "peak GB": 0.5, "beyond libraries GB": 0.1}
    rows = [
        own | {"case": "K=8, shared", "mean": 0.2},
        own | {"case": "K=8, none", "mean": 0.6},
        own | {"case": "K=2, shared", "mean": 0.1},
        {"case": "TRL, batch 1", "per pair": 0.4, "tokens/s": 200.0, "peak GB": 1.0, "beyond libraries GB": 0.8},
        {"case": "TRL, batch 2", "per pair": 0.3, "tokens/s": 300.0, "peak GB": 2.0, "beyond libraries GB": 0.5},
        {
            "case": "TRL, batch 2, live reference",
            "per pair": 0.1,
            "tokens/s": 900.0,
            "peak GB": 0.1,
            "beyond libraries GB": 0.1,
        },
    ]
    assert list(train.ratios(rows, 8).values()) == pytest.approx([24.0, 1.5, 3.0, 0.5, 0.125, 3.0])


def test_growth_is_told_per_response_token_and_against_eight(monkeypatch: pytest.MonkeyPatch) -> None:
    """K = 8 of 4 tokens in .032 s, the least of two: 1 ms per token; the budget is a prompt of 3 and 8 x 4."""

    def child(folder: Path, case: dict[str, float]) -> dict[str, object]:
        assert case["budget"] == 35
        return {"seconds": [0.004 * case["responses"], 9.0], "peak_bytes": 10**9 + 10**6 * (case["responses"] > 8)}

    monkeypatch.setattr(train, "run_own", child)
    rows = train.growth(train.Plan(prompt=3, response=4))
    assert [row["K"] for row in rows] == [8, 32, 128, 512]
    assert [row["ms per token"] for row in rows] == pytest.approx([1.0] * 4)
    assert [row["of K = 8"] for row in rows] == pytest.approx([1.0] + [1.001] * 3)


def test_gradients_that_differ_end_the_benchmark(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """3, 4 against 3, 5: a distance of 1 / sqrt(34)."""
    from safetensors.torch import save_file

    assert train.distance({"a": torch.tensor([3.0, 4.0])}, {"a": torch.tensor([3.0, 5.0])}) == pytest.approx(34**-0.5)
    assert train.distance({"a": torch.ones(1)}, {"b": torch.ones(1)}) == float("inf")

    def child(folder: Path, case: dict[str, str]) -> dict[str, float]:
        save_file({"a": torch.tensor([3.0, 4.0 if case["packing"] == "shared" else 5.0])}, case["gradients"])
        return {"loss": 1.0}

    monkeypatch.setattr(train, "run_own", child)
    with pytest.raises(RunError, match=r"w-mpo, shared: gradients differ by 0\.171"):
        train.agreement(tmp_path, train.Plan())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["w-mpo-none", "w-mpo-shared"]


def test_the_peers_tokenizer_reads_the_same_ids(tmp_path: Path) -> None:
    """Otherwise both sides would train on other data."""
    import json

    from transformers import AutoTokenizer

    train.make_inputs(tmp_path, 2, 20, 6, count=1)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    (one,) = json.loads((tmp_path / "sets.json").read_text(encoding="utf-8"))
    (pair,) = json.loads((tmp_path / "pairs.json").read_text(encoding="utf-8"))
    for name, response in zip(("chosen", "rejected"), one["responses"], strict=True):
        assert tokenizer(pair["prompt"] + pair[name])["input_ids"] == one["prompt"] + response


@pytest.mark.chaos
def test_layouts_agree_in_processes_of_their_own(tmp_path: Path) -> None:
    """A small set through the real children. At policy == reference DPO's loss would be ln 2 = 0.693."""
    train.make_inputs(tmp_path, 3, 12, 5, count=1)
    found = train.agreement(tmp_path, train.Plan(responses=3, threads=1))
    assert set(found) == {"w-mpo, shared", "dpo, shared"}
    assert abs(found["dpo, shared"]["loss"] - 0.693147) > 1e-3


def test_the_peer_needs_uv_or_an_interpreter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without uv on the path, and with an interpreter that lacks trl, the message says what to do."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RunError, match="no `uv`"):
        trl_environment.make_interpreter(tmp_path / "trl")
    empty = tmp_path / "python"
    empty.write_text(f'#!/bin/sh\nexec {sys.executable} -S -I "$@"\n')  # no site-packages
    empty.chmod(0o755)
    with pytest.raises(RunError, match="trl"):
        trl_environment.versions(str(empty))


def test_the_peers_release_is_the_one_that_parity_is_tested_with() -> None:
    group = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["dependency-groups"]["parity"]
    assert trl_environment.TRL.removesuffix(".0") in {one.removesuffix(".*") for one in group}
