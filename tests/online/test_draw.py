"""The sampled part of `raypo doctor`, and `raypo sample`: real engines in the session's Ray."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from raypo.config import RunConfig, build
from raypo.data.chat import load_sets
from raypo.doctor.examination import examine
from raypo.errors import ConfigError
from raypo.models.load import load_tokenizer
from raypo.online import draw
from raypo.stages import tables

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(tiny_tied_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunConfig:
    """Six prompts, three responses each, a reward that counts ones. Parts of two prompts."""
    rows = [{"prompt": f"w{i} w{i + 3}", "number": i} for i in range(6)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    tree: dict[str, Any] = {
        "output": str(tmp_path / "runs"),
        "policy": {"path": str(tiny_tied_model), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": str(tmp_path / "prompts.jsonl"), "max_prompt_tokens": 8},
        "sampling": {"num_responses": 3, "max_response_tokens": 8, "batch_prompts": 2},
        "rewards": [{"name": "ones", "path": "tests.rewards_of_tests:ones"}],
    }
    monkeypatch.setattr(draw, "BATCHES_PER_PART", 1)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.syspath_prepend(ROOT)
    return build(tree)


def quiet() -> Console:
    """A wide console that keeps what it is told."""
    return Console(record=True, width=300, file=io.StringIO())


@pytest.mark.slow
def test_the_doctor_samples_sixteen_responses_and_scores_them(ray_cluster: None, config: RunConfig) -> None:
    """6 prompts of 3 responses are 18, and of 5 of them 15. The actors are gone afterwards: all 8 CPUs are free."""
    import ray

    console = quiet()
    found = {one.name: one for one in examine(config, sampled=True, console=console)}
    told = console.export_text()
    assert {one.name for one in found.values() if one.verdict == "fail"} == set(), told
    assert found["resources"].got.startswith("5 CPUs asked, 8 free")
    assert found["shared files"].got.endswith("and 1 model folders")
    assert re.match(r"\d+ of 18 responses end by themselves, \d+ are cut at 8 tokens", found["responses"].got)
    assert found["reward ones"].got.endswith("on 18 of 18 responses, weight 1")
    assert told.count("response 2 (") == 2, "two sets are shown as trained"
    assert not list(Path(config.output).glob("**/*")), "a doctor leaves nothing behind"
    for _ in range(100):
        if ray.available_resources().get("CPU") == 8:
            break
        ray.wait([ray.put(0)], timeout=0.1)
    assert ray.available_resources().get("CPU") == 8


@pytest.mark.chaos
def test_samples_are_kept_part_by_part_and_train_as_they_are(
    ray_cluster: None, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three parts of two prompts. The second call finds two of them and draws the third again, the same: seeds belong
    to prompts. The third call starts nothing.
    """
    out = tmp_path / "samples"
    facts = draw.sample_policy(config, out, console=quiet())
    assert (facts["sets"], facts["responses"]) == (6, 18)
    text = (out / "sets.jsonl").read_text()
    kept = [(out / "parts" / f"part-000{index}" / tables.MANIFEST) for index in range(3)]
    before = [path.read_bytes() for path in kept]
    contents = json.loads(before[1])["content"]
    kept[1].unlink()
    draw.sample_policy(config, out, console=quiet())
    assert (out / "sets.jsonl").read_text() == text
    assert json.loads(kept[1].read_text())["content"] == contents
    assert [kept[0].read_bytes(), kept[2].read_bytes()] == [before[0], before[2]]

    monkeypatch.setattr(draw.cluster, "start", lambda *_, **__: pytest.fail("Ray was started for nothing"))
    draw.sample_policy(config, out, console=quiet())
    with pytest.raises(ConfigError, match=r"other samples; changed: config\.sampling\.temperature"):
        draw.sample_policy(
            config.model_copy(update={"sampling": config.sampling.model_copy(update={"temperature": 0.5})}), out
        )
    with pytest.raises(ConfigError, match="all, train, heldout"):
        draw.sample_policy(config, out, split="test")

    rows = [json.loads(line) for line in text.splitlines()]
    assert {row["number"] for row in rows} == set(range(6)), "the other columns of a prompt come along"
    for row in rows:
        assert row["rewards"] == [response.count("1") for response in row["responses"]]
    given = config.prompts.model_copy(update={"path": str(out / "sets.jsonl")})
    sets, read = load_sets(given, load_tokenizer(config.policy.path), max_response_tokens=64)
    assert read["formats"] == {"native": 6}
    assert sets.num_rows == 6
