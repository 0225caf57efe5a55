"""Does an estimate of dispersion track how far people really disagree?

On the quickstart's language, where a prompt's dispersion is set independently of its token entropy, and on judgements
by several people, given as files. There disagreement is itself measured with noise: beside each correlation stands the
ceiling that a perfect index would reach, from split-half reliability. An index from rewards sees one half of the people
and is held against the other.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from raypo import dispersion
from raypo.data.packing import ResponseSet, pack
from raypo.dispersion.mallows import DISTANCES
from raypo.errors import ConfigError
from raypo.evaluation.statistics import Floats, Interval, correlation, correlation_interval
from raypo.logprobs import sum_by_response
from raypo.models.load import check_folder
from raypo.models.scorer import TokenScorer
from raypo.quickstart import language
from raypo.quickstart.model import RESPONSE_TOKENS, Pretraining, build_model, build_tokenizer, corpus, pretrain
from raypo.studies import annotators
from raypo.studies.drawings import forest
from raypo.studies.result import CONFIDENCE, SAMPLES, Drawing, Result, Row, Setting, Verdict, overall

RESPONSES, MATTERS, KEPT = 8, 0.1, 0.3
"""Responses per prompt of the language; smallest correlation that matters; order of display that counts as kept."""

FILE_ORDER, ONE_ORDER = "order of the file kept", "one order over all prompts"
"""Controls of display order, as rank correlations: with the file, and of one person's rankings of two prompts."""

PROMPT_TOKENS, TOKENS = 200, 200
"""Of a prompt's end and of a response's start, on which a given model's entropy is taken."""

RANK, KINDS = "rank correlation", ("cobbler", "gold", "pandalm")


def row(condition: str, found: Interval, measure: str = RANK) -> Row:
    """A correlation over prompts."""
    return Row(condition, measure, found.n, 1, found.mean, found.low, found.high, matters=MATTERS)


@dataclass(frozen=True)
class Sums:
    """What a reference says of one prompt's responses: entropies, log-probs and lengths, [K] each; nats and tokens."""

    entropies: torch.Tensor
    logps: torch.Tensor
    lengths: torch.Tensor


def read(scorer: TokenScorer, prompt: list[int], responses: list[list[int]]) -> Sums:
    """Entropy and log-prob sums of a prompt's responses under a reference."""
    batch = pack([ResponseSet("0", prompt, responses)], pad_token_id=0, packing="shared")
    with torch.no_grad():
        values = scorer(batch, chunk_tokens=1024, with_entropy=True)
    count = len(responses)
    assert values.entropies is not None
    entropies, logps = (sum_by_response(one, batch.response_index, count) for one in (values.entropies, values.logps))
    return Sums(entropies, logps, torch.tensor([len(one) for one in responses]))


def indices(read_ones: Sequence[Sums | None], width: int) -> dict[str, Floats]:
    """The two indices that need a reference, one number per prompt; NaN where there is no response to read."""
    found: dict[str, list[float]] = {"entropy": [], "likelihood": []}
    for one in read_ones:
        if one is None:
            found["entropy"].append(float("nan"))
            found["likelihood"].append(float("nan"))
            continue
        mask = torch.ones(1, len(one.lengths), dtype=torch.bool)
        given = one.lengths[None], mask, width
        found["entropy"].append(float(dispersion.entropy_index(one.entropies[None], *given)))
        found["likelihood"].append(float(dispersion.likelihood_index(one.logps[None], *given)))
    return {name: np.array(values) for name, values in found.items()}


def on_language(setting: Setting) -> list[Row]:
    """Every estimator against the language's truth, over prompts drawn from all its classes."""
    prompts = language.all_prompts()
    chosen = np.random.default_rng(setting.seed).permutation(len(prompts))[: setting.size(192, 768)]
    tokenizer = build_tokenizer()
    torch.manual_seed(setting.seed)
    model = build_model(tokenizer, setting.seed)
    how = Pretraining(steps=setting.size(500, 800))
    pretrain(model, *corpus(tokenizer, how.sentences, setting.seed), how, setting.seed, lambda step, loss: None)
    model.eval()
    scorer = TokenScorer(model)
    torch.manual_seed(setting.seed + 1)
    sums, rewards, truth = [], [], []
    for index in chosen:
        prompt = prompts[index]
        ids = tokenizer(prompt.text)["input_ids"]
        drawn = _sample(model, ids, tokenizer.eos_token_id, tokenizer.pad_token_id)
        sums.append(read(scorer, ids, drawn))
        texts = [tokenizer.decode(one, skip_special_tokens=True) for one in drawn]
        rewards.append(language.panel([prompt.text] * RESPONSES, texts, [{}] * RESPONSES))
        truth.append(language.truth(prompt.text))
    true, given = np.array(truth), torch.tensor(rewards)
    estimates = indices(sums, len(tokenizer))
    estimates["reward spread"] = (
        dispersion.reward_spread_index(given, torch.ones_like(given, dtype=torch.bool)).double().numpy()
    )
    perfect = correlation(true, np.argsort(np.argsort(true, kind="stable")).astype(np.float64))
    rows = [
        row(f"language, {name}", correlation_interval(one, true, confidence=CONFIDENCE, samples=SAMPLES))
        for name, one in estimates.items()
    ]
    return [*rows, Row("language, a perfect index", "ceiling", len(true), 1, perfect, float("nan"), float("nan"))]


def _sample(model: torch.nn.Module, prompt: list[int], end: int, pad: int) -> list[list[int]]:
    """RESPONSES samples at temperature 1, the end token included."""
    ids = torch.tensor([prompt] * RESPONSES)
    generate: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment]
    mask = torch.ones_like(ids)
    limits = {"max_new_tokens": RESPONSE_TOKENS, "top_k": 0, "eos_token_id": end, "pad_token_id": pad}
    found = generate(input_ids=ids, attention_mask=mask, do_sample=True, **limits)[:, len(prompt) :].tolist()
    return [one[: one.index(end) + 1] if end in one else one for one in found]


def given(setting: Setting) -> dict[str, tuple[list[Row], annotators.Judged]]:
    """Judgements by people as the options name them, and the control of display order; before anything is computed.

    Raises:
        ConfigError: slots that are not there, or a model without judgements to try it on.
        DataError: a file cannot be read.
        ModelError: the model's folder cannot be read.
    """
    options = setting.options
    found: dict[str, tuple[list[Row], annotators.Judged]] = {}
    for kind in (kind for kind in KINDS if kind in options):
        judged = annotators.judged(options[kind], kind)
        found[kind] = ordered(judged, options.get("slots")) if kind == "cobbler" else ([], judged)
    if "model" in options:
        if not found:
            raise ConfigError("model= without judgements", f"one of {', '.join(KINDS)} beside it")
        check_folder(os.path.abspath(options["model"]))
    return found


def on_people(kind: str, judged: annotators.Judged, setting: Setting) -> list[Row]:
    """Every index that can be had against the disagreement of the people in a file."""
    rows: list[Row] = []
    measures: dict[str, Callable[[Floats], float]] = (
        {"variance": annotators.by_variance} if kind == "gold" else {"pairs": annotators.by_pairs}
    )
    if kind == "cobbler":
        measures = {name: annotators.by_mallows(name) for name in DISTANCES}
    by_model = under_model(judged, setting.options["model"]) if "model" in setting.options else {}
    for name, measure in measures.items():
        told = f"{kind}, {name}"
        whole = annotators.disagreements(judged, measure)
        if judged.people >= 4:
            cuts = annotators.cuts(judged, measure)
            reliable = annotators.reliability(cuts)
            rows.append(row(f"{told}, half against half", reliable.half))
            rows.append(
                Row(f"{told}, a perfect index", "ceiling", len(whole), 1, reliable.ceiling, float("nan"), float("nan"))
            )
            pairs = [
                (spread(judged, who), disagreement)
                for cut in cuts
                for who, disagreement in zip((cut.first, cut.second), cut.disagreement[::-1], strict=True)
            ]
            rows.append(row(f"{told}, reward spread of the other half", annotators.mean_correlation(pairs)))
        rows += [
            row(f"{told}, {index}", correlation_interval(values, whole, confidence=CONFIDENCE, samples=SAMPLES))
            for index, values in by_model.items()
        ]
    return rows


def ordered(judged: annotators.Judged, slots: str | None) -> tuple[list[Row], annotators.Judged]:
    """Display-order control: how far each person kept the order of display, and the people who did not.

    Raises:
        ConfigError: `slots` names people who are not there, or fewer than two remain.
    """
    kept, repeated = annotators.order_kept(judged), annotators.order_repeated(judged)
    rows = [
        Row(f"cobbler, annotator {who}", what, len(judged.prompts), 1, float(value), *[float("nan")] * 2)
        for what, values in ((FILE_ORDER, kept), (ONE_ORDER, repeated))
        for who, value in enumerate(values)
    ]
    try:
        chosen = (
            [int(one) for one in slots.split(",")] if slots else [w for w in range(len(kept)) if abs(kept[w]) < KEPT]
        )
        scores = [one[chosen] for one in judged.scores]
    except (ValueError, IndexError) as error:
        raise ConfigError(f"slots={slots}", f"numbers from 0 to {len(kept) - 1}, with commas") from error
    if len(chosen) < 2:
        raise ConfigError(f"{len(chosen)} annotators of cobbler", "two at least", "give slots=")
    return rows, annotators.Judged(judged.prompts, judged.responses, scores)


def spread(judged: annotators.Judged, who: Sequence[int]) -> Floats:
    """The index by spread of some people's mean scores, as rewards."""
    rewards = [torch.from_numpy(one[list(who)].mean(0)) for one in judged.scores]
    given = torch.nn.utils.rnn.pad_sequence(rewards, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(one) for one in rewards], batch_first=True).bool()
    found: Floats = dispersion.reward_spread_index(given, mask).double().numpy()
    return found


def under_model(judged: annotators.Judged, folder: str) -> dict[str, Floats]:
    """The two indices that need a reference, from a given model on the judged responses."""
    from raypo.models.load import load_causal_lm, load_tokenizer

    tokenizer = load_tokenizer(folder)
    scorer = TokenScorer(load_causal_lm(folder, dtype=torch.float32))
    sums: list[Sums | None] = []
    for prompt, responses in zip(judged.prompts, judged.responses, strict=True):
        start = tokenizer(prompt)["input_ids"][-PROMPT_TOKENS:]
        ids = [tokenizer(one, add_special_tokens=False)["input_ids"][:TOKENS] for one in responses]
        said = [one for one in ids if one]  # people judged empty responses too; there nothing can be read
        sums.append(read(scorer, start, said) if said else None)
    return indices(sums, scorer.causal.get_output_embeddings().weight.shape[0])


def run(setting: Setting) -> Result:
    """The language always; people's judgements where files are given."""
    people = given(setting)
    rows = on_language(setting)
    for kind, (control, judged) in people.items():
        rows += control + on_people(kind, judged, setting)
    correlations = [one for one in rows if one.measure == RANK]
    return Result(
        rows=rows,
        verdict=verdict(rows),
        finding=finding(rows),
        drawings=[
            Drawing("correlations", "Rank correlations over prompts.", forest(correlations, RANK, matters=MATTERS))
        ],
        settings={"responses": RESPONSES, "prompt_tokens": PROMPT_TOKENS, "tokens": TOKENS, "files": list(people)},
    )


def verdict(rows: list[Row]) -> Verdict:
    """The reference's entropy, on the language and wherever a model was given."""
    return overall([one.supports() for one in rows if one.condition.endswith(", entropy")])


def finding(rows: list[Row]) -> str:
    """The language, then people; each correlation beside its ceiling."""
    ceilings = {one.condition.rsplit(", ", 1)[0]: one.effect for one in rows if one.measure == "ceiling"}
    told = []
    for where in dict.fromkeys(one.condition.rsplit(", ", 1)[0] for one in rows if one.measure == RANK):
        cases = [one for one in rows if one.measure == RANK and one.condition.rsplit(", ", 1)[0] == where]
        ceiling = f"ceiling {ceilings[where]:.2f}" if where in ceilings else "no ceiling can be told"
        each = "; ".join(f"{one.condition.rsplit(', ', 1)[1]} {one.words()}" for one in cases)
        told.append(f"{where} ({ceiling}): {each}.")
    for what in (FILE_ORDER, ONE_ORDER):
        if kept := [one for one in rows if one.measure == what]:
            told.append(f"Annotators, {what}: " + ", ".join(f"{one.effect:+.2f}" for one in kept) + ".")
    if not any(one.condition.startswith(KINDS) for one in rows):
        told.append("No people's judgements were given.")
    return "Rank correlation of each index with true disagreement. " + " ".join(told)
