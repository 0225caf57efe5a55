"""TRL's DPOTrainer on given pairs. Runs as a script in TRL's own environment, which need not have raypo.

    python trl_peer.py FOLDER CASE

FOLDER holds the model with its tokenizer, another model as "reference", and pairs.json; CASE is JSON: threads,
batch_size, precompute, steps, learning_rate, beta, gradients (a path: write the first batch's there, against the
reference, and do not train; or null: the model is its own reference). Prints one line of JSON: seconds of each step
after the first two, tokens of a step, peak_bytes, and library_bytes: what is resident before the model is there.
"""

from __future__ import annotations

import json
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any


def trainer_of(folder: Path, case: dict[str, Any]) -> Any:
    """A DPOTrainer on the CPU in fp32, without checkpointing, dropout, padding beyond the batch or reports."""
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    pairs = json.loads((folder / "pairs.json").read_text(encoding="utf-8"))
    wanted = case["batch_size"] * case["steps"]
    pairs = [pairs[i % len(pairs)] for i in range(wanted)]
    config = DPOConfig(
        output_dir=str(folder / "trl"),
        per_device_train_batch_size=case["batch_size"],
        max_steps=case["steps"],
        learning_rate=case["learning_rate"],
        lr_scheduler_type="constant",
        beta=case["beta"],
        max_length=None,
        precompute_ref_log_probs=case["precompute"],
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        report_to="none",
        save_strategy="no",
        logging_strategy="no",
        disable_tqdm=True,
        dataloader_num_workers=0,
        seed=0,
    )
    model = AutoModelForCausalLM.from_pretrained(folder, dtype="float32")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    # one that is not given is the model itself
    reference = (
        AutoModelForCausalLM.from_pretrained(folder / "reference", dtype="float32") if case["gradients"] else None
    )
    data = Dataset.from_list(pairs)
    return DPOTrainer(model=model, ref_model=reference, args=config, train_dataset=data, processing_class=tokenizer)


def first_gradients(trainer: Any, path: str) -> None:
    """Gradients of the loss of the first batch, as safetensors."""
    from safetensors.torch import save_file

    rows = [trainer.train_dataset[i] for i in range(trainer.args.per_device_train_batch_size)]
    trainer.model.eval()
    loss = trainer.compute_loss(trainer.model, trainer.data_collator(rows))
    loss.backward()
    named = trainer.model.named_parameters()
    save_file({name: p.grad.contiguous() for name, p in named if p.grad is not None}, path)
    print(json.dumps({"loss": float(loss.detach())}))  # noqa: T201 - read by the caller


def peak_bytes() -> int:
    """Largest resident memory so far; not `ru_maxrss`, which a process has from the one that started it."""
    told = Path("/proc/self/status").read_text(encoding="utf-8")
    return int(told.split("VmHWM:")[1].split()[0]) * 1024


def timed_steps(trainer: Any, case: dict[str, Any], libraries: int) -> None:
    """Train, and print the seconds of each optimizer step, data loading and collation included."""
    from transformers import TrainerCallback

    marks: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            marks.append(time.perf_counter())

    trainer.add_callback(Clock())
    trainer.train()
    row = trainer.train_dataset[0]
    tokens = 2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
    seconds = [after - before for before, after in pairwise(marks[1:])]
    found = {"seconds": seconds, "tokens": tokens * case["batch_size"], "peak_bytes": peak_bytes()}
    found["library_bytes"] = libraries
    print(json.dumps(found))  # noqa: T201 - read by the caller


def main(folder: str, case: dict[str, Any]) -> None:
    """Run one case."""
    import datasets  # noqa: F401 - what follows needs these in memory, and trl and transformers import late
    import torch
    import transformers.models.llama.modeling_llama  # noqa: F401
    from trl import DPOTrainer  # noqa: F401

    torch.set_num_threads(case["threads"])
    libraries = peak_bytes()
    trainer = trainer_of(Path(folder), case)
    if case["gradients"]:
        first_gradients(trainer, case["gradients"])
    else:
        timed_steps(trainer, case, libraries)


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
