"""The sections of a run and their fields. A field's docstring is its documentation: meaning, unit, what None does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field

from raypo.config.judge import JudgeConfig
from raypo.config.objective import ObjectiveConfig
from raypo.config.rewards import RewardSource
from raypo.config.section import Fraction, Positive, Section, SetsFormat

_Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9]([A-Za-z0-9_./-]{0,251}[A-Za-z0-9])?$")]
"""Key or value of a label of a Ray node, as Kubernetes writes them."""


class PolicyConfig(Section):
    """The model that is aligned."""

    path: str
    """Hugging Face folder or hub name of a causal language model: the policy's start and the initial reference."""
    revision: str | None = None
    """Hub revision. None: the default branch; ignored for a folder."""
    compute_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of activations and matrix products in training and annotation. Master weights are always float32."""
    export_dtype: Literal["float32", "bfloat16"] = "bfloat16"
    """Type of exported weights and of the engines. What is evaluated is what is exported."""
    adapter: Literal["none", "lora"] = "none"
    """`lora` trains low-rank adapters through peft and exports them merged for the engines."""
    lora_rank: Positive = 16
    """Rank of the adapter matrices. Read only with `adapter: lora`."""
    lora_alpha: Annotated[float, Field(gt=0)] = 32.0
    """Scale of the adapter: its update is multiplied by lora_alpha / lora_rank."""
    lora_target_modules: tuple[str, ...] | Literal["all-linear"] = "all-linear"
    """Names of the linear layers that get an adapter."""
    chat_template: str | None = None
    """Path of a Jinja chat template that replaces the tokenizer's. None: the tokenizer's own."""
    trust_remote_code: Literal[False] = False
    """Always false: raypo runs no code from a model folder."""


class PromptsConfig(Section):
    """Where prompts come from."""

    path: str
    """JSONL (also .gz), JSON or Parquet file or folder, or a Hugging Face dataset: its name, a copy, or what
    `save_to_disk` wrote."""
    column: str = "prompt"
    """Column with the prompt: a string, or a list of {role, content} messages (then the chat template is applied)."""
    split: str = "train"
    """Split of a Hugging Face dataset, a copy of one in a folder too. Not read for files."""
    subset: str | None = None
    """Configuration of a Hugging Face dataset that has several. Not read for files."""
    limit: Positive | None = None
    """Use the first so many rows. None: all."""
    heldout_fraction: Fraction = 0.1
    """Share of prompts kept for evaluation, chosen by content hash, so that the split never depends on order."""
    heldout_path: str | None = None
    """Separate prompts for evaluation, same format. Overlap is removed from training and counted."""
    max_prompt_tokens: Positive = 1024
    """Longer prompts are dropped and counted, never cut."""
    template_arguments: dict[str, Any] = Field(default_factory=dict)
    """Arguments of every rendering of the chat template, such as {enable_thinking: false}; hashed with the template."""
    sets_format: SetsFormat = "auto"
    """Offline sets: their layout. `auto`: the first whose columns a row has (`raypo.data.formats.table`). A transcript
    column `prompt` beside `chosen` and `rejected` is plain text unless this is `hh`, which makes messages of it."""
    numbered_prefix: str = "A"
    """Offline sets: where each response has a column, what stands before its number: A0, A1, ... and score_A0, ..."""
    responses_column: str = "responses"
    """Offline sets: column with the list of responses of each prompt: strings, or objects with text and score."""
    response_text_key: str = "text"
    """Offline sets: where responses are objects, the key of a response's text."""
    response_score_key: str = "score"
    """Offline sets: where responses are objects, the key of a response's reward: a number, or several raters' numbers,
    of which the mean is taken."""
    rewards_column: str = "rewards"
    """Offline sets: column with the list of rewards, one number per response. Not read where responses are objects."""


class SamplingConfig(Section):
    """How responses are drawn."""

    num_responses: Annotated[int, Field(ge=1)] = 8
    """K: responses per prompt. Sets need at least 2."""
    max_response_tokens: Positive = 256
    """Longest response in tokens, the stop token included."""
    temperature: Annotated[float, Field(gt=0)] = 1.0
    """Sampling temperature. KL figures are unbiased at 1 only."""
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    """Nucleus mass. Below 1 the responses are not samples of the policy."""
    stop_token_ids: tuple[int, ...] = ()
    """Token ids that end a response beside the model's own end-of-sequence ids."""
    batch_prompts: Positive = 64
    """Prompts per call to an engine. More fills the engine better, less shows progress sooner."""
    timeout_s: Annotated[float, Field(gt=0)] = 1800.0
    """Longest wait for one call to an engine, seconds."""


class EngineConfig(Section):
    """The vLLM engines."""

    count: Positive = 1
    """Number of engines, created once per run."""
    backend: Literal["auto", "cpu", "gpu"] = "auto"
    """Which build of vLLM: `auto` takes the GPU when Ray has one."""
    tensor_parallel: Positive = 1
    """GPUs per engine. An engine lives on one node."""
    max_model_tokens: Positive | None = None
    """Context of the engine, tokens. None: max_prompt_tokens + max_response_tokens."""
    max_sequences: Positive = 256
    """Sequences that an engine decodes at once."""
    gpu_memory_fraction: Annotated[float, Field(gt=0, le=1)] = 0.9
    """Share of a GPU's memory that an engine takes. Read only on GPUs."""
    kv_cache_gib: Positive = 1
    """Memory for the KV cache of a CPU engine, GiB. Read only on CPUs."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest wait for the placement group, and then for the engines, seconds."""


class ScoringConfig(Section):
    """What becomes of rewards before they train."""

    reward_scale: Literal["none", "run_std"] = "run_std"
    """`run_std`: rewards are divided by the within-set spread (root mean variance) of the first round, then frozen."""
    truncated: Literal["keep", "drop", "penalty"] = "keep"
    """Responses that met max_response_tokens: kept, made unusable, or given a lower reward."""
    truncation_penalty: Annotated[float, Field(ge=0)] = 1.0
    """Subtracted from the reward of a truncated response. Read only with `truncated: penalty`."""
    min_reward_spread: Annotated[float, Field(ge=0)] = 0.0
    """Sets whose rewards span this much or less are ties: they never train. In units of the raw training reward."""
    max_failed_fraction: Fraction = 0.2
    """More unscorable responses than this in one round end the run: the reward is broken."""
    allowed_hosts: tuple[str, ...] = ("localhost", "127.0.0.1", "::1")
    """Hosts of reward servers and judges: prompts and responses are sent to no other. `*.example.com`: all below it."""


class DispersionConfig(Section):
    """How far each prompt's preferences are believed."""

    estimator: Literal["reference_entropy", "likelihood", "reward_spread", "given", "none"] = "reference_entropy"
    """`reference_entropy` is the published one (arXiv 2405.14953); two others use the K responses, `reward_spread`
    beside the average spread of the first round's sets, which is then frozen. `given`: d is known, a number in (0, 1]
    in the column `dispersion` of prompts or sets, and psi = -ln d without a scale. `none`: psi = 1."""
    scale: Annotated[float, Field(gt=0)] | Literal["fit"] = "fit"
    """c of psi = -c ln d. `fit`: mean psi is 1 over the trainable sets of the first round, then frozen. 0.29 is
    MallowsPO's published one (`raypo.dispersion.PUBLISHED_SCALE`), a fit on Llama3-8B-Instruct with UltraFeedback."""
    shuffle: bool = False
    """Control: give each prompt another prompt's psi, by a seeded permutation within the round."""


class TrainingConfig(Section):
    """The optimizer and its batches."""

    workers: Positive = 1
    """Ray Train workers: one per GPU, or CPU processes."""
    gpus_per_worker: Annotated[int, Field(ge=0, le=1)] = 0
    """1 on GPU clusters, 0 on CPUs."""
    learning_rate: Annotated[float, Field(gt=0)] = 5e-7
    """Peak learning rate of AdamW."""
    warmup_fraction: Fraction = 0.1
    """Share of the planned steps in which the learning rate rises linearly from 0."""
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    """Shape after warm-up, over the planned steps of all rounds."""
    weight_decay: Annotated[float, Field(ge=0)] = 0.0
    """AdamW's decoupled decay."""
    adam_beta1: Annotated[float, Field(ge=0, lt=1)] = 0.9
    """Decay of the first moment."""
    adam_beta2: Annotated[float, Field(ge=0, lt=1)] = 0.95
    """Decay of the second moment."""
    max_grad_norm: Annotated[float, Field(gt=0)] = 1.0
    """Gradients are clipped to this global norm."""
    sets_per_step: Positive = 32
    """Prompts per optimizer step, over all workers."""
    tokens_per_micro_batch: Positive = 8192
    """Tokens per forward pass and worker, padding counted: bounds memory, never changes the result."""
    logprob_chunk_tokens: Positive = 1024
    """Response positions per chunk of the language-model head: bounds memory at chunk x vocabulary."""
    activation_checkpointing: bool = False
    """Recompute each layer in the backward pass: less memory, about a third more compute."""
    packing: Literal["shared", "none"] = "shared"
    """`shared`: a prompt is encoded once for all its responses. `none`: once per response, padded; same result."""
    reference_mixing: Fraction = 0.6
    """Share of the policy in each update of a moving reference (preset tr-dpo; 1 copies the policy)."""
    reference_steps: Positive = 512
    """Optimizer steps between updates of a moving reference."""
    threads: Positive = 1
    """OpenMP threads per CPU process. 1 makes runs on CPU bitwise repeatable."""
    checkpoint_steps: Positive | None = None
    """Optimizer steps between checkpoints inside a round. None: a round that is killed is trained again from its start.
    Either way it ends in the same weights; this saves the time."""
    max_failures: Annotated[int, Field(ge=0)] = 3
    """Restarts of the worker group before the run fails."""
    start_timeout_s: Annotated[float, Field(gt=0)] = 600.0
    """Longest wait for a place for the worker group, seconds; all attempts together."""


class ImportanceConfig(Section):
    """Two models whose difference says how much each token matters (preset tis-dpo, arXiv 2410.04350)."""

    positive: str
    """Hugging Face folder or hub name of a model trained towards preferred responses."""
    negative: str
    """The same trained away from them, for example on the same sets with their rewards negated."""


class AnnotationConfig(Section):
    """The actors that hold the reference."""

    replicas: Positive = 1
    """Reference actors, created once per run."""
    gpus: Annotated[float, Field(ge=0)] = 0.0
    """GPUs per replica."""
    tokens_per_batch: Positive = 16384
    """Tokens per forward pass, padding counted; laid out as `training.packing` says."""
    importance: ImportanceConfig | None = None
    """Two models that weigh tokens; asked for by preset tis-dpo, not read by others."""


class OnlineConfig(Section):
    """The rounds."""

    rounds: Positive = 3
    """Rounds of sample, score, annotate, train, sync, evaluate."""
    prompts_per_round: Positive | None = None
    """Prompts sampled per round, in seeded order, starting again when they are used up. None: all of them."""
    epochs_per_round: Positive = 1
    """Passes over a round's sets."""
    reference: Literal["initial", "previous", "ema"] = "initial"
    """What the policy is measured against: the start, the policy before this round, or a moving average of it."""
    ema_decay: Fraction = 0.9
    """Weight of the old average each round. Read only with `reference: ema`."""
    data: Literal["fresh", "accumulate"] = "fresh"
    """Train on this round's sets, or on those of all rounds so far."""
    sync: Literal["auto", "host", "nccl"] = "auto"
    """Rail for new weights: `host` through memory, `nccl` between GPUs. `auto`: host on CPU, nccl on GPU."""
    kl_bound: Annotated[float, Field(gt=0)] | None = None
    """Stop when the KL to the start passes this, nats per response; `best` is chosen below it. None: no bound."""
    patience: Positive | None = None
    """Stop after so many rounds without a better held-out reward. None: never."""
    min_trainable_fraction: Fraction = 0.05
    """Fewer trainable sets than this in a round is an error: the reward tells nothing apart."""


class EvaluationConfig(Section):
    """Held-out evaluation after each round."""

    num_prompts: Positive = 64
    """Held-out prompts used, the first by content hash. Fewer are used when there are fewer."""
    num_responses: Positive = 4
    """Responses drawn per held-out prompt, with the same seeds for every policy."""
    confidence: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Coverage of every interval."""
    bootstrap_samples: Annotated[int, Field(ge=100)] = 2000
    """Resamples of prompts per interval."""
    judge: JudgeConfig | None = None
    """Compares policies in `raypo evaluate`, beside the rewards. None: rewards alone."""


class ClusterConfig(Section):
    """Where the run's processes go."""

    placement: Literal["split", "shared"] = "split"
    """`split`: engines and trainers on their own devices. `shared` is refused until it has been measured on a GPU."""
    engine_labels: dict[_Label, _Label] = Field(default_factory=dict)
    """Labels of the Ray nodes that engines may use, e.g. {raypo-role: sampler}. Empty: any node."""
    trainer_labels: dict[_Label, _Label] = Field(default_factory=dict)
    """Labels of the Ray nodes that train workers may use. Empty: any node."""
    scorer_labels: dict[_Label, _Label] = Field(default_factory=dict)
    """Labels of the Ray nodes that references and reward models may use. Empty: any node."""
    ray_cpus: Positive | None = None
    """Logical CPUs of a Ray that raypo starts itself. None: max(8, cores). Not read on an existing cluster."""
    dashboard: bool = False
    """Start Ray's dashboard with a Ray that raypo starts itself."""
    no_progress_timeout_s: Annotated[float, Field(gt=0)] = 900.0
    """A stage that finishes no row for so long fails, seconds."""


class TrackingConfig(Section):
    """Where metrics go beside metrics.jsonl."""

    tensorboard: bool = True
    """Write TensorBoard event files under `tensorboard/`."""
    mlflow_uri: str | None = None
    """MLflow tracking URI. Needs `mlflow` installed. None: off."""
    wandb_project: str | None = None
    """Weights and Biases project. Needs `wandb` installed. None: off."""


class RunConfig(Section):
    """One run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=200)] = "run"
    """Name of the run: its folder under `output`. The same name continues where it stopped."""
    output: str = "runs"
    """Folder under which the run's folder is made; with several nodes one that all of them see, e.g. NFS."""
    mirror: Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://.")] | None = None
    """URI (s3://, gs://) below which the run's folder is kept a second time, as it grows, and from which it is fetched
    where `output` does not have it. None: kept in `output` alone."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of everything random in the run; below 2**32, so that what is made of it and a round fits 64 bits."""
    policy: PolicyConfig
    prompts: PromptsConfig
    sampling: SamplingConfig = SamplingConfig()
    engine: EngineConfig = EngineConfig()
    rewards: Annotated[tuple[RewardSource, ...], Field(min_length=0)] = ()
    """Reward sources. Those of weight 0 are watched but never trained on."""
    scoring: ScoringConfig = ScoringConfig()
    dispersion: DispersionConfig = DispersionConfig()
    objective: ObjectiveConfig = ObjectiveConfig()
    annotation: AnnotationConfig = AnnotationConfig()
    training: TrainingConfig = TrainingConfig()
    online: OnlineConfig = OnlineConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    cluster: ClusterConfig = ClusterConfig()
    tracking: TrackingConfig = TrackingConfig()
