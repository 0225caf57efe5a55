"""The real engine on a CPU: what it draws, what it refuses, and that a synced engine is a fresh one on the new weights.

vLLM's CPU engine takes one engine per process, so each check runs in a process of its own and returns plain values.
"""

from __future__ import annotations

import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from hf_folders import make_model
from transformers import AutoModelForCausalLM

from raypo.errors import DataError, EngineError, ModelError, StaleEngine
from raypo.sampling.engine import Engine, check_head_size, environment

PROMPTS = [[1, 5, 6], [1, 7, 8, 9], [1, 20]]
GREEDY: dict[str, Any] = {"num_responses": 1, "max_response_tokens": 16, "temperature": 0.0, "top_p": 1.0}
DRAWN: dict[str, Any] = {"num_responses": 3, "max_response_tokens": 16, "temperature": 1.0, "top_p": 1.0}
LOGP_TOLERANCE = 1e-4  # nats over a response of 16 tokens, fp32


def in_own_process(function: Any, *arguments: Any) -> Any:
    """Run a module-level function in a spawned process with the engine's environment."""
    os.environ.update(environment("cpu", threads=1, kv_cache_gib=1, tensor_parallel=1))
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:  # a lost child is an error
        return pool.submit(function, *arguments).result()


def start(folder: str, version: int = 0) -> Engine:
    return Engine(folder, weight_version=version, dtype="float32", max_model_tokens=64, max_sequences=64, backend="cpu")


def refused(kind: type[Exception], call: Any) -> str:
    """The message of an expected error."""
    try:
        call()
    except kind as error:
        return str(error)
    return "nothing was refused"


def live_then_durable(a: str, b: str) -> dict[str, Any]:
    """An engine on A, synced live to B, cut short, and beside it what it says on the way."""
    from raypo.models.export import read_weights

    engine = start(a)
    told: dict[str, Any] = {"a": engine.generate(0, PROMPTS, [1, 2, 3], **GREEDY).to_pylist()}
    told["alone"] = engine.generate(0, PROMPTS[:1], [11], **DRAWN).to_pylist()
    told["batched"] = engine.generate(0, PROMPTS, [11, 2**61, 12], **DRAWN).to_pylist()
    # 96 prompts of 60 tokens, more than one batch holds: prefilled in parts, seeded requests would break
    many = [[1, *range(3, 62)] for _ in range(96)]
    told["many"] = engine.generate(0, many, list(range(96)), **(DRAWN | {"max_response_tokens": 4})).num_rows
    every_stop = {**DRAWN, "stop_token_ids": list(range(10, 100)), "num_responses": 8}
    told["stopped"] = engine.generate(0, PROMPTS[:1], [5], **every_stop).to_pylist()
    engine.start_update()
    for weight in read_weights(b):
        engine.update([weight])
    told["during"] = refused(StaleEngine, lambda: engine.generate(0, PROMPTS, [1, 2, 3], **GREEDY))
    engine.finish_update(1)
    told["live"] = engine.generate(1, PROMPTS, [1, 2, 3], **GREEDY).to_pylist()
    told["stale"] = refused(StaleEngine, lambda: engine.generate(0, PROMPTS, [1, 2, 3], **GREEDY))
    told["long"] = refused(DataError, lambda: engine.generate(1, [[1] * 60], [1], **GREEDY))
    engine.load(a, 2)
    told["back"] = engine.generate(2, PROMPTS, [1, 2, 3], **GREEDY).to_pylist()
    engine.load(b, 3)
    told["durable"] = engine.generate(3, PROMPTS, [1, 2, 3], **GREEDY).to_pylist()
    engine.start_update()
    told["spoilt"] = engine.version(), refused(EngineError, engine.start_update)
    return told


def fresh(folder: str) -> list[dict[str, Any]]:
    """Greedy responses of an engine that starts from a folder."""
    return start(folder, 7).generate(7, PROMPTS, [1, 2, 3], **GREEDY).to_pylist()


def without_logps(rows: list[dict[str, Any]]) -> list[list[list[int]]]:
    return [row["response_token_ids"] for row in rows]


def model_logps(folder: Path, rows: list[dict[str, Any]]) -> list[float]:
    """Log-prob sums of the drawn tokens by transformers, nats."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    sums = []
    for prompt, row in zip(PROMPTS, rows, strict=True):
        ids = row["response_token_ids"][0]
        with torch.no_grad():
            logps = torch.log_softmax(model(torch.tensor([prompt + ids])).logits[0].float(), -1)
        sums.append(sum(float(logps[len(prompt) - 1 + k, token]) for k, token in enumerate(ids)))
    return sums


@pytest.mark.slow
@pytest.mark.parametrize("tied", [False, True], ids=["untied", "tied"])
def test_a_synced_engine_is_a_fresh_engine_on_the_new_weights(tied: bool, tmp_path: Path) -> None:
    """Compared at B: after A -> B -> A even a stale head would look right. Tokens are equal, log-probs within 1e-4."""
    a, b = make_model(tmp_path / "a", tied=tied), make_model(tmp_path / "b", tied=tied, seed=1)
    told = in_own_process(live_then_durable, str(a), str(b))
    expected = in_own_process(fresh, str(b))
    assert without_logps(told["a"]) != without_logps(expected)
    for way in ("live", "durable"):
        assert without_logps(told[way]) == without_logps(expected)
        found = [row["engine_logps"][0] for row in told[way]]
        assert found == pytest.approx(model_logps(b, told[way]), abs=LOGP_TOLERANCE)
    assert told["back"] == told["a"]
    assert told["many"] == 96
    # versions and limits
    assert "holds weight version 1" in told["stale"]
    assert "holds weight version -1" in told["during"]
    assert "exceed the engine's context of 64" in told["long"]
    assert told["spoilt"][0] == -1
    assert "cut short" in told["spoilt"][1]
    # seeds belong to the request: the same in another batch, and its neighbour draws its second response first
    assert told["alone"][0]["response_token_ids"] == told["batched"][0]["response_token_ids"]
    assert told["batched"][1]["response_token_ids"] != told["batched"][0]["response_token_ids"]
    # a stop token stands once, at the end
    for ids, reason in zip(told["stopped"][0]["response_token_ids"], told["stopped"][0]["finish_reasons"], strict=True):
        stops = [k for k, token in enumerate(ids) if 10 <= token < 100 or token == 2]
        assert stops == ([len(ids) - 1] if reason == "stop" else [])


def test_a_cpu_engine_refuses_small_heads(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"num_attention_heads": 4, "hidden_size": 64}')
    with pytest.raises(ModelError, match="heads of size 16"):
        check_head_size(str(tmp_path))


def test_only_cpu_engines_switch_compilation_off() -> None:
    cpu = environment("cpu", threads=2, kv_cache_gib=3, tensor_parallel=1)
    assert (cpu["TORCHDYNAMO_DISABLE"], cpu["OMP_NUM_THREADS"], cpu["VLLM_CPU_KVCACHE_SPACE"]) == ("1", "2", "3")
    assert "TORCHDYNAMO_DISABLE" not in environment("gpu", threads=2, kv_cache_gib=3, tensor_parallel=1)
    assert "VLLM_ENABLE_V1_MULTIPROCESSING" not in environment("gpu", threads=2, kv_cache_gib=3, tensor_parallel=2)
