"""`raypo bench sample` on real engines: both sides draw the same tokens before a figure is told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from raypo.bench.sample import SamplePlan, bench_sample


@pytest.mark.chaos
def test_the_stage_and_vllm_alone_draw_the_same_and_are_told_beside_each_other(tmp_path: Path) -> None:
    """6 prompts of 2 responses of 5 tokens, one timed call; vLLM alone and the stage each in a process of its own."""
    plan = SamplePlan(prompts=6, prompt=8, responses=2, response=5, repeats=1, threads=1)
    found = bench_sample(plan, tmp_path / "sample.json")
    assert json.loads((tmp_path / "sample.json").read_text())["cases"] == found["cases"]
    assert [one["case"] for one in found["cases"]] == ["LLM.generate alone", "the sampling stage"]
    assert all(one["min"] > 0 for one in found["cases"])
    start, (sync, *_) = found["engine"]["start_seconds"], found["engine"]["sync_seconds"].values()
    assert found["ratios"]["seconds of an engine start / of a sync"] == pytest.approx(start / sync)
