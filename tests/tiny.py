"""Tiny models, sets and gloo ranks for the tests: everything is made by code, nothing is downloaded.

Functions that run in spawned processes live here, because a child imports them by name.
"""

from __future__ import annotations

import math
import os
import signal
import socket
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from safetensors.torch import save_file
from torch.distributed.device_mesh import init_device_mesh
from transformers import AutoModelForCausalLM as Auto
from transformers import (
    CohereConfig,
    Gemma2Config,
    GraniteConfig,
    LlamaConfig,
    MistralConfig,
    PretrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3Config,
)

from raypo.config import HYPERPARAMETER_DEFAULTS, PolicyConfig, RunConfig, TrainingConfig, build
from raypo.data.packing import ResponseSet, pack
from raypo.models.export import export_weights
from raypo.models.load import DTYPES
from raypo.models.scorer import TokenScorer
from raypo.models.shard import load_sharded
from raypo.objective import AnyObjective, preset
from raypo.objective.presets import hyperparameters
from raypo.records import ANNOTATED, PROMPTS
from raypo.training import checkpoint
from raypo.training.against import Against, learned_masks
from raypo.training.rounds import RoundTask, Stop
from raypo.training.sets import TrainingSet
from raypo.training.step import make_optimizer, train_step
from raypo.training.terms import Means
from raypo.training.worker import Learner

VOCABULARY = 64

_SIZES: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "initializer_range": 0.2,
}

CONFIGS: dict[str, Callable[..., PretrainedConfig]] = {
    "llama": lambda **extra: LlamaConfig(**_SIZES | extra),
    "qwen2": lambda **extra: Qwen2Config(**_SIZES | extra),
    "qwen3": lambda **extra: Qwen3Config(**_SIZES | {"head_dim": 16} | extra),
    "mistral": lambda **extra: MistralConfig(**_SIZES | {"sliding_window": 4} | extra),
    # a soft cap of 2 bends logits of this size visibly
    "gemma2": lambda **extra: Gemma2Config(
        **_SIZES | {"head_dim": 16, "final_logit_softcapping": 2.0, "sliding_window": 4} | extra
    ),
    "granite": lambda **extra: GraniteConfig(**_SIZES | {"logits_scaling": 3.0} | extra),
    "cohere": lambda **extra: CohereConfig(**_SIZES | {"logit_scale": 0.25} | extra),
}


def causal_lm(kind: str = "llama", *, seed: int = 0, **extra: Any) -> PreTrainedModel:
    """A causal model with seeded random fp32 weights, in evaluation mode."""
    torch.manual_seed(seed)
    return Auto.from_config(CONFIGS[kind](**extra), dtype=torch.float32, attn_implementation="sdpa").eval()


def response_sets(count: int, *, responses: int = 2, seed: int = 0) -> list[ResponseSet]:
    """Sets of random tokens; prompts of 2 to 5 tokens, responses of 1 to 6."""
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> list[int]:
        length = int(torch.randint(low, high + 1, (1,), generator=generator))
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    return [ResponseSet(f"{i:04d}", draw(2, 5), [draw(1, 6) for _ in range(responses)]) for i in range(count)]


def training_sets(count: int, *, responses: int = 2, seed: int = 0, reference: float = -8.0) -> list[TrainingSet]:
    """Sets whose first response is the best, the second the next, and so on; a constant reference."""
    return [
        TrainingSet(one, [reference] * responses, [float(-k) for k in range(responses)], [True] * responses, 1.0)
        for one in response_sets(count, responses=responses, seed=seed)
    ]


def training_config(**changes: Any) -> TrainingConfig:
    """AdamW at a constant rate of 1e-2, no warm-up."""
    given: dict[str, Any] = {
        "learning_rate": 1e-2,
        "warmup_fraction": 0.0,
        "schedule": "constant",
        "max_grad_norm": 1.0,
        "sets_per_step": 8,
    }
    return TrainingConfig(**given | changes)


def policy_config(path: Path | str, **changes: Any) -> PolicyConfig:
    """A policy in fp32 throughout."""
    given: dict[str, Any] = {"path": str(path), "compute_dtype": "float32", "export_dtype": "float32"}
    return PolicyConfig(**given | changes)


def run_ranks(function: Callable[..., Any], world_size: int, *args: Any) -> list[Any]:
    """Run `function(rank, world_size, *args)` in gloo processes; returns what each rank returned.

    They are forked from a server that has imported what they need and done nothing else: no rank imports torch again.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = mp.get_context("forkserver")
    context.set_forkserver_preload(["raypo.training.worker"])
    with context.Manager() as manager:
        answers = manager.dict()
        ranks = (world_size, port, function, args, answers)
        mp.start_processes(_rank, args=ranks, nprocs=world_size, start_method="forkserver")
        return [answers[rank] for rank in range(world_size)]


def _rank(
    rank: int, world_size: int, port: int, function: Callable[..., Any], args: tuple[Any, ...], answers: Any
) -> None:
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=world_size)
    try:
        answers[rank] = function(rank, world_size, *args)
    finally:
        dist.destroy_process_group()


def w_mpo() -> AnyObjective:
    """The default objective."""
    return preset("w-mpo", beta=0.1, alpha=1.0)


def trajectory(
    scorer: Any,
    config: TrainingConfig,
    steps: int,
    *,
    optimizer: Any = None,
    first: int = 0,
    last: int | None = None,
    **where: Any,
) -> list[dict[str, float]]:
    """Metrics of steps first to last of some, each over its own 8 sets of 3 responses, with the default objective."""
    optimizer = optimizer or make_optimizer(scorer, config)
    return [
        train_step(
            scorer,
            optimizer,
            training_sets(8, responses=3, seed=step),
            w_mpo(),
            config,
            progress=(step + 0.5) / steps,
            pad_token_id=0,
            step=step,
            **where,
        )
        for step in range(first, steps if last is None else last)
    ]


Case = tuple[str, int, dict[str, Any], dict[str, Any]]
"""Model folder, steps, changes of the training config, changes of the policy config."""


def train_sharded(
    rank: int, world_size: int, cases: dict[str, Case]
) -> dict[str, tuple[list[dict[str, float]], dict[str, torch.Tensor]]]:
    """On one rank, for each case: load, shard, take steps; returns metrics and the exported weights by name."""
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("data",))
    found = {}
    for name, (folder, steps, training, policy) in cases.items():
        config, chosen = training_config(**training), policy_config(folder, **policy)
        torch.manual_seed(0)
        scorer = load_sharded(chosen, mesh, activation_checkpointing=config.activation_checkpointing)
        metrics = trajectory(scorer, config, steps, rank=rank, world_size=world_size)
        found[name] = metrics, dict(export_weights(scorer, DTYPES[chosen.export_dtype]))
    return found


def annotated(count: int, *, responses: int, round_index: int) -> pa.Table:
    """Rows of records.ANNOTATED over `response_sets`, of which the last is a tie."""
    rows = []
    for one in response_sets(count, responses=responses, seed=round_index):
        tie = one.prompt_id == f"{count - 1:04d}"
        rewards = [0.0 if tie else float(-k) for k in range(responses)]
        rows.append(
            {
                "prompt_id": one.prompt_id,
                "prompt": "",
                "prompt_token_ids": one.prompt_token_ids,
                "metadata": "{}",
                "round": round_index,
                "weight_version": round_index,
                "seed": 0,
                "sampling": "{}",
                "responses": [""] * responses,
                "response_token_ids": one.response_token_ids,
                "finish_reasons": ["stop"] * responses,
                "engine_logps": [-8.0] * responses,
                "reward_values": [{"name": "r", "values": rewards}],
                "rewards": rewards,
                "usable": [True] * responses,
                "unusable_reason": [""] * responses,
                "reference_logps": [-8.0] * responses,
                "response_lengths": [len(ids) for ids in one.response_token_ids],
                "reference_entropies": [1.0] * responses,
                "trainable": not tie,
                "untrainable_reason": "ties" if tie else "",
                "scaled_rewards": rewards,
                "dispersion": 0.5,
                "psi": 1.0,
            }
        )
    return pa.Table.from_pylist(rows, schema=ANNOTATED)


def prompt_table(*ids: str) -> pa.Table:
    """Rows of records.PROMPTS with the given ids."""
    rows = [
        {"prompt_id": i, "prompt": f"say {i}", "prompt_token_ids": [1, 2], "split": "train", "metadata": "{}"}
        for i in ids
    ]
    return pa.Table.from_pylist(rows, schema=PROMPTS)


class StoredTables:
    """A table source over rounds that were made beforehand; picklable."""

    def __init__(self, folder: Path, rounds: int) -> None:
        self.rounds, self.paths = rounds, [str(folder / f"round-{r}.parquet") for r in range(rounds)]
        for r, path in enumerate(self.paths):
            pq.write_table(annotated(6, responses=3, round_index=r), path)

    def ready(self) -> None:
        """The policy is there."""

    def next(self, version: int) -> RoundTask | Stop:
        """The round after a version."""
        if version >= self.rounds:
            return Stop("all rounds are done")
        start, end = version / self.rounds, (version + 1) / self.rounds
        return RoundTask(version, (self.paths[version],), start, end, epochs=2, seed=0)

    def note(self, gauge: dict[str, Any]) -> None:
        """Nobody watches."""

    def trained(self, fields: dict[str, Any]) -> None:
        """Nobody listens."""


def run_config(model: Path | str, output: Path | str, **sections: dict[str, Any]) -> RunConfig:
    """A run over a tiny model: 2 workers, steps of 4 sets, fp32."""
    tree: dict[str, Any] = {
        "output": str(output),
        "policy": {"path": str(model), "compute_dtype": "float32", "export_dtype": "float32"},
        "prompts": {"path": "unused"},
        "training": {"workers": 2, "sets_per_step": 4, "learning_rate": 1e-2},
    }
    return build(tree | {name: tree.get(name, {}) | section for name, section in sections.items()})


def learn(rank: int, world_size: int, config: RunConfig, run_dir: str, source: StoredTables, until: int) -> int:
    """On one rank: train and save rounds until a version, from whatever is there; returns the version it began at."""
    learner = Learner(config, step_objective(config.objective.preset), run_dir, source)
    found = learner.version
    while learner.version < until and isinstance(task := source.next(learner.version), RoundTask):
        metrics = learner.round(task)
        learner.save(task.progress_end, {"metrics": metrics})
    learner.close()
    return found


class Killed(Exception):
    """Stands for a signal between two optimizer steps."""


class MortalLearner(Learner):
    """Dies when so many optimizer steps of the run are done."""

    last_step = 10**9

    def _one_step(self, *arguments: Any) -> dict[str, float]:
        if self._step == self.last_step:
            raise Killed
        return super()._one_step(*arguments)


def die_at(rank: int, config: RunConfig, run_dir: str, source: StoredTables, step: int) -> int:
    """On one rank: train until a step of the run's; returns the step at which the round went on."""
    learner = MortalLearner(config, step_objective(config.objective.preset), run_dir, source)
    learner.last_step = step
    took: list[int] = []
    learner._log = lambda *_: took.append(learner._step)  # type: ignore[method-assign]
    try:
        learner.round(source.next(learner.version))
    except Killed:
        return took[0] if took else step
    raise AssertionError(f"the round ended before step {step}")


def learn_in_two_goes(
    rank: int, world_size: int, configs: dict[str, RunConfig], source: StoredTables
) -> dict[str, list[int]]:
    """Each config once without a break; and again, dying after 3 steps of round 0 and after 1 step of round 1."""
    found = {}
    for name, config in configs.items():
        whole, broken = f"{config.output}/{name}/whole", f"{config.output}/{name}/broken"
        learn(rank, world_size, config, whole, source, 2)
        began = [die_at(rank, config, broken, source, 3), die_at(rank, config, broken, source, 3)]
        learn(rank, world_size, config, broken, source, 1)
        began.append(die_at(rank, config, broken, source, 5))
        learn(rank, world_size, config, broken, source, 2)
        found[name] = began
    return found


def learn_whole_and_interrupted(
    rank: int, world_size: int, configs: dict[str, RunConfig], source: StoredTables
) -> dict[str, list[int]]:
    """Run each config without a break; and again in another folder, dying twice, the second time in a torn version."""
    found = {}
    for name, config in configs.items():
        whole, broken = f"{config.output}/{name}/whole", f"{config.output}/{name}/broken"
        starts = [learn(rank, world_size, config, whole, source, 3), learn(rank, world_size, config, broken, source, 1)]
        starts.append(learn(rank, world_size, config, broken, source, 2))
        if rank == 0:
            (checkpoint.folder_of(broken, 2) / "manifest.json").unlink()  # killed just before the version existed
        dist.barrier()
        starts.append(learn(rank, world_size, config, broken, source, 3))
        found[name] = starts
    return found


class DyingSync:
    """Notes what would reach the engines; rank 1 kills itself once, when version 2 is durable but not yet sent."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def send(self, version: int, weights: Iterable[tuple[str, torch.Tensor]], *, sender: bool) -> dict[str, float]:
        """Exhaust the weights; the sender writes them down."""
        died = self.folder / "died"
        if version == 2 and not sender and not died.exists():
            died.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        sent = {name: tensor.clone() for name, tensor in weights}
        if sender:
            save_file(sent, self.folder / f"sent-{version}.safetensors")
        return {"seconds": 0.0}


def step_objective(name: str) -> AnyObjective:
    """A preset with the config's own defaults for what it takes; a stopping budget within the responses' lengths."""
    values = HYPERPARAMETER_DEFAULTS | {"eos_budget": 3.0}
    return preset(name, **{key: values[key] for key in hyperparameters(name)})


def take_steps(
    rank: int, world_size: int, folder: str, ways: dict[str, tuple[list[str], dict[str, Any]]]
) -> dict[str, dict[str, dict[str, list[float]]]]:
    """On one rank, for each way to train and its objectives, `two_steps`."""
    mesh = init_device_mesh("cpu", (world_size,), mesh_dim_names=("data",))
    return {way: two_steps(mesh, rank, world_size, folder, *asked) for way, asked in ways.items()}


def two_steps(
    mesh: Any, rank: int, world_size: int, folder: str, names: list[str], training: dict[str, Any]
) -> dict[str, list[float]]:
    """Two steps of 6 sets of 4 responses for each objective; loss and gradient norm of each step.

    The reference is the model itself with its annotated values, and moves after every step where it moves.
    """
    found = {}
    for name in names:
        objective = step_objective(name)
        config = run_config(folder, "unused", training={"workers": world_size, "reference_steps": 1} | training)
        torch.manual_seed(0)
        scorer = load_sharded(config.policy, mesh, activation_checkpointing=False, masks=learned_masks(objective))
        against, optimizer = Against(config, objective, mesh), make_optimizer(scorer, config.training)
        curve = []
        for step in (1, 2):
            sets = annotated_by(folder, training_sets(6, responses=4, seed=step))
            if objective.needs_labels:
                sets = [replace(one, rewards=[float(k < 2) for k in range(len(one.rewards))]) for one in sets]
            means = Means(scorer, objective, config.training, 0, "cpu", against.reference)
            against.before(means, sets, rank, world_size)
            where = {"rank": rank, "world_size": world_size, "pad_token_id": 0, "progress": 0.5, "step": step}
            given = {"reference": against.reference, "anchor": against.anchor}
            metrics = train_step(scorer, optimizer, sets, objective, config.training, **where, **given)
            against.after(scorer, metrics, step)
            curve += [metrics["loss"], metrics["grad_norm"]]
        found[name] = curve
    return found


def annotated_by(folder: str, sets: list[TrainingSet]) -> list[TrainingSet]:
    """The sets with a model's own log-probs as reference, and every other response cut before its end."""
    scorer, batch = TokenScorer(Auto.from_pretrained(folder).eval()), pack([one.tokens for one in sets], pad_token_id=0)
    with torch.no_grad():
        logps = scorer(batch, chunk_tokens=64).logps
    lengths = torch.bincount(batch.response_index).tolist()
    per_response = iter([part.tolist() for part in logps.split(lengths)])
    made = []
    for one in sets:
        rows = [next(per_response) for _ in one.rewards]
        ended = [k % 2 == 0 for k in range(len(rows))]
        weights = [[1 + 0.3 * math.sin(7 * k + t) for t in range(len(row))] for k, row in enumerate(rows)]
        given = {"reference_token_logps": rows, "token_weights": weights, "ended": ended}
        made.append(replace(one, reference_logps=[sum(row) for row in rows], **given))
    return made
