"""Does an estimate of dispersion track how far people really disagree?

On the quickstart's language, and on judgements by several people, given as files. In the language a prompt's
dispersion is independent of its token entropy by construction: entropy cannot track it, its correlation should be 0.
Whether the two go together in what people write and judge is for people's judgements to say, and on these alone
the claim is decided. There disagreement is itself measured with noise: beside each correlation stands the ceiling that
a perfect index would reach, from split-half reliability. An index from rewards sees one half of the people and is held
against the other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch

from raypo import dispersion
from raypo.evaluation.statistics import correlation_interval
from raypo.models.scorer import TokenScorer
from raypo.quickstart import language
from raypo.quickstart.model import RESPONSE_TOKENS, Pretraining, build_model, build_tokenizer, corpus, pretrain
from raypo.studies.arena import seed_of
from raypo.studies.correlations import CEILING, RANK, correlated
from raypo.studies.drawings import forest
from raypo.studies.people import (
    COST,
    HALVES,
    MATTERS,
    OTHER_HALF,
    PERFECT,
    PERFECT_ON_HALF,
    ceiling_row,
    given,
    of_everyone,
    of_used,
    on_people,
)
from raypo.studies.reference import PROMPT_TOKENS, TOKENS, indices, read
from raypo.studies.result import CONFIDENCE, SAMPLES, Drawing, Result, Row, Setting, Verdict, adjusted
from raypo.studies.sentences import NOT_MEASURED, VOTES, grouped, voted

RESPONSES = 8
"""Responses per prompt of the language."""

APART = (
    "In the language dispersion is independent of token entropy by construction: there entropy's correlation should be "
    "0, and the claim is not decided on it."
)


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
    torch.manual_seed(seed_of(setting.seed, "responses"))
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
    # the truth has few levels, and an index that orders them rightly differs within them
    perfect = np.argsort(np.argsort(true, kind="stable")).astype(np.float64)
    rows = [
        correlated(
            f"language, {name}",
            correlation_interval(one, true, confidence=CONFIDENCE, samples=SAMPLES),
            matters=MATTERS,
        )
        for name, one in estimates.items()
    ]
    most = correlation_interval(perfect, true, confidence=CONFIDENCE, samples=SAMPLES)
    return [*rows, ceiling_row(f"language, {PERFECT}", most)]


def _sample(model: torch.nn.Module, prompt: list[int], end: int, pad: int) -> list[list[int]]:
    """RESPONSES samples at temperature 1, the end token included."""
    ids = torch.tensor([prompt] * RESPONSES)
    generate: Callable[..., torch.Tensor] = model.generate  # type: ignore[assignment]
    mask = torch.ones_like(ids)
    limits = {"max_new_tokens": RESPONSE_TOKENS, "top_k": 0, "eos_token_id": end, "pad_token_id": pad}
    found = generate(input_ids=ids, attention_mask=mask, do_sample=True, **limits)[:, len(prompt) :].tolist()
    return [one[: one.index(end) + 1] if end in one else one for one in found]


def run(setting: Setting) -> Result:
    """The language always; people's judgements where files are given."""
    people = given(setting)
    tested, everyone = on_language(setting), list[Row]()
    for kind, control in people.items():
        used, all_of = on_people(kind, control, setting)
        tested, everyone = tested + used, everyone + all_of
    # tests apart: what stands beside the claim does not move its intervals
    rows = adjusted(tested) + adjusted(everyone) + [row for control in people.values() for row in control.rows]
    correlations = [one for one in rows if one.measure == RANK and not of_everyone(one)]
    controls = [control.told for control in people.values() if control.told]
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows, controls)],
        drawings=[
            Drawing("correlations", "Rank correlations over prompts.", forest(correlations, RANK, matters=MATTERS))
        ],
        headline=beside(rows),
        settings={
            "responses": RESPONSES,
            "prompt_tokens": PROMPT_TOKENS,
            "tokens": TOKENS,
            "files": list(people),
            "model": Path(setting.options["model"]).resolve().name if "model" in setting.options else None,
        },
    )


def claimed(rows: list[Row]) -> list[Row]:
    """The reference's entropy against people's disagreement, wherever a model was given; see above of the language."""
    return [one for one in rows if one.condition.endswith(", entropy") and of_used(one)]


def beside(rows: list[Row]) -> list[Row]:
    """The reference's entropy, on the language as well, each after the ceiling that stands beside it."""
    found = []
    for one in (row for row in rows if row.condition.endswith(", entropy") and not of_everyone(row)):
        where = one.condition.rsplit(", ", 1)[0]
        found += [ceiling for ceiling in rows if ceiling.condition == f"{where}, {PERFECT}"] + [one]
    return found


def votes(rows: list[Row]) -> list[Verdict]:
    """What each row says that decides the claim."""
    return [one.supports() for one in claimed(rows)]


def plain(rows: Sequence[Row]) -> str:
    """Every index against people's disagreement, then on the language, in words."""
    tested = [row for row in rows if row.measure == RANK and not of_everyone(row)]
    each = {}
    for name in dict.fromkeys(row.condition.rsplit(", ", 1)[1] for row in tested):
        people = [row for row in tested if of_used(row) and row.condition.endswith(f", {name}")]
        each[name] = voted([row.supports() for row in people])
    others = "; ".join(
        f"by {name} {told}" for name, told in each.items() if name not in ("entropy", HALVES) and told != NOT_MEASURED
    )
    there = {row.condition.split(", ")[1]: f"{VOTES[row.supports()]} for" for row in tested if _in_language(row)}
    return (
        f"That the reference's entropy tracks people's disagreement is {each.get('entropy', NOT_MEASURED)}"
        f"{f'; the same {others}' if others else ''}; that an index tracks the language's truth is "
        f"{grouped(there, [f'{one} for' for one in VOTES.values()])}."
    )


def _in_language(row: Row) -> bool:
    return row.condition.startswith("language, ")


def finding(rows: Sequence[Row], controls: Sequence[str] = ()) -> str:
    """The language, then people, each correlation beside its ceiling; then the control of display order.

    Args:
        rows: of the study.
        controls: sentences of `raypo.studies.display`.
    """
    ceilings = {tuple(one.condition.split(", ", 2)): one for one in rows if one.measure == CEILING}
    told = []
    for where in dict.fromkeys(one.condition.rsplit(", ", 1)[0] for one in rows if one.measure == RANK):
        cases = [one for one in rows if one.measure == RANK and one.condition.rsplit(", ", 1)[0] == where]
        whole, half = (ceilings.get((*where.split(", "), name)) for name in (PERFECT, PERFECT_ON_HALF))
        of_all = f"ceiling {_bounded(whole)}" if whole else "no ceiling can be told"
        each = []
        for one in cases:
            name = one.condition.rsplit(", ", 1)[1]
            own = f" (ceiling {_bounded(half)})" if half and name == OTHER_HALF else ""
            each.append(f"{name}{own} {one.words()}")
        told.append(f"{where} ({of_all}): {'; '.join(each)}.")
    told += left_out(rows)
    if any(one.condition.startswith("language, ") for one in rows):
        told.append(APART)
    for one in (row for row in rows if row.measure == COST):
        told.append(
            f"{one.condition.split(', ')[0]}: a token of what was judged costs the model {_bounded(one)} of ln V."
        )
    if any(one.measure == COST for one in rows):
        told.append("A model that knows nothing of such text pays 1, and its entropy says little of it.")
    if not claimed(list(rows)):
        told.append("Without people's judgements and a model the claim is undecided.")
    return " ".join(["Rank correlation of each index with true disagreement.", *told, *controls])


def left_out(rows: Sequence[Row]) -> list[str]:
    """What leaving annotators out does to entropy's correlation, as a sentence; none where all are used."""
    by = {row.condition: row for row in rows}
    each = []
    for one in (row for row in rows if of_everyone(row)):
        where, _, rest = one.condition.partition(", ")
        same = by.get(f"{where.partition(' with ')[0]}, {rest}")
        if same is not None and rest.endswith(", entropy"):
            each.append(f"{rest.removesuffix(', entropy')} {one.told()} in place of {same.told()}")
    if not each:
        return []
    return [f"All annotators of cobbler, who decide nothing here, would give entropy by {'; by '.join(each)}."]


def _bounded(row: Row) -> str:
    return f"{row.effect:.2f} [{row.low:.2f}, {row.high:.2f}]"
