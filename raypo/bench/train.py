"""`raypo bench train`: seconds per set and peak memory of one optimizer step, in both layouts, with TRL beside them.

Every case runs in a process of its own, one after the other, on the same model, sets, threads and type. Before anything
is timed, the gradients of both layouts, and of the peer on the same pairs, are shown to agree, against a reference that
is not the policy: at policy == reference the slope of a loss is the same for every pair.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from safetensors.torch import load_file

from raypo.bench.case import REFERENCE
from raypo.bench.floor import HEADS, HIDDEN, INTERMEDIATE, LAYERS, VOCABULARY, flops, product_rate
from raypo.bench.measure import child, environment, show, spread, write
from raypo.bench.trl_environment import make_interpreter, versions
from raypo.errors import RunError

AGREE = 1e-4
"""Largest norm of a gradient's difference over its norm; fp32 sums in other orders give some 1e-6."""

AT_ONCE = 8
"""Separate rows of one pass: 64 of 1,088 tokens would take some 20 GB."""

PEER = Path(__file__).with_name("trl_peer.py")
LAYOUTS = "shared", "none"
LIVE = ", live reference"
SPECIAL = "<pad>", "<unk>", "<end>"

APART = 0.01
"""Standard deviation of what the reference's weights have beside the policy's, whose own is 0.02."""


@dataclass(frozen=True)
class Plan:
    """What is measured.

    Args:
        responses: K of a set.
        prompt: tokens.
        response: tokens of each response.
        steps: optimizer steps of a case in one process; the first two are not counted.
        rounds: processes per case, taken in turns: a machine whose speed drifts then treats all cases alike.
        threads: of torch.
        against: the peer, "trl", or None.
        python: interpreter of an environment with the peer; None: one is made.
        batch_sizes: of the peer, in pairs; the fastest per pair counts.
        grid: also compare layouts over K and prompt lengths, forward and backward; and let a set grow to K = 512.
    """

    responses: int = 8
    prompt: int = 256
    response: int = 64
    steps: int = 8
    rounds: int = 3
    threads: int = 2
    against: str | None = None
    python: str | None = None
    batch_sizes: tuple[int, ...] = (1, 2, 4, 8)
    grid: bool = False


def bench_train(plan: Plan, out: Path) -> dict[str, Any]:
    """Run all cases, print tables, write JSON; returns what was written.

    Raises:
        RunError: gradients do not agree, a case failed, or the peer cannot be had.
    """
    found: dict[str, Any] = {"plan": asdict(plan), "environment": environment(plan.threads)}
    with TemporaryDirectory() as place:
        folder = Path(place)
        if plan.against:
            plan = replace(plan, python=plan.python or make_interpreter(folder / "trl"))
            found["peer"] = versions(str(plan.python))
        found["parameters"] = make_inputs(folder, plan.responses, plan.prompt, plan.response)
        found["gradients"] = agreement(folder, plan)
        show("gradients against `packing: none`", [{"case": k, **v} for k, v in found["gradients"].items()])
        found["products_per_s"] = product_rate(plan.threads)
        found["cases"] = cases(folder, plan, found["products_per_s"])
    for title, names in (
        ("one optimizer step, seconds", ("mean", "std", "min", "max", "floor")),
        ("one optimizer step", ("per pair", "tokens/s", "peak GB", "beyond libraries GB")),
    ):
        show(title, [{name: row[name] for name in ("case", *names)} for row in found["cases"]])
    if plan.against:
        found["ratios"] = ratios(found["cases"], plan.responses)
        show("ratios", [{"what": name, "times": value} for name, value in found["ratios"].items()])
    if plan.grid:
        found["sharing"] = sharing(plan)
        shown = "K", "prompt", "achieved", "theory", "share", "separate min", "shared min", "shared std"
        table = [{name: row[name] for name in shown} for row in found["sharing"]]
        show("sharing against separate rows, forward and backward", table)
        found["growth"] = growth(plan)
        show("one optimizer step on a set that grows, in the budget of 8 responses", found["growth"])
    write(out, found)
    return found


def make_inputs(folder: Path, responses: int, prompt: int, response: int, count: int = 4) -> int:
    """A Llama from config with a tokenizer of words t0, t1, ..., random sets, and their best-worst pairs as text.

    Beside it a reference of other weights, in a folder of its own.

    Returns:
        the model's parameters.
    """
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from tokenizers.pre_tokenizers import WhitespaceSplit
    from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=INTERMEDIATE,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        num_key_value_heads=HEADS,
        max_position_embeddings=4096,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.save_pretrained(folder)
    # a special token is found inside other words too, so none may begin one
    vocabulary = {word: i for i, word in enumerate([*SPECIAL, *(f"t{i}" for i in range(len(SPECIAL), VOCABULARY))])}
    words = Tokenizer(WordLevel(vocabulary, unk_token=SPECIAL[1]))
    words.pre_tokenizer = WhitespaceSplit()  # type: ignore[assignment]
    names = dict(zip(("pad_token", "unk_token", "eos_token"), SPECIAL, strict=True))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, **names)
    tokenizer.save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)

    def draw(length: int) -> list[int]:
        return torch.randint(3, VOCABULARY, (length,), generator=generator).tolist()

    sets: list[dict[str, Any]] = [
        {"prompt": draw(prompt), "responses": [[*draw(response - 1), 2] for _ in range(responses)]}
        for _ in range(count)
    ]
    (folder / "sets.json").write_text(json.dumps(sets), encoding="utf-8")
    pairs = [
        {"prompt": text(one["prompt"]), "chosen": " " + text(first), "rejected": " " + text(second)}
        for one in sets
        for first, second in [one["responses"][:2]]
    ]
    (folder / "pairs.json").write_text(json.dumps(pairs), encoding="utf-8")
    with torch.no_grad():
        for weight in model.parameters():
            weight += APART * torch.randn(weight.shape, generator=generator)
    model.save_pretrained(folder / REFERENCE)
    return sum(p.numel() for p in model.parameters())


def text(ids: Sequence[int]) -> str:
    """Ids as words that the benchmark's tokenizer reads back."""
    return " ".join(SPECIAL[i] if i < len(SPECIAL) else f"t{i}" for i in ids)


def own_case(plan: Plan, **changes: Any) -> dict[str, Any]:
    """A case of `raypo.bench.case`; the rate is so small that the model stays what it is."""
    given = {
        "threads": plan.threads,
        "packing": "shared",
        "responses": plan.responses,
        "preset": "w-mpo",
        "steps": plan.steps,
        "learning_rate": 1e-7,
        "beta": 0.1,
        "optimizer": True,
        "at_once": None,
        "budget": None,
        "gradients": None,
    }
    return given | changes


def peer_case(plan: Plan, **changes: Any) -> dict[str, Any]:
    """A case of `trl_peer`."""
    given = {"threads": plan.threads, "batch_size": 1, "precompute": True, "steps": plan.steps}
    return given | {"learning_rate": 1e-7, "beta": 0.1, "gradients": None} | changes


def run_own(folder: Path, case: Mapping[str, Any]) -> dict[str, Any]:
    """One case of raypo in a fresh process."""
    return child([sys.executable, "-m", "raypo.bench.case", str(folder), json.dumps(case)])


def run_peer(python: str, folder: Path, case: Mapping[str, Any]) -> dict[str, Any]:
    """One case of TRL in a fresh process of its own interpreter."""
    return child([python, str(PEER), str(folder), json.dumps(case)])


def agreement(folder: Path, plan: Plan) -> dict[str, dict[str, float]]:
    """Loss, and distance of the gradients from those of separate rows: of a whole set, and of a pair under DPO.

    Raises:
        RunError: a distance is above `AGREE`.
    """
    found: dict[str, dict[str, float]] = {}

    def compare(name: str, answer: Mapping[str, float], path: Path, base: Path) -> None:
        found[name] = {"loss": answer["loss"], "distance": distance(load_file(path), load_file(base))}
        if not found[name]["distance"] <= AGREE:
            raise RunError(f"{name}: gradients differ by {found[name]['distance']:.3g}", f"at most {AGREE:g}")

    for objective, responses in (("w-mpo", plan.responses), ("dpo", 2)):
        base, shared = folder / f"{objective}-none", folder / f"{objective}-shared"
        case = own_case(plan, preset=objective, responses=responses)
        run_own(folder, case | {"packing": "none", "gradients": str(base)})
        answer = run_own(folder, case | {"gradients": str(shared)})
        compare(f"{objective}, shared", answer, shared, base)
    for name, cached in (("dpo, TRL", True), (f"dpo, TRL{LIVE}", False)) if plan.python else ():
        theirs = folder / f"dpo-trl-{cached}"
        answer = run_peer(str(plan.python), folder, peer_case(plan, precompute=cached, gradients=str(theirs)))
        compare(name, answer, theirs, folder / "dpo-none")
    return found


def distance(ours: Mapping[str, torch.Tensor], theirs: Mapping[str, torch.Tensor]) -> float:
    """Norm of the difference of all gradients over their norm; infinite where names differ."""
    if set(ours) != set(theirs):
        return float("inf")
    apart = sum(float((ours[name] - theirs[name]).double().square().sum()) for name in theirs)
    return (apart / sum(float(tensor.double().square().sum()) for tensor in theirs.values())) ** 0.5


def cases(folder: Path, plan: Plan, rate: float) -> list[dict[str, Any]]:
    """Seconds and peak memory of every case; a step is one set, or as many pairs as the peer's batch holds.

    `floor` is what raypo's operations would take at `rate`, a large matrix product's per second: no step is faster.
    """
    own = [(f"K={k}, {packing}", k, packing) for k in sorted({plan.responses, 2}, reverse=True) for packing in LAYOUTS]
    sizes = plan.batch_sizes if plan.python else ()
    peer = [(f"TRL, batch {size}", size, True) for size in sizes]
    peer += [(f"TRL, batch {size}{LIVE}", size, False) for size in sizes[:1]]
    answers: dict[str, list[dict[str, Any]]] = {}
    for _ in track(range(plan.rounds), description="rounds over all cases", console=Console(stderr=True)):
        for name, responses, packing in own:
            case = own_case(plan, responses=responses, packing=packing)
            answers.setdefault(name, []).append(run_own(folder, case))
        for name, size, cached in peer:
            assert plan.python  # else there is none
            case = peer_case(plan, batch_size=size, precompute=cached)
            answers.setdefault(name, []).append(run_peer(plan.python, folder, case))
    floors = {
        name: flops(responses, plan.prompt, plan.response, shared=packing == "shared") / rate
        for name, responses, packing in own
    }
    pairs = {name: size for name, size, _ in peer}
    return [_row(name, found, floors.get(name), pairs.get(name)) for name, found in answers.items()]


def _row(case: str, answers: Sequence[Mapping[str, Any]], floor: float | None, pairs: int | None) -> dict[str, Any]:
    seconds = spread([second for one in answers for second in one["seconds"]])
    return {
        "case": case,
        **seconds,
        "floor": floor,
        "per pair": None if pairs is None else seconds["mean"] / pairs,
        "tokens/s": answers[0]["tokens"] / seconds["mean"],
        "peak GB": max(one["peak_bytes"] for one in answers) / 1e9,
        "beyond libraries GB": max(one["peak_bytes"] - one["library_bytes"] for one in answers) / 1e9,
    }


def _named(rows: Sequence[Mapping[str, Any]], case: str) -> Mapping[str, Any]:
    return next(row for row in rows if row["case"] == case)


def ratios(rows: Sequence[Mapping[str, Any]], responses: int) -> dict[str, float]:
    """The marks: raypo's whole set against TRL at its best batch size, which is that of the least mean per pair.

    Exploding a set of K responses, half of them better, gives (K / 2)^2 pairs. Tokens are those of the pairs on both
    sides, a prompt counted with each of its responses. Memory is against the peer's least, that of its smallest batch.
    """
    peer = [row for row in rows if row["per pair"] is not None and not row["case"].endswith(LIVE)]
    best, least = min(peer, key=lambda row: row["per pair"]), min(peer, key=lambda row: row["peak GB"])
    whole, pair = _named(rows, f"K={responses}, shared"), _named(rows, "K=2, shared")
    return {
        f"{best['case']}, on {(responses // 2) ** 2} exploded pairs / set of {responses}": (responses // 2) ** 2
        * best["per pair"]
        / whole["mean"],
        f"{best['case']}, on the best-worst pair / set of {responses}": best["per pair"] / whole["mean"],
        "tokens/s at K = 2 / TRL's": pair["tokens/s"] / best["tokens/s"],
        "peak memory at K = 2 / TRL's": pair["peak GB"] / least["peak GB"],
        "the same, beyond libraries": pair["beyond libraries GB"] / least["beyond libraries GB"],
        f"separate rows / shared, K = {responses}": _named(rows, f"K={responses}, none")["mean"] / whole["mean"],
    }


def sharing(plan: Plan) -> list[dict[str, Any]]:
    """Achieved against theoretical speed-up, over K and prompt lengths: least seconds of each layout, in turns."""
    rows = []
    cells = [(prompt, responses) for prompt in (64, 256, 1024) for responses in (2, 4, 8, 16, 64)]
    for prompt, responses in track(cells, description="prompts and K", console=Console(stderr=True)):
        with TemporaryDirectory() as place:
            make_inputs(Path(place), responses, prompt, plan.response, count=1)
            turns = [(packing, _passes(Path(place), plan, responses, packing)) for packing in (*LAYOUTS, *LAYOUTS)]
        shared, separate = (spread([s for name, found in turns if name == one for s in found]) for one in LAYOUTS)
        rows_at_once = min(responses, AT_ONCE)
        passes = responses // rows_at_once
        theory = passes * flops(rows_at_once, prompt, plan.response, shared=False)
        theory /= flops(responses, prompt, plan.response, shared=True)
        achieved = separate["min"] / shared["min"]
        both = {"separate": separate, "shared": shared}
        seconds = {f"{layout} {name}": value for layout, found in both.items() for name, value in found.items()}
        rows.append(
            {"K": responses, "prompt": prompt, "achieved": achieved, "theory": theory, "share": achieved / theory}
            | seconds
        )
    return rows


def growth(plan: Plan) -> list[dict[str, Any]]:
    """Seconds, peak memory and least ms per response token of a step from K = 8 to 512, in a budget of 8 responses.

    A larger set takes two passes: its scores first, then every part again with its gradient.
    """
    rows: list[dict[str, Any]] = []
    budget = plan.prompt + 8 * plan.response
    for responses in track((8, 32, 128, 512), description="K", console=Console(stderr=True)):
        with TemporaryDirectory() as place:
            make_inputs(Path(place), responses, plan.prompt, plan.response, count=1)
            answer = run_own(Path(place), own_case(plan, responses=responses, budget=budget, steps=4))
        seconds, peak = spread(answer["seconds"]), answer["peak_bytes"] / 1e9
        first = rows[0]["peak GB"] if rows else peak
        each = 1000 * seconds["min"] / (responses * plan.response)
        rows.append({"K": responses, **seconds, "ms per token": each, "peak GB": peak, "of K = 8": peak / first})
    return rows


def _passes(folder: Path, plan: Plan, responses: int, packing: str) -> list[float]:
    """Seconds of forward and backward passes over a set."""
    at_once = AT_ONCE if packing == "none" else None
    case = own_case(plan, responses=responses, packing=packing, optimizer=False, at_once=at_once, steps=4)
    return list(run_own(folder, case)["seconds"])
