"""The Ray Train loop: one call of `train` per worker spans all rounds.

    task = tables.next(version)     blocks, outside any collective, while a round is sampled
    train on the task's tables
    checkpoint of version + 1       durable before anything is sampled with it
    sync.send(version + 1)          live transfer: the fast path, never the only copy

Ray appears here as ray.train alone. Where tables come from and where weights go are protocols, wired in by the caller,
so training imports neither sampling nor the round machine.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ray.train
import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from transformers import GenerationConfig

from raypo.config import RunConfig
from raypo.errors import RunError, UserError
from raypo.models.export import (
    adapter_weights,
    changed_fraction,
    export_weights,
    moving_average,
    read_weights,
    save_adapter,
    save_model,
)
from raypo.models.heap import give_back, keep_freed
from raypo.models.load import DTYPES, LOAD_FAULTS, load_tokenizer
from raypo.models.shard import load_sharded
from raypo.objective import AnyObjective
from raypo.training import checkpoint, refused
from raypo.training.against import Against, learned_masks
from raypo.training.checkpoint import Checkpoint, folder_of
from raypo.training.collation import Collation
from raypo.training.environment import environment
from raypo.training.moves import check_moves
from raypo.training.rounds import RoundTask, SyncSender, TableSource, rung_steps
from raypo.training.rows import read_tables, training_sets
from raypo.training.sets import TrainingSet
from raypo.training.step import make_optimizer, step_order, train_step
from raypo.training.terms import Means
from raypo.training.tracking import Tracker


def train(setup: dict[str, Any]) -> None:
    """Train on one worker until the source says stop.

    Args:
        setup: `config` (RunConfig), `objective` (Objective), `run_dir`, `tables` (TableSource), `sync` (SyncSender).

    A user's error ends it without being raised; the driver finds it (`raypo.training.refused`).
    """
    try:
        _rounds(setup)
    except UserError as error:
        refused.tell(setup["run_dir"], error)


def _rounds(setup: dict[str, Any]) -> None:
    config: RunConfig = setup["config"]
    torch.set_num_threads(config.training.threads)
    keep_freed()
    setup["tables"].ready()
    learner = Learner(config, setup["objective"], setup["run_dir"], setup["tables"])
    sync: SyncSender = setup["sync"]
    while isinstance(task := setup["tables"].next(learner.version), RoundTask):
        began = time.monotonic()
        metrics = learner.round(task)
        trained = time.monotonic() - began
        learner.save(task.progress_end, {"seconds": trained, "metrics": metrics, "frozen": task.frozen})
        saved = time.monotonic() - began - trained
        dtype = DTYPES[config.policy.export_dtype]
        sent = sync.send(learner.version, export_weights(learner.scorer, dtype), sender=learner.first)
        if learner.first:
            learner.report(task.round, metrics, trained, saved, sent)
        ray.train.report({"version": learner.version, "loss": metrics["loss"]})
        give_back()  # until the next round's tables are there
    learner.close()


def hash_of(tree: Any) -> str:
    """SHA-256 of a JSON value, hex."""
    return hashlib.sha256(json.dumps(tree).encode()).hexdigest()


class Learner:
    """The policy under training on this rank: model, optimizer, version and how far the job is."""

    def __init__(self, config: RunConfig, objective: AnyObjective, run_dir: str, tables: TableSource) -> None:
        self._config, self._objective, self._run_dir, self._tables = config, objective, run_dir, tables
        self.rank, self.world_size = dist.get_rank(), dist.get_world_size()
        self.first = self.rank == 0
        gpu = config.training.gpus_per_worker > 0
        self._device = torch.device("cuda", torch.cuda.current_device()) if gpu else torch.device("cpu")
        policy, training = config.policy, config.training
        self._tokenizer = load_tokenizer(policy.path, policy.revision, policy.chat_template)
        mesh = init_device_mesh(self._device.type, (self.world_size,), mesh_dim_names=("data",))
        torch.manual_seed(config.seed)  # new adapters are random
        recompute, masks = training.activation_checkpointing, learned_masks(objective)
        self.scorer = load_sharded(policy, mesh, activation_checkpointing=recompute, masks=masks)
        self._optimizer = make_optimizer(self.scorer, training)
        self._against = Against(config, objective, mesh)
        self._collation = Collation()
        self.version, self._step = 0, 0
        self._tracker: Tracker | None = None
        if (found := self._agreed(lambda: checkpoint.newest(run_dir))) is not None:
            self.version = found.version
            self._load(found)

    def _agreed(self, find: Callable[[], Checkpoint | None]) -> Checkpoint | None:
        """What the first rank finds, on all: shared storage may show two ranks two states."""
        answer = [find() if self.first else None]
        dist.broadcast_object_list(answer, src=0)
        return answer[0]

    def _load(self, found: Checkpoint, step: int | None = None) -> None:
        """Take up model, optimizer, reference, anchor and step of a checkpoint; with a step, of one inside a round."""
        against = self._against
        checkpoint.load_state(self._run_dir, found.version, self.scorer, self._optimizer, against.moving, step=step)
        against.load(found.facts.get("against", {}))
        self._step = found.step

    def round(self, task: RoundTask) -> dict[str, float]:
        """Train on a round's sets; returns the last step's metrics.

        Raises:
            RunError: the round has no set to train on.
            IntegrityError: a table is not what was written.
            ConfigError: fewer steps than the parts that it is to be cut into.
        """
        sets = training_sets(read_tables(task.tables), self._objective, first_round=task.round == 0)
        training = self._config.training
        if not sets:
            raise RunError(f"round {task.round} has no trainable set", "at least one", "see its annotated table")
        starts = range(0, len(sets), training.sets_per_step)
        orders = [
            step_order(len(sets), seed=task.seed, round_index=task.round, epoch=epoch) for epoch in range(task.epochs)
        ]
        contents = [one.content for one in sets]
        ids = hash_of([[contents[i] for i in order] for order in orders])
        total, metrics = task.epochs * len(starts), {}
        # in a job of rounds nobody knows yet how many sets of later ones will train; its most was asked before it began
        if (task.progress_start, task.progress_end) == (0.0, 1.0):
            check_moves(self._objective, every=training.reference_steps, steps=total)
        done, numbers = self._resume(ids), rung_steps(total, task.rung, task.rungs)
        if self.first and self._tracker is None:
            self._tracker = Tracker(self._config, self._run_dir, self._step)
        span = task.progress_end - task.progress_start

        def sets_of(number: int) -> list[TrainingSet]:
            epoch, place = divmod(number, len(starts))
            return [sets[i] for i in orders[epoch][starts[place] : starts[place] + training.sets_per_step]]

        for number in numbers:
            if number < done:
                continue
            following = sets_of(number + 1) if number + 1 in numbers else []
            # the middle of the step: neither the first nor the last step has rate 0
            metrics = self._one_step(sets_of(number), following, task.progress_start + span * (number + 0.5) / total)
            self._log(task.round, number // len(starts), number + 1, total, metrics)
            if training.checkpoint_steps and (number + 1) % training.checkpoint_steps == 0 and number + 1 in numbers:
                self._save_inside({"round": task.round, "done": number + 1, "sets": ids})
        return metrics

    def _resume(self, ids: str) -> int:
        """Continue from the newest checkpoint inside the round that begins, if it is of the same sets in this order.

        The same in every token and number: prompts that were drawn again have other responses, and the state would be
        one that neither the old nor the new ones made.

        Returns:
            steps of the round that are done.
        """
        found = self._agreed(lambda: checkpoint.newest_inside(self._run_dir, self.version + 1))
        if found is None or found.facts["cursor"]["sets"] != ids:
            return 0
        self._load(found, step=found.step)
        return int(found.facts["cursor"]["done"])

    def _save_inside(self, cursor: dict[str, Any]) -> None:
        """Make the state inside a round durable, with the cursor over its sets."""
        version, step = self.version + 1, self._step
        place = folder_of(self._run_dir, version, step)
        if self.first:
            shutil.rmtree(place, ignore_errors=True)  # of an attempt that died here
        dist.barrier()
        moving = self._against.moving
        checkpoint.save_state(self._run_dir, version, self.scorer, self._optimizer, moving, step=step)
        if self.first:
            facts = {"cursor": cursor, "against": self._against.facts()}
            done = Checkpoint(version, 0.0, step, world_size=self.world_size, facts=facts)
            checkpoint.commit(self._run_dir, done, inside=True)
            checkpoint.drop_inside(self._run_dir, version, keep=step)
        dist.barrier()

    def _one_step(self, sets: list[TrainingSet], following: list[TrainingSet], progress: float) -> dict[str, float]:
        """One optimizer step on these sets, and then on those, against what the objective is measured against."""
        training, pad = self._config.training, self._tokenizer.pad_token_id
        means = Means(self.scorer, self._objective, training, pad, self._device, self._against.reference)
        self._against.before(means, sets, self.rank, self.world_size)
        metrics = train_step(
            self.scorer,
            self._optimizer,
            sets,
            self._objective,
            training,
            progress=progress,
            pad_token_id=pad,
            step=self._step + 1,
            rank=self.rank,
            world_size=self.world_size,
            device=self._device,
            reference=self._against.reference,
            anchor=self._against.anchor,
            collation=self._collation,
            following=following,
        )
        self._step += 1
        self._against.after(self.scorer, metrics, self._step)
        return metrics

    def _log(self, round_index: int, epoch: int, done: int, total: int, metrics: dict[str, float]) -> None:
        if self._tracker is None:
            return
        self._tracker.step({"step": self._step, "round": round_index, "epoch": epoch, "time": time.time(), **metrics})
        shown = {name: metrics[name] for name in ("loss", "tokens_per_s")}
        self._tables.note({"stage": "train", "step": f"{done}/{total}", **shown})

    def save(self, progress: float, facts: dict[str, Any]) -> None:
        """Make the next version durable: shards by all ranks, exported folder and manifest by the first."""
        version, config = self.version + 1, self._config
        if self.first:
            checkpoint.clear(self._run_dir, version)
        dist.barrier()
        checkpoint.save_state(self._run_dir, version, self.scorer, self._optimizer, self._against.moving)
        weights = self._collect()
        adapter = adapter_weights(self.scorer) if config.policy.adapter == "lora" else {}
        if self.first:
            place = folder_of(self._run_dir, version)
            save_model(place / "model", weights, self.scorer, self._tokenizer, self._generation())
            if adapter:
                save_adapter(place / "adapter", self.scorer, adapter)
            before = self._model_folder(self.version)
            facts = facts | {
                "changed_fraction": changed_fraction(before, weights),
                "objective": repr(self._objective),
                "against": self._against.facts(),
                "environment": environment(),
            }
            if config.online.reference == "ema":
                self._save_reference(version, weights)
            done = Checkpoint(version, progress, self._step, world_size=self.world_size, facts=facts)
            checkpoint.commit(self._run_dir, done)
            checkpoint.drop_states(self._run_dir, older_than=version - 1)
            checkpoint.drop_inside(self._run_dir, version)
            self._facts = facts
        dist.barrier()
        self.version = version

    def _collect(self) -> dict[str, Tensor]:
        """The exported weights on the CPU of rank 0; collective."""
        dtype = DTYPES[self._config.policy.export_dtype]
        collected = {}
        for name, tensor in export_weights(self.scorer, dtype):
            if self.first:
                collected[name] = tensor.cpu()
        return collected

    def _model_folder(self, version: int) -> Path:
        if version:
            return folder_of(self._run_dir, version) / "model"
        path = Path(self._config.policy.path)
        if path.is_dir():
            return path
        from huggingface_hub import snapshot_download  # a hub name: it is in the cache by now

        return Path(snapshot_download(str(path), revision=self._config.policy.revision, local_files_only=True))

    def _generation(self) -> GenerationConfig | None:
        policy = self._config.policy
        try:
            return GenerationConfig.from_pretrained(policy.path, revision=policy.revision or "main")
        except LOAD_FAULTS:  # a folder need not have one; the model's own then serves
            return None

    def _save_reference(self, version: int, weights: dict[str, Tensor]) -> None:
        """The moving average of the exported weights, from the first policy on."""
        older = folder_of(self._run_dir, version - 1) / "reference" if version > 1 else self._model_folder(0)
        mixed = moving_average(read_weights(older), weights, self._config.online.ema_decay)
        place = folder_of(self._run_dir, version) / "reference"
        save_model(place, mixed, self.scorer, self._tokenizer, self._generation())

    def report(
        self, round_index: int, metrics: dict[str, float], trained: float, saved: float, sent: dict[str, float]
    ) -> None:
        """Tell the coordinator that the version is trained and durable, and whether every engine has it."""
        engines = (
            "an engine failed, and is brought up again" if "failed" in sent else f"synced in {sent['seconds']:.2f} s"
        )
        text = (
            f"version {self.version}: loss {metrics['loss']:.4f}, accuracy {metrics['rewards/accuracies']:.2f}, "
            f"{self._facts['changed_fraction']:.0%} of weights changed, saved in {saved:.1f} s, "
            f"{engines}"
        )
        self._tables.trained(
            {
                "text": text,
                "round": round_index,
                "seconds": trained,
                "save_seconds": saved,
                "sync_seconds": sent["seconds"],
                "sync_failed": "failed" in sent,
                "changed_fraction": self._facts["changed_fraction"],
            }
        )

    def close(self) -> None:
        """End the writers."""
        if self._tracker is not None:
            self._tracker.close()
