"""vLLM behind one small class: draws responses, and takes new weights while it runs.

An engine knows the weight version that it holds, and every call names the version that it needs: an engine that was
restarted behind the caller's back refuses instead of sampling from old weights. An update that was cut short leaves a
version of -1, with which nothing can be drawn: such an engine is replaced, not repaired.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from textwrap import shorten
from typing import Any, Literal

import pyarrow as pa
import torch
from safetensors import safe_open

from raypo.errors import DataError, EngineError, ModelError, StaleEngine

SPOILT = -1
CHUNK_BYTES = 256 * 2**20
CPU_MIN_HEAD = 32
CPU_BATCH_TOKENS = 4096
LONGEST = 600  # characters of what vLLM says

Backend = Literal["cpu", "gpu"]


def environment(backend: Backend, *, threads: int, kv_cache_gib: int, tensor_parallel: int) -> dict[str, str]:
    """Environment variables of an engine's process, set before vLLM is imported.

    On the CPU torch.compile is off (it would stall the first call for 15 s) and the engine runs in the process
    itself, so that the host rail can reach it. On a GPU vLLM compiles as it likes.

    Args:
        backend: "cpu" or "gpu".
        threads: OpenMP threads of a CPU engine.
        kv_cache_gib: memory for the KV cache of a CPU engine, GiB.
        tensor_parallel: GPUs of the engine; with more than one, vLLM spawns a process for each.
    """
    common = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "TOKENIZERS_PARALLELISM": "false"}
    if backend == "gpu":
        return common | ({"VLLM_ENABLE_V1_MULTIPROCESSING": "0"} if tensor_parallel == 1 else {})
    return common | {
        "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
        "TORCHDYNAMO_DISABLE": "1",
        "VLLM_CPU_KVCACHE_SPACE": str(kv_cache_gib),
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "PASSIVE",
    }


class Engine:
    """One vLLM engine. On the CPU, one per process.

    Args:
        folder: Hugging Face folder or hub name of the weights that it starts from.
        weight_version: version of those weights.
        dtype: "float32" or "bfloat16".
        max_model_tokens: longest prompt plus response.
        max_sequences: sequences decoded at once.
        backend: which build of vLLM.
        tensor_parallel: GPUs.
        gpu_memory_fraction: share of each GPU's memory.
        rail: "host" or "nccl": how live weights arrive.
        revision: hub revision.

    Raises:
        ModelError: the folder cannot be served.
    """

    def __init__(
        self,
        folder: str,
        *,
        weight_version: int,
        dtype: str,
        max_model_tokens: int,
        max_sequences: int,
        backend: Backend,
        tensor_parallel: int = 1,
        gpu_memory_fraction: float = 0.9,
        rail: Literal["host", "nccl"] = "host",
        revision: str | None = None,
    ) -> None:
        if backend == "cpu":
            check_head_size(folder)
        from vllm import LLM  # 6 s of imports: only engine processes pay for them

        from raypo.sampling import host

        host.register()
        self._version = SPOILT
        self._max_model_tokens = max_model_tokens
        devices: dict[str, Any] = {"gpu_memory_utilization": gpu_memory_fraction}
        if backend == "cpu":
            # vLLM rewinds the generator of a seeded request whose prompt it prefills in parts, which CPU generators
            # cannot do ("CPU Generator does not use offset"): prompts are prefilled whole
            whole = {"enable_chunked_prefill": False, "max_num_batched_tokens": max(max_model_tokens, CPU_BATCH_TOKENS)}
            devices = {"enforce_eager": True, **whole}
        try:
            self._llm = LLM(
                folder,
                revision=revision,
                dtype=dtype,
                trust_remote_code=False,
                load_format="safetensors",
                max_model_len=max_model_tokens,
                max_num_seqs=max_sequences,
                tensor_parallel_size=tensor_parallel,
                logprobs_mode="raw_logprobs",
                disable_log_stats=True,
                weight_transfer_config={"backend": host.BACKEND if rail == "host" else "nccl"},
                **devices,
            )
        except (ValueError, RuntimeError, OSError) as error:
            raise ModelError(
                f"vLLM cannot serve {folder}: {shorten(str(error), LONGEST)}",  # its first line may be a mere title
                "a causal language model that vLLM knows",
                "see engine.* and the model's config.json",
            ) from error
        if rail == "host":
            self._llm.init_weight_transfer_engine({"init_info": {}})
        self._rail = rail
        self._version = weight_version

    def version(self) -> int:
        """Weight version held; -1 after an update that was not finished."""
        return self._version

    def generate(
        self,
        version: int,
        prompts: Sequence[Sequence[int]],
        seeds: Sequence[int],
        *,
        num_responses: int,
        max_response_tokens: int,
        temperature: float,
        top_p: float,
        stop_token_ids: Sequence[int] = (),
    ) -> pa.Table:
        """Draw responses.

        Args:
            version: weight version that the caller needs.
            prompts: token ids.
            seeds: one per prompt; response k is drawn with seed + k.
            num_responses: per prompt.
            max_response_tokens: longest response, the stop token included.
            temperature: 0 is greedy (then num_responses must be 1).
            top_p: nucleus mass.
            stop_token_ids: end a response beside the model's own end-of-sequence ids.

        Returns:
            one row per prompt: responses, response_token_ids (as drawn, the stop token once and last), finish_reasons,
            engine_logps (sum of the raw log p of the drawn tokens, nats).

        Raises:
            StaleEngine: the engine holds another version.
            DataError: a prompt leaves no room for a response.
        """
        self._require(version)
        longest = max((len(prompt) for prompt in prompts), default=0)
        if longest + max_response_tokens > self._max_model_tokens:
            raise DataError(
                f"a prompt of {longest} tokens and a response of {max_response_tokens} exceed the engine's context of "
                f"{self._max_model_tokens}",
                "prompt + response within the context",
                "lower prompts.max_prompt_tokens or sampling.max_response_tokens, or raise engine.max_model_tokens",
            )
        from vllm import SamplingParams

        params = [
            SamplingParams(
                n=num_responses,
                seed=seed,
                temperature=temperature,
                top_p=top_p,
                max_tokens=max_response_tokens,
                stop_token_ids=list(stop_token_ids),
                logprobs=0,
                skip_special_tokens=True,
            )
            for seed in seeds
        ]
        requests = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        answers = self._llm.generate(requests, params, use_tqdm=False)
        return pa.Table.from_pylist([row_of(answer) for answer in answers])

    def load(self, folder: str, version: int) -> None:
        """Take the weights of a durable Hugging Face folder.

        Raises:
            ModelError: the folder has no safetensors.
        """
        files = sorted(Path(folder).glob("*.safetensors"))
        if not files:
            raise ModelError(f"{folder} has no *.safetensors", "an exported model folder")
        self._spoil()
        if self._rail == "nccl":
            self._llm.llm_engine.collective_rpc("reload_weights", kwargs={"weights_path": folder})
            self._settle(version)
            return
        self._llm.start_weight_update()
        chunk: list[tuple[str, torch.Tensor]] = []
        size = 0
        for file in files:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a mapping
                    chunk.append((name, opened.get_tensor(name)))
                    size += chunk[-1][1].nbytes
                    if size > CHUNK_BYTES:
                        self._receive(chunk)
                        chunk, size = [], 0
        self._receive(chunk)
        self._llm.finish_weight_update(weight_version=str(version))
        self._settle(version)

    def start_update(self) -> None:
        """Begin a live update: until it is finished the engine draws nothing."""
        self._spoil()
        self._llm.start_weight_update()

    def update(self, chunk: list[tuple[str, torch.Tensor]]) -> None:
        """Take some of the weights, from host memory."""
        self._receive(chunk)

    def finish_update(self, version: int) -> None:
        """End a live update: the engine now holds the version."""
        self._llm.finish_weight_update(weight_version=str(version))
        self._settle(version)

    def init_transfer(self, info: dict[str, Any]) -> None:
        """Join a transfer group (nccl rail)."""
        self._llm.init_weight_transfer_engine({"init_info": info})

    def receive(self, info: dict[str, Any]) -> None:
        """Take broadcast weights (nccl rail); blocks until the sender has sent them."""
        self._llm.update_weights({"update_info": info})

    def close_transfer(self) -> None:
        """Leave the transfer group (nccl rail)."""
        self._llm.shutdown_weight_transfer_engine()

    def _receive(self, chunk: list[tuple[str, torch.Tensor]]) -> None:
        if self._version != SPOILT:
            raise EngineError("weights arrived outside an update", "start_update first")
        if chunk:
            self._llm.update_weights({"update_info": {"weights": chunk}})

    def _spoil(self) -> None:
        if self._version == SPOILT:
            raise EngineError("an earlier update was cut short", "a new engine", "replace the engine")
        self._version = SPOILT

    def _settle(self, version: int) -> None:
        self._llm.reset_prefix_cache()  # vLLM would go on with keys and values of the old weights
        self._version = version

    def _require(self, version: int) -> None:
        if self._version != version:
            raise StaleEngine(
                f"the engine holds weight version {self._version}",
                f"version {version}, which the call names",
                "bring the engine up from the folder of that version",
            )


def row_of(answer: Any) -> dict[str, Any]:
    """One prompt's responses as a row; ids are those that vLLM drew."""
    outputs = sorted(answer.outputs, key=lambda output: output.index)
    return {
        "responses": [output.text for output in outputs],
        "response_token_ids": [list(output.token_ids) for output in outputs],
        "finish_reasons": [output.finish_reason for output in outputs],
        "engine_logps": [
            sum(step[token].logprob for step, token in zip(output.logprobs, output.token_ids, strict=True))
            for output in outputs
        ],
    }


def check_head_size(folder: str) -> None:
    """VLLM's CPU attention takes heads from 32 up.

    Raises:
        ModelError: this model's are smaller.
    """
    path = Path(folder) / "config.json"
    if not path.is_file():
        return  # a hub name: vLLM will say
    config = json.loads(path.read_text(encoding="utf-8"))
    heads, width = config.get("num_attention_heads"), config.get("hidden_size")
    size = config.get("head_dim") or (width // heads if heads and width else CPU_MIN_HEAD)
    if size < CPU_MIN_HEAD:
        raise ModelError(
            f"{folder} has attention heads of size {size}",
            f"at least {CPU_MIN_HEAD} on a CPU engine",
            "pad the heads with zeros, or use a GPU",
        )
