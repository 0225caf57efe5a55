"""What takes Ray: places for all processes, nodes that see the same files, and sixteen responses from the policy."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
from rich.text import Text

from raypo.config import ModelReward, RunConfig
from raypo.doctor import trust
from raypo.doctor.checks import samples
from raypo.doctor.data import SHOWN, as_trained, reward_finding
from raypo.doctor.findings import Finding, ok, tried, warn
from raypo.doctor.memory import BYTES, model_shape, size
from raypo.models.load import load_tokenizer
from raypo.online.run import engine_setup
from raypo.sampling.sync import CHUNK_BYTES
from raypo.stages import cluster, nodes, verbs
from raypo.stages.actors import create

RESPONSES = 16
FEW_END = 0.5
"""Below this share of responses that end by themselves, a policy has not learned to answer."""
NODE_TIMEOUT_S = 60.0


def places(config: RunConfig) -> list[Finding]:
    """Resources asked against free, a node for each process, the object store, and what the nodes see."""
    online = samples(config)

    def resources() -> Finding:
        cluster.check_resources(config, engines=online)
        return ok("resources", asked_and_free(config, online))

    return [
        *tried("resources", resources),
        *tried("object store", lambda: store(config)),
        *tried("shared files", lambda: shared(config)),
        token(),
    ]


def asked_and_free(config: RunConfig, online: bool) -> str:
    """Sums over the run and over the nodes."""
    asked = cluster.Asked.by(config, on_gpu=online and cluster.on_gpu(config), engines=online)
    free = nodes.free_nodes()
    cpus, gpus = sum(node.cpus for node in free), sum(node.gpus for node in free)
    return f"{asked.cpus} CPUs asked, {cpus:g} free; {asked.gpus:g} GPUs asked, {gpus:g} free; {len(free)} nodes"


def store(config: RunConfig) -> Finding:
    """Weights that travel through memory lie in the object store, a chunk at a time."""
    there, shape = nodes.object_store(), model_shape(config.policy.path)
    told = f"{size(there)} in all object stores"
    if shape is None:
        return ok("object store", told)
    # a chunk is closed when it passes CHUNK_BYTES, so it may hold the largest matrix on top; two are alive at once
    width = BYTES[config.policy.export_dtype]
    needed = 2.0 * min(CHUNK_BYTES + width * shape.vocabulary * shape.hidden, width * shape.parameters)
    told += f"; new weights take up to {size(needed)} on their way"
    if needed > there:
        return warn("object store", told, "room for them: Ray would write to disk", "start Ray with a larger store")
    return ok("object store", told)


def shared(config: RunConfig) -> Finding:
    """Whether every node sees the run's folder and the policy's.

    Raises:
        ResourceError: a node does not answer.
        OutputError: the folder cannot be written.
    """
    place = Path(config.output).absolute()
    place.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=place, prefix=".doctor-") as probe:
        local = [str(Path(one).absolute()) for one in folders(config)]
        missing = nodes.unseen([probe.name, *local], NODE_TIMEOUT_S)
        told = "; ".join(
            f"{address} does not see {', '.join(str(place) if name == probe.name else name for name in names)}"
            for address, names in missing.items()
        )
    if missing:
        return Finding(
            "shared files",
            "fail",
            told,
            "one file system on every node: any of them may hold an engine or a train worker",
            "mount shared storage (NFS, EFS, Filestore) on all nodes, and give its folders as output and policy.path",
        )
    return ok("shared files", f"every node sees {place}" + (f" and {len(local)} model folders" if local else ""))


def folders(config: RunConfig) -> list[str]:
    """Model folders of this machine that processes of the run would read."""
    named = [config.policy.path, *(one.path for one in config.rewards if isinstance(one, ModelReward))]
    return [one for one in named if os.path.isdir(one)]


def token() -> Finding:
    """Whether the Ray that was joined asks for a token."""
    if nodes.asks_for_a_token():
        return ok("token", "this Ray asks for a token")
    if not os.environ.get("RAY_ADDRESS"):
        return ok("token", "not asked for: this Ray is raypo's own, for the time of the command")
    return warn(
        "token",
        f"the Ray at {os.environ['RAY_ADDRESS']} asks nobody for a token",
        "token authentication: whoever reaches a Ray without it can run code there",
        "start it with RAY_AUTH_MODE=token and one token for all nodes and clients",
    )


def rehearse(config: RunConfig, prompts: pa.Table) -> tuple[list[Finding], list[Text]]:
    """Sixteen responses from the policy or a few more, scored: how they end, how long they are, what the rewards say.

    Args:
        config: of the run; one engine and one replica of each scorer are started.
        prompts: rows of records.PROMPTS, of which the first by content hash are used: so many that there are at least
            RESPONSES responses, or all.

    Returns:
        findings, and texts as they would be trained.

    Raises:
        UserError: an engine or a reward source cannot be had.
        RunError: one of them broke.
    """
    small, each = one_of_each(config), min(config.sampling.num_responses, 4)
    began = time.monotonic()
    actors = create(small, *engine_setup(small))
    try:
        actors.engines.bring_up(config.policy.path, 0)
        started = time.monotonic() - began
        chosen = prompts.sort_by("prompt_id").slice(0, -(-RESPONSES // each))
        drawn, facts = verbs.sample(
            chosen,
            actors,
            small,
            round_index=0,
            version=0,
            seeds="doctor",
            num_responses=each,
            progress=lambda chunk: None,
        )
        scored, _ = verbs.score(drawn, actors, small, progress=lambda chunk: None)
    finally:
        actors.shutdown()
    speed = f"started in {started:.0f} s, {facts['response_tokens'] / facts['seconds']:.0f} tokens/s so far"
    tokenizer = load_tokenizer(config.policy.path, config.policy.revision, config.policy.chat_template)
    shown = [as_trained(tokenizer, row) for row in scored.to_pylist()[:SHOWN]]
    return [ok("engine", speed), endings(drawn, config), *judged(scored, config), *trust.doubts_of(scored)], shown


def one_of_each(config: RunConfig) -> RunConfig:
    """The config with one engine, and one replica of each scorer."""
    update: dict[str, Any] = {
        "engine": config.engine.model_copy(update={"count": 1}),
        "annotation": config.annotation.model_copy(update={"replicas": 1}),
        "rewards": tuple(
            one.model_copy(update={"replicas": 1}) if isinstance(one, ModelReward) else one for one in config.rewards
        ),
    }
    return config.model_copy(update=update)


def endings(drawn: pa.Table, config: RunConfig) -> Finding:
    """How responses end: by themselves, or cut at the limit."""
    reasons = [reason for row in drawn["finish_reasons"].to_pylist() for reason in row]
    lengths = [len(ids) for row in drawn["response_token_ids"].to_pylist() for ids in row]
    ended, limit = reasons.count("stop"), config.sampling.max_response_tokens
    told = (
        f"{ended} of {len(reasons)} responses end by themselves, {len(reasons) - ended} are cut at {limit} tokens; "
        f"mean length {sum(lengths) / len(lengths):.0f}"
    )
    if ended < FEW_END * len(reasons):
        return warn(
            "responses",
            told,
            "a policy that ends most of its answers: cut ones teach little",
            "warm it up by supervised fine-tuning on answers with their end, or raise sampling.max_response_tokens; "
            "scoring.truncated says what becomes of cut ones",
        )
    return ok("responses", told)


def judged(scored: pa.Table, config: RunConfig) -> Sequence[Finding]:
    """What the sources and their weighted sum say of the sampled responses."""
    rows = scored.to_pylist()
    found = [reward_finding("training reward", [row["rewards"] for row in rows], config)]
    for index, source in enumerate(config.rewards):
        values = [v for row in rows for v in row["reward_values"][index]["values"]]
        known = [value for value in values if value is not None]
        name, weight = f"reward {source.name}", f"weight {source.weight:g}" if source.weight else "watched"
        if not known:
            found.append(warn(name, f"no value for any of {len(values)} responses", "numbers", "mend the source"))
            continue
        told = f"{min(known):.4g} to {max(known):.4g} on {len(known)} of {len(values)} responses, {weight}"
        found.append(ok(name, told))
    return found
