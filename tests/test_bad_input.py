"""Bad input, field by field and failure by failure: one message, exit code 2, no traceback, nothing written."""

from __future__ import annotations

import gzip
import json
import shutil
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from command_line import Command, call
from hf_folders import make_place
from pydantic import BaseModel

from raypo import config
from raypo.online import identity
from raypo.online.folder import RunFolder
from raypo.online.identity import RUN, TRAIN, Verb

REWARDS = '''
"""Reward functions of the test."""

number = 3

def ones(prompts, responses, metadata):
    return [float(response.count("1")) for response in responses]
'''
TREE: dict[str, Any] = {
    "name": "tiny",
    "output": "runs",
    "policy": {"path": "policy", "compute_dtype": "float32", "export_dtype": "float32"},
    "prompts": {"path": "prompts.jsonl", "heldout_fraction": 0.25, "max_prompt_tokens": 16},
    "sampling": {"num_responses": 4, "max_response_tokens": 12},
    "rewards": [
        {"name": "ones", "path": "bad_input_rewards:ones"},
        {"type": "model", "name": "judged", "path": "policy"},
        {"type": "http", "name": "asked", "url": "http://localhost:9/score"},
    ],
    "evaluation": {"judge": {"url": "http://localhost:9/v1", "model": "judge"}},
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder in which every part of the run is as it should be."""
    place = make_place(tmp_path_factory.mktemp("whole"), 40, REWARDS, "bad_input_rewards")
    (place / "run.yaml").write_text(yaml.safe_dump(TREE))
    return place


@pytest.fixture
def place(whole: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return shutil.copytree(whole, tmp_path / "place")


@pytest.fixture
def raypo(place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Command]:
    """Run a command here, in the folder; answers exit code, standard output and standard error."""
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("RAY_ADDRESS", "RAYPO_TRACEBACK", "REWARD_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")

    def fresh(*arguments: str) -> tuple[int, str, str]:
        sys.modules.pop("bad_input_rewards", None)
        return call(monkeypatch, capsys, *arguments)

    yield fresh
    sys.modules.pop("bad_input_rewards", None)


def refused(answer: tuple[int, str, str], told: str) -> None:
    """Exit code 2, and one message that says what was got."""
    code, _, err = answer
    assert code == 2, err
    message = err[err.rindex("raypo: ") :]
    assert told in message
    assert "Traceback" not in err
    assert "expected: " in message or "what to do: " in message


FIELDS: dict[str, tuple[str, str]] = {
    "name": ("../up", "name = '../up'"),
    "output": ("s3://bucket/runs", "checkpoints cannot"),
    "mirror": ("runs", "mirror = 'runs'"),
    "seed": ("-1", "seed = -1"),
    "policy.path": ("3", "policy.path = 3"),
    "policy.revision": ("[1]", "policy.revision = [1]"),
    "policy.compute_dtype": ("float16", "policy.compute_dtype = 'float16'"),
    "policy.export_dtype": ("int8", "policy.export_dtype = 'int8'"),
    "policy.adapter": ("dora", "policy.adapter = 'dora'"),
    "policy.lora_rank": ("8", "nothing would read it"),
    "policy.lora_alpha": ("0", "policy.lora_alpha = 0"),
    "policy.lora_target_modules": ("[q_proj]", "nothing would read it"),
    "policy.chat_template": ("{a: 1}", "policy.chat_template"),
    "policy.trust_remote_code": ("true", "policy.trust_remote_code = True"),
    "prompts.path": ("s3://KEY:LOST@bucket/p.jsonl", "'s3://***@bucket/p.jsonl' holds a secret"),
    "prompts.column": ("[a]", "prompts.column = ['a']"),
    "prompts.split": ("1", "prompts.split = 1"),
    "prompts.subset": ("1", "prompts.subset = 1"),
    "prompts.limit": ("0", "prompts.limit = 0"),
    "prompts.heldout_fraction": ("1.5", "prompts.heldout_fraction = 1.5"),
    "prompts.heldout_path": ("other.jsonl", "prompts.heldout_fraction = 0.25 with prompts.heldout_path"),
    "prompts.max_prompt_tokens": ("0", "prompts.max_prompt_tokens = 0"),
    "prompts.template_arguments": ("{tokenize: true}", "prompts.template_arguments has tokenize"),
    "prompts.sets_format": ("csv", "prompts.sets_format = 'csv'"),
    "prompts.numbered_prefix": ("1", "prompts.numbered_prefix = 1"),
    "prompts.responses_column": ("1", "prompts.responses_column = 1"),
    "prompts.response_text_key": ("1", "prompts.response_text_key = 1"),
    "prompts.response_score_key": ("1", "prompts.response_score_key = 1"),
    "prompts.rewards_column": ("1", "prompts.rewards_column = 1"),
    "sampling.num_responses": ("1", "no preference in it"),
    "sampling.max_response_tokens": ("0", "sampling.max_response_tokens = 0"),
    "sampling.temperature": ("0", "sampling.temperature = 0"),
    "sampling.top_p": ("0", "sampling.top_p = 0"),
    "sampling.stop_token_ids": ("[a]", "sampling.stop_token_ids.0 = 'a'"),
    "sampling.batch_prompts": ("0", "sampling.batch_prompts = 0"),
    "sampling.timeout_s": (".inf", "sampling.timeout_s = inf"),
    "engine.count": ("0", "engine.count = 0"),
    "engine.backend": ("tpu", "engine.backend = 'tpu'"),
    "engine.tensor_parallel": ("0", "engine.tensor_parallel = 0"),
    "engine.max_model_tokens": ("27", "at least 28: prompts.max_prompt_tokens 16"),
    "engine.max_sequences": ("0", "engine.max_sequences = 0"),
    "engine.gpu_memory_fraction": ("1.1", "engine.gpu_memory_fraction = 1.1"),
    "engine.kv_cache_gib": ("0.5", "engine.kv_cache_gib = 0.5"),
    "engine.start_timeout_s": ("0", "engine.start_timeout_s = 0"),
    "rewards": ("3", "rewards = 3: a list is expected"),
    "rewards.0.type": ("shell", "no reward source of type 'shell'"),
    "rewards.0.name": ("asked", "share the name 'asked'"),
    "rewards.0.path": ("[1]", "rewards.0.path = [1]"),
    "rewards.0.weight": (".nan", "rewards.0.weight = nan"),
    "rewards.0.scale": ("0", "rewards.0.scale = 0"),
    "rewards.1.name": ("1", "rewards.1.name = 1"),
    "rewards.1.path": ("1", "rewards.1.path = 1"),
    "rewards.1.revision": ("1", "rewards.1.revision = 1"),
    "rewards.1.dtype": ("float16", "rewards.1.dtype = 'float16'"),
    "rewards.1.batch_tokens": ("0", "rewards.1.batch_tokens = 0"),
    "rewards.1.max_tokens": ("0", "rewards.1.max_tokens = 0"),
    "rewards.1.replicas": ("0", "rewards.1.replicas = 0"),
    "rewards.1.gpus": ("-1", "rewards.1.gpus = -1"),
    "rewards.1.weight": ("a", "rewards.1.weight = 'a'"),
    "rewards.1.scale": ("-1", "rewards.1.scale = -1"),
    "rewards.2.name": ("[a]", "rewards.2.name = ['a']"),
    "rewards.2.url": ("http://judge.example.com/score", "judge.example.com, which scoring.allowed_hosts does not"),
    "rewards.2.batch_size": ("0", "rewards.2.batch_size = 0"),
    "rewards.2.concurrency": ("0", "rewards.2.concurrency = 0"),
    "rewards.2.timeout_s": ("0", "rewards.2.timeout_s = 0"),
    "rewards.2.attempts": ("0", "rewards.2.attempts = 0"),
    "rewards.2.token_env": ("hf_LOSTlostLOSTlostLOSTlostLOSTlost", "rewards.2.token_env = '***' holds a secret"),
    "rewards.2.weight": (".inf", "rewards.2.weight = inf"),
    "rewards.2.scale": (".inf", "rewards.2.scale = inf"),
    "scoring.reward_scale": ("set_std", "scoring.reward_scale = 'set_std'"),
    "scoring.truncated": ("cut", "scoring.truncated = 'cut'"),
    "scoring.truncation_penalty": ("-1", "scoring.truncation_penalty = -1"),
    "scoring.min_reward_spread": ("-1", "scoring.min_reward_spread = -1"),
    "scoring.max_failed_fraction": ("2", "scoring.max_failed_fraction = 2"),
    "scoring.allowed_hosts": ("[]", "is at localhost, which scoring.allowed_hosts does not list"),
    "dispersion.estimator": ("entropy", "dispersion.estimator = 'entropy'"),
    "dispersion.scale": ("0", "dispersion.scale"),
    "dispersion.shuffle": ("maybe", "dispersion.shuffle = 'maybe'"),
    "objective.preset": ("w-mop", "did you mean 'w-mpo'"),
    "objective.prior": ("nowhere", "nowhere"),
    "objective.dispersion": ("both", "objective.dispersion = 'both'"),
    "objective.contrast": ("nowhere", "nowhere"),
    "objective.link": ("nowhere", "nowhere"),
    "objective.beta": ("-1", "beta"),
    "annotation.replicas": ("0", "annotation.replicas = 0"),
    "annotation.gpus": ("-1", "annotation.gpus = -1"),
    "annotation.tokens_per_batch": ("0", "annotation.tokens_per_batch = 0"),
    "annotation.importance": ("3", "annotation.importance = 3"),
    "annotation.importance.positive": ("1", "annotation.importance.positive = 1"),
    "annotation.importance.negative": ("1", "annotation.importance.negative = 1"),
    "training.workers": ("0", "training.workers = 0"),
    "training.gpus_per_worker": ("2", "training.gpus_per_worker = 2"),
    "training.learning_rate": ("0", "training.learning_rate = 0"),
    "training.warmup_fraction": ("-0.1", "training.warmup_fraction = -0.1"),
    "training.schedule": ("step", "training.schedule = 'step'"),
    "training.weight_decay": ("-1", "training.weight_decay = -1"),
    "training.adam_beta1": ("1", "training.adam_beta1 = 1"),
    "training.adam_beta2": ("1", "training.adam_beta2 = 1"),
    "training.max_grad_norm": ("0", "training.max_grad_norm = 0"),
    "training.sets_per_step": ("0", "training.sets_per_step = 0"),
    "training.tokens_per_micro_batch": ("0", "training.tokens_per_micro_batch = 0"),
    "training.logprob_chunk_tokens": ("0", "training.logprob_chunk_tokens = 0"),
    "training.activation_checkpointing": ("maybe", "training.activation_checkpointing = 'maybe'"),
    "training.packing": ("greedy", "training.packing = 'greedy'"),
    "training.reference_mixing": ("2", "training.reference_mixing = 2"),
    "training.reference_steps": ("0", "training.reference_steps = 0"),
    "training.threads": ("0", "training.threads = 0"),
    "training.checkpoint_steps": ("0", "training.checkpoint_steps = 0"),
    "training.max_failures": ("-1", "training.max_failures = -1"),
    "training.start_timeout_s": ("0", "training.start_timeout_s = 0"),
    "online.rounds": ("0", "online.rounds = 0"),
    "online.prompts_per_round": ("0", "online.prompts_per_round = 0"),
    "online.epochs_per_round": ("0", "online.epochs_per_round = 0"),
    "online.reference": ("best", "online.reference = 'best'"),
    "online.ema_decay": ("0.5", "only with online.reference = ema"),
    "online.data": ("all", "online.data = 'all'"),
    "online.sync": ("nccl", "GPUs on both sides"),
    "online.kl_bound": ("0", "online.kl_bound = 0"),
    "online.patience": ("0", "online.patience = 0"),
    "online.min_trainable_fraction": ("2", "online.min_trainable_fraction = 2"),
    "evaluation.num_prompts": ("0", "evaluation.num_prompts = 0"),
    "evaluation.num_responses": ("0", "evaluation.num_responses = 0"),
    "evaluation.confidence": ("1", "evaluation.confidence = 1"),
    "evaluation.bootstrap_samples": ("10", "evaluation.bootstrap_samples = 10"),
    "evaluation.judge": ("3", "evaluation.judge = 3"),
    "evaluation.judge.url": ("http://localhost/v1?api_key=LOST", "'http://localhost/v1?api_key=***' holds a secret"),
    "evaluation.judge.model": ("1", "evaluation.judge.model = 1"),
    "evaluation.judge.template": ("1", "evaluation.judge.template = 1"),
    "evaluation.judge.max_tokens": ("0", "evaluation.judge.max_tokens = 0"),
    "evaluation.judge.temperature": ("-1", "evaluation.judge.temperature = -1"),
    "evaluation.judge.responses": ("0", "evaluation.judge.responses = 0"),
    "evaluation.judge.concurrency": ("0", "evaluation.judge.concurrency = 0"),
    "evaluation.judge.timeout_s": ("0", "evaluation.judge.timeout_s = 0"),
    "evaluation.judge.attempts": ("0", "evaluation.judge.attempts = 0"),
    "evaluation.judge.token_env": ("1", "evaluation.judge.token_env = 1"),
    "cluster.placement": ("shared", "never measured"),
    "cluster.engine_labels": ("{role: a b}", "cluster.engine_labels"),
    "cluster.trainer_labels": ("[role]", "cluster.trainer_labels"),
    "cluster.scorer_labels": ("{role: 3}", "cluster.scorer_labels"),
    "cluster.ray_cpus": ("0", "cluster.ray_cpus = 0"),
    "cluster.dashboard": ("maybe", "cluster.dashboard = 'maybe'"),
    "cluster.no_progress_timeout_s": ("0", "cluster.no_progress_timeout_s = 0"),
    "tracking.tensorboard": ("maybe", "tracking.tensorboard = 'maybe'"),
    "tracking.mlflow_uri": ("http://me:LOST@host", "'http://***@host' holds a secret"),
    "tracking.wandb_project": ("1", "tracking.wandb_project = 1"),
}
"""Per field a value that no run can have, and what the refusal says of it."""


def fields(section: type[BaseModel], prefix: str = "") -> set[str]:
    """Dotted names of all values of the tree; sources of rewards by their place in TREE."""
    found = set()
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found |= fields(field.annotation, f"{prefix}{name}.")
        else:
            found.add(prefix + name)
    return found


def test_the_table_has_every_field() -> None:
    """And of a mapping of kinds, each kind; `type` tells the kinds apart and is there once."""
    kinds = (config.FunctionReward, config.ModelReward, config.HttpReward)
    every = fields(config.RunConfig) | fields(config.JudgeConfig, "evaluation.judge.")
    every |= fields(config.ImportanceConfig, "annotation.importance.")
    for index, kind in enumerate(kinds):
        every |= fields(kind, f"rewards.{index}.")
    assert every - set(FIELDS) == {"rewards.1.type", "rewards.2.type"}
    assert set(FIELDS) - every == {"objective.beta"}, "a hyperparameter of a preset"


@pytest.mark.parametrize("key", FIELDS)
def test_a_field_refuses_what_no_run_can_have(key: str, raypo: Command) -> None:
    value, told = FIELDS[key]
    answer = raypo("plan", "run.yaml", f"{key}={value}")
    refused(answer, told)
    assert "LOST" not in answer[2]


def replace(path: Path, text: str | bytes) -> None:
    """Write a file anew."""
    path.write_bytes(text.encode() if isinstance(text, str) else text)


def settings(place: Path, file: str, **changes: Any) -> None:
    """Change a JSON file of the policy's folder."""
    path = place / "policy" / file
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def pickled(place: Path) -> None:
    """Weights as a pickle alone."""
    (place / "policy" / "model.safetensors").rename(place / "policy" / "pytorch_model.bin")


def torn(place: Path) -> None:
    """The second half of the weights is missing."""
    path = place / "policy" / "model.safetensors"
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def conversation(*roles: str) -> str:
    """A prompt of messages."""
    return json.dumps({"prompt": [{"role": role, "content": "w1"} for role in roles]}) + "\n"


BROKEN: dict[str, tuple[Callable[[Path], Any], list[str], str]] = {
    # data
    "prompts missing": (lambda p: (p / "prompts.jsonl").unlink(), [], "no such file"),
    "prompts empty": (lambda p: replace(p / "prompts.jsonl", ""), [], "is empty"),
    "prompts no JSON": (lambda p: replace(p / "prompts.jsonl", '{"prompt": "a"}\n{"pro'), [], "line 2"),
    "prompts no UTF-8": (lambda p: replace(p / "prompts.jsonl", b'{"prompt": "\xff"}\n'), [], "prompts.jsonl"),
    "prompts no text": (lambda p: replace(p / "prompts.jsonl", '{"prompt": 3}\n'), [], "line 1"),
    "column missing": (lambda p: None, ["prompts.column=question"], "no column 'question'; it has 'prompt'"),
    "gzip torn": (
        lambda p: replace(p / "p.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 99)[:-9]),
        ["prompts.path=p.jsonl.gz"],
        "p.jsonl.gz",
    ),
    "no gzip": (lambda p: replace(p / "p.jsonl.gz", "{}"), ["prompts.path=p.jsonl.gz"], "p.jsonl.gz"),
    "no Parquet": (lambda p: replace(p / "p.parquet", "PAR1"), ["prompts.path=p.parquet"], "p.parquet"),
    "folder without data": (lambda p: (p / "empty").mkdir(), ["prompts.path=empty"], "in this folder"),
    "unknown format": (lambda p: replace(p / "p.csv", "prompt\na\n"), ["prompts.path=p.csv"], "p.csv"),
    "prompts too long": (lambda p: None, ["prompts.max_prompt_tokens=2"], "none is left"),
    "one prompt": (lambda p: None, ["prompts.limit=1"], "none is left as held-out prompt"),
    "held-out file missing": (
        lambda p: None,
        ["prompts.heldout_path=none.jsonl", "prompts.heldout_fraction=0.1"],
        "none.jsonl",
    ),
    "no template": (lambda p: replace(p / "prompts.jsonl", conversation("user") * 9), [], "has no chat template"),
    "no known dispersion": (
        lambda p: replace(p / "prompts.jsonl", "".join(f'{{"prompt": "w{i}"}}\n' for i in range(9))),
        ["dispersion.estimator=given"],
        "has no column 'dispersion'",
    ),
    "assistant last": (
        lambda p: replace(p / "prompts.jsonl", conversation("user", "assistant")),
        [],
        "ends with the assistant's turn",
    ),
    # models
    "policy missing": (lambda p: shutil.rmtree(p / "policy"), ["policy.path=./policy"], "no such folder"),
    "policy on no hub": (lambda p: None, ["policy.path=nobody/nothing"], "nobody/nothing cannot be read"),
    "policy a file": (lambda p: replace(p / "model", ""), ["policy.path=./model"], "no such folder"),
    "config missing": (lambda p: (p / "policy" / "config.json").unlink(), [], "no config.json"),
    "config no JSON": (lambda p: replace(p / "policy" / "config.json", "{"), [], "config.json cannot be read"),
    "config of unknown kind": (lambda p: settings(p, "config.json", model_type="lamma"), [], "lamma"),
    "code in the folder": (
        lambda p: settings(p, "config.json", model_type="own", auto_map={"AutoConfig": "own.Own"}),
        [],
        "policy cannot be read",
    ),
    "pickles alone": (pickled, [], "pickles are not read"),
    "weights torn": (torn, [], "a whole safetensors file"),
    "weights no header": (
        lambda p: replace(p / "policy" / "model.safetensors", struct.pack("<Q", 2**40)),
        [],
        "a whole safetensors file",
    ),
    "tokenizer missing": (lambda p: (p / "policy" / "tokenizer.json").unlink(), [], "policy cannot be read"),
    "tokenizer no JSON": (lambda p: replace(p / "policy" / "tokenizer.json", "{"), [], "policy cannot be read"),
    "too few positions": (lambda p: settings(p, "config.json", max_position_embeddings=20), [], "20 positions"),
    "smaller vocabulary": (lambda p: settings(p, "config.json", vocab_size=100), [], "its model embeds 100"),
    "unknown stop token": (lambda p: None, ["sampling.stop_token_ids=[200]"], "0 to 199"),
    "template file missing": (lambda p: None, ["policy.chat_template=none.jinja"], "none.jinja"),
    "heads too small": (
        lambda p: settings(p, "config.json", head_dim=16),
        ["engine.backend=cpu"],
        "attention heads of size 16",
    ),
    # rewards
    "module missing": (lambda p: (p / "bad_input_rewards.py").unlink(), [], "No module named 'bad_input_rewards'"),
    "module that raises": (
        lambda p: replace(p / "bad_input_rewards.py", "raise OSError('no lexicon')"),
        [],
        "OSError: no lexicon",
    ),
    "module no Python": (lambda p: replace(p / "bad_input_rewards.py", "def"), [], "SyntaxError"),
    "function missing": (lambda p: None, ["rewards.0.path=bad_input_rewards:two"], "one of: ones"),
    "no function": (lambda p: None, ["rewards.0.path=bad_input_rewards:number"], "is int"),
    "no path of a function": (lambda p: None, ["rewards.0.path=bad_input_rewards.ones"], "package.module:function"),
    "reward model missing": (lambda p: None, ["rewards.1.path=./none"], "no such folder"),
    "token not set": (lambda p: None, ["rewards.2.token_env=REWARD_TOKEN"], "REWARD_TOKEN is not set"),
    "judge's token not set": (
        lambda p: None,
        ["evaluation.judge.token_env=REWARD_TOKEN"],
        "judge 'judge': the environment variable REWARD_TOKEN",
    ),
    "judge's template missing": (lambda p: None, ["evaluation.judge.template=none.txt"], "none.txt cannot be read"),
    "judge's template incomplete": (
        lambda p: replace(p / "judge.txt", "{prompt} {first}"),
        ["evaluation.judge.template=judge.txt"],
        "has no {second}",
    ),
    # storage
    "output a file": (lambda p: replace(p / "out", ""), ["output=out"], "place/out: File exists"),
    "storage of no kind": (lambda p: None, ["prompts.path=ftp://host/p.jsonl"], "ftp://host/p.jsonl cannot be opened"),
    # environment
    "tracker not installed": (lambda p: None, ["tracking.mlflow_uri=file:mlruns"], "mlflow is not installed"),
    "vLLM for GPUs": (lambda p: None, ["engine.backend=gpu"], "vLLM for gpu"),
}
"""What is broken, overrides, and what the refusal says of it."""


LONG: dict[str, str] = {
    "name=" + "x" * 201: "at most 200 characters",
    "output=" + "x" * 300: "xxx: File name too long",
    "output=" + "x/" * 3000: "x/x: File name too long",
    "policy.path=./" + "x" * 5000: "no such folder",
    "policy.path=" + "x" * 5000: "the config of xxx",
    "policy.chat_template=" + "x" * 5000: "File name too long",
    "prompts.path=" + "x" * 5000: "xxx",
    "rewards.1.path=./" + "x" * 5000: "no such folder",
    'output="a\\0b"': "no null character",
    "seed=4294967296": "seed = 4294967296",
}
"""Overrides that no file system and no generator of random numbers takes, and what the refusal says of each."""


@pytest.mark.parametrize("command", ["plan", "run"])
@pytest.mark.parametrize("override", LONG, ids=lambda override: override[:24])
def test_what_is_too_long_or_too_large_ends_a_run_before_it_starts(
    override: str, command: str, raypo: Command, place: Path
) -> None:
    """A plan may pass what only a look at the machine tells; it ends with a message or with a plan."""
    answer = raypo(command, "run.yaml", override)
    if command == "run" or answer[0]:
        refused(answer, LONG[override])
    assert not (place / "runs").exists()


@pytest.mark.parametrize("seed", [-1, 2**32])
def test_a_seed_of_the_command_line_is_bounded_too(seed: int, raypo: Command) -> None:
    assert raypo("study", "dispersion", "--seed", str(seed))[0] == 2


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_around_a_run_ends_it_before_it_starts(case: str, raypo: Command, place: Path) -> None:
    """Nothing is written that looks like a run's result."""
    make, overrides, told = BROKEN[case]
    make(place)
    refused(raypo("run", "run.yaml", *overrides), told)
    assert not list(place.glob("runs/tiny/**/*manifest*"))
    assert not list(place.glob("runs/tiny/summary.json"))


@pytest.mark.parametrize("command", ["run", "train"])
@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda run: replace(run / "run.json", "{"), "run.json"),
        (lambda run: replace(run / "run.json", "[]"), "no record of a run"),
        (lambda run: (run / "checkpoints").mkdir(), "has checkpoints and no run.json"),
    ],
    ids=["torn", "no record", "gone"],
)
def test_a_damaged_run_is_refused_and_left_as_it_is(
    damage: Callable[[Path], Any], told: str, command: str, raypo: Command, place: Path
) -> None:
    run = place / "runs" / "tiny"
    run.mkdir(parents=True)
    damage(run)
    before = sorted(path.name for path in run.iterdir())
    refused(raypo(command, "run.yaml"), told)
    assert sorted(path.name for path in run.iterdir()) == before


@pytest.mark.parametrize(("command", "verb"), [("run", RUN), ("train", TRAIN)])
def test_a_finished_run_says_so_although_what_it_needed_is_gone(
    command: str, verb: Verb, raypo: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No model, no rewards and no Ray: the same command on a new machine has nothing to do."""
    given = config.load(place / "run.yaml")
    folder = RunFolder(given)
    identity.open_folder(folder, given, verb)
    replace(Path(folder.path("summary.json")), '{"name": "tiny"}')
    for file in (place / "policy").iterdir():
        file.unlink()
    (place / "bad_input_rewards.py").unlink()
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    code, out, err = raypo(command, "run.yaml")
    assert code == 0, err
    assert "run tiny is finished" in out


@pytest.mark.parametrize(("address", "told"), [("127.0.0.1:9", "cannot be joined"), ("ray://head:10001", "Ray Client")])
def test_a_ray_that_cannot_be_joined_ends_a_run_before_it_starts(
    address: str, told: str, raypo: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens on port 9."""
    monkeypatch.setenv("RAY_ADDRESS", address)
    refused(raypo("run", "run.yaml"), told)
    assert not (place / "runs").exists()


def test_a_mirror_that_does_not_answer_ends_a_run_before_it_starts(
    raypo: Command, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody listens on port 9; pyarrow asks ten times, in about a second here."""
    keys = {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b", "AWS_REGION": "us-east-1"}
    for name, value in (keys | {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}).items():
        monkeypatch.setenv(name, value)
    refused(raypo("run", "run.yaml", "mirror=s3://bucket/kept"), "cannot be read")
    assert not (place / "runs").exists()


def test_a_run_of_another_config_is_not_continued(raypo: Command, place: Path) -> None:
    """What is there stays as it is."""
    folder = place / "runs" / "tiny"
    folder.mkdir(parents=True)
    known = json.loads(config.load(place / "run.yaml").model_dump_json()) | {"seed": 7}
    (folder / "run.json").write_text(json.dumps({"config": known}))
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    refused(raypo("run", "run.yaml"), "seed (7 -> 0)")
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


SETS = {"prompt": "w1 w2", "responses": ["w3", "w4"], "rewards": [1.0, 0.0]}
GIVEN: dict[str, tuple[dict[str, Any], list[str], str]] = {
    "fewer rewards": (SETS | {"rewards": [1.0]}, [], "2 responses and 1 rewards"),
    "a reward of text": (SETS | {"rewards": ["good", 0.0]}, [], "line 1"),
    "one response": (SETS | {"responses": ["w3"], "rewards": [1.0]}, [], "two"),
    "no layout": ({"question": "w1"}, [], "line 1"),
    "no known dispersion": (SETS, ["dispersion.estimator=given"], "has no column 'dispersion'"),
    "a known dispersion of text": (SETS | {"dispersion": "high"}, ["dispersion.estimator=given"], "str 'high'"),
    "a known dispersion that is a truth value": (SETS | {"dispersion": True}, ["dispersion.estimator=given"], "bool"),
    "a known dispersion of 0": (SETS | {"dispersion": 0}, ["dispersion.estimator=given"], "above 0 and at most 1"),
    "a known dispersion above 1": (SETS | {"dispersion": 1.5}, ["dispersion.estimator=given"], "float 1.5"),
    "a known dispersion that is NaN": (SETS | {"dispersion": float("nan")}, ["dispersion.estimator=given"], "null"),
    "responses too long": (SETS, ["sampling.max_response_tokens=1"], "none is left to train on"),
}


@pytest.mark.parametrize("case", GIVEN)
def test_given_sets_that_cannot_train_are_refused_before_anything_starts(
    case: str, raypo: Command, place: Path
) -> None:
    row, overrides, told = GIVEN[case]
    (place / "prompts.jsonl").write_text(json.dumps(row) + "\n")
    refused(raypo("train", "run.yaml", "rewards=[]", "evaluation={}", *overrides), told)
    assert not list(place.glob("runs/tiny/**/*manifest*"))
