"""raypo.data.chat: templates and special tokens once, nothing cut, responses as what follows their prompt."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from raypo.config import PromptsConfig
from raypo.data.chat import load_prompts, load_sets, render_prompts, render_sets
from raypo.data.rendering import answer_ids, encode_responses, render, template_hash
from raypo.data.sets import RAW_SETS
from raypo.data.sources import prompt_id, raw_table, split
from raypo.errors import DataError, ModelError
from raypo.records import PROMPTS, SAMPLED

TEMPLATE = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('no system here') }}{% endif %}"
    "{{ '<s>' + m['content'] + '</s>' }}{% endfor %}{% if add_generation_prompt %}{{ '<s>' }}{% endif %}"
)
CHAT = [{"role": "user", "content": "ab"}]


def make_tokenizer(*, frame: str = "<s> $A", space: bool = False, **changes: Any) -> PreTrainedTokenizerFast:
    """Characters a to d with the merge "bc"; ids <s> 0, </s> 1, a 2, b 3, c 4, d 5, bc 6, space 7.

    Args:
        frame: special tokens around text, in the words of `tokenizers`.
        space: put a space before text, as SentencePiece does.
        changes: of the tokenizer's own arguments.
    """
    words = ["<s>", "</s>", "a", "b", "c", "d", "bc", "\u2581", "<unk>"]
    tokenizer = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [("b", "c")], unk_token="<unk>", fuse_unk=False)
    )
    scheme = "always" if space else "never"
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme=scheme, split=False)
    tokenizer.post_processor = processors.TemplateProcessing(single=frame, special_tokens=[("<s>", 0), ("</s>", 1)])
    given = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "chat_template": TEMPLATE}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **given | changes)


def test_plain_text_gets_the_tokenizers_beginning_once() -> None:
    """<s> a d, also when the text brings its own <s>."""
    assert render(make_tokenizer(), "ad") == ("ad", [0, 2, 5])
    assert render(make_tokenizer(), "<s>ad") == ("<s>ad", [0, 2, 5])


@pytest.mark.parametrize(
    ("begin", "text", "ids"),
    [
        ("<s>", "ad", [0, 2, 5]),
        ("<s>", "ad</s>", [0, 2, 5, 1]),
        ("<s>", "<s>ad", [0, 2, 5]),
        ("</s>", "ad", [1, 2, 5]),
        ("</s>", "ad</s>", [1, 2, 5, 1]),
        ("</s>", "", [1]),
    ],
)
def test_an_end_that_the_tokenizer_adds_is_taken_away_and_the_texts_own_stays(
    begin: str, text: str, ids: list[int]
) -> None:
    """A frame of both, also where begin and end are one token; responses then follow the prompt's own ids."""
    tokenizer = make_tokenizer(frame=f"{begin} $A </s>", bos_token=begin)
    assert render(tokenizer, text) == (text, ids)
    assert encode_responses(tokenizer, text, ids, ["bc"]) == [[6, 1]]


def test_a_tokenizer_that_adds_nothing_is_left_at_that() -> None:
    """No beginning of its own; the text's own stays."""
    assert render(make_tokenizer(frame="$A"), "ad")[1] == [2, 5]
    assert render(make_tokenizer(frame="$A"), "<s>ad")[1] == [0, 2, 5]


def test_an_end_that_the_tokenizer_adds_does_not_end_a_prompt() -> None:
    """<s> a </s> loses its end; an end written in the text stays."""
    assert render(make_tokenizer(frame="<s> $A </s>"), "a")[1] == [0, 2]
    assert render(make_tokenizer(frame="<s> $A"), "a</s>")[1] == [0, 2, 1]


def test_a_conversation_gets_the_special_tokens_of_its_template_and_no_others() -> None:
    """<s> a b </s> and the opened turn <s>: the tokenizer's own <s> would be a second one."""
    assert render(make_tokenizer(), CHAT) == ("<s>ab</s><s>", [0, 2, 3, 1, 0])


def test_a_conversation_without_a_template_is_refused_with_the_remedy() -> None:
    """The remedy names the setting."""
    with pytest.raises(DataError, match=r"policy\.chat_template=FILE") as caught:
        render(make_tokenizer(chat_template=None), CHAT)
    assert "has no chat template" in str(caught.value)


def test_a_conversation_that_the_template_refuses_names_its_roles() -> None:
    """This template takes no system turn."""
    with pytest.raises(DataError, match="refuses a conversation of system, user: no system here"):
        render(make_tokenizer(), [{"role": "system", "content": "a"}, *CHAT])


def test_another_template_has_another_hash() -> None:
    """Equal templates agree."""
    assert template_hash(make_tokenizer()) == template_hash(make_tokenizer(frame="$A"))
    assert template_hash(make_tokenizer()) != template_hash(make_tokenizer(chat_template=TEMPLATE + " "))


def raw_rows(texts: list[str]) -> list[dict[str, Any]]:
    """Raw rows of text."""
    return [{"prompt_id": prompt_id(t), "prompt": t, "conversational": False, "metadata": "{}"} for t in texts]


def test_both_sides_of_a_set_end_alike_where_the_template_rewrites_one_of_them() -> None:
    """The template takes "a" out of an answer, so the end of "ad" cannot be read off it: that of "d", <unk> (8), is."""
    import pyarrow as pa

    row = {"prompt_id": "p", "prompt": json.dumps(CHAT), "conversational": True, "metadata": "{}", "set_id": "s"}
    row |= {"responses": ["ad", "d"], "rewards": [1.0, 0.0], "split": "train"}
    raw = pa.Table.from_pylist([row], schema=pa.schema([*RAW_SETS, ("split", pa.string())]))
    template = chat("<s>", "<unk>").replace("m['content']", "m['content'] | replace('a', '')")
    table, _, counts = render_sets(
        raw, make_tokenizer(chat_template=template), max_prompt_tokens=9, max_response_tokens=9
    )
    assert [ids[-1] for ids in table.to_pylist()[0]["response_token_ids"]] == [8, 8]
    assert (counts["whole"], counts["prefix_failed"]) == (1, 1)


@settings(deadline=None)  # other work on the machine must not fail a test
@given(texts=st.lists(st.text("abcd ", max_size=8), max_size=20))
def test_rendering_conserves_rows_in_order_and_never_cuts(texts: list[str]) -> None:
    """In = kept + dropped by reason; of "bc" and the rest the number of tokens decides, <s> counted."""
    tokenizer = make_tokenizer()
    labelled, _ = split(raw_table(raw_rows(texts)), 0.0, heldout=None)
    table, dropped = render_prompts(labelled, tokenizer, max_prompt_tokens=5)
    kept = [t for t in labelled["prompt"].to_pylist() if t.strip() and len(tokenizer(t)["input_ids"]) <= 5]
    assert table["prompt"].to_pylist() == kept
    assert table["prompt_token_ids"].to_pylist() == [tokenizer(t)["input_ids"] for t in kept]
    assert labelled.num_rows == table.num_rows + sum(dropped.values())


def test_a_run_gets_prompts_and_the_count_of_everything(tmp_path: Path) -> None:
    """7 read = 2 train + 1 held out + 1 duplicate + 1 overlap + 1 too long + 1 empty."""
    texts = ["a", "ab", "ab", "d", "abcdabcd", " "]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps({"prompt": t, "n": 1}) + "\n" for t in texts))
    (tmp_path / "held.jsonl").write_text('{"prompt": "d"}\n')
    config = PromptsConfig(
        path=str(tmp_path / "train.jsonl"), heldout_path=str(tmp_path / "held.jsonl"), max_prompt_tokens=4
    )
    table, facts = load_prompts(config, make_tokenizer())
    assert table.schema == PROMPTS
    assert list(zip(table["prompt"].to_pylist(), table["split"].to_pylist(), strict=True)) == [
        ("a", "train"),
        ("ab", "train"),
        ("d", "heldout"),
    ]
    assert facts["dropped"] == {"duplicate": 1, "overlap": 1, "too_long": 1, "empty": 1}
    assert facts["read"] == 7 == facts["train"] + facts["heldout"] + sum(facts["dropped"].values())


def test_prompts_that_are_all_longer_than_the_limit_are_refused_with_the_counts(tmp_path: Path) -> None:
    """Two prompts of 4 and 5 tokens, limit 3."""
    (tmp_path / "p.jsonl").write_text('{"prompt": "aad"}\n{"prompt": "aaad"}\n')
    with pytest.raises(DataError, match="of 2 prompts none is left as training prompt") as caught:
        load_prompts(PromptsConfig(path=str(tmp_path / "p.jsonl"), max_prompt_tokens=3), make_tokenizer())
    assert "'too_long': 2" in str(caught.value)
    assert "raise prompts.max_prompt_tokens" in str(caught.value)


def test_a_response_is_encoded_as_what_follows_its_prompt() -> None:
    """SentencePiece puts a space (7) before "d" alone, and none between the prompt and it."""
    tokenizer = make_tokenizer(space=True)
    prompt, ids = render(tokenizer, "a")
    assert ids == [0, 7, 2]
    assert tokenizer("d", add_special_tokens=False)["input_ids"] == [7, 5]
    assert encode_responses(tokenizer, prompt, ids, ["d", " d"]) == [[5, 1], [7, 5, 1]]


def test_a_prompts_ids_stay_when_a_token_would_span_the_border() -> None:
    """The texts "ab" + "cd" would merge to a bc d; the prompt stays a b, so the response is c d and the end."""
    tokenizer = make_tokenizer()
    assert tokenizer("abcd", add_special_tokens=False)["input_ids"] == [2, 6, 5]
    assert encode_responses(tokenizer, "ab", [0, 2, 3], ["cd"]) == [[4, 5, 1]]


def test_the_end_stands_once_also_where_the_text_brings_it_and_behind_no_text() -> None:
    """A response of no text is the end alone."""
    assert encode_responses(make_tokenizer(), "a", [0, 2], ["d</s>", ""]) == [[5, 1], [1]]


@settings(deadline=None)  # other work on the machine must not fail a test
@given(
    prompt=st.text("abcd ", min_size=1, max_size=6),
    responses=st.lists(st.text("abcd ", max_size=6), min_size=1, max_size=4),
    space=st.booleans(),
)
def test_what_is_trained_reads_as_prompt_and_response(prompt: str, responses: list[str], space: bool) -> None:
    """The ids of the prompt and then of the response decode to the two texts in a row, and to nothing in between.

    A response that had to be encoded alone by a tokenizer that begins with a space gets that space: the only exception.
    """
    tokenizer = make_tokenizer(space=space)
    text, ids = render(tokenizer, prompt)
    for response, response_ids in zip(responses, encode_responses(tokenizer, text, ids, responses), strict=True):
        assert response_ids[-1] == 1
        assert response_ids.count(1) == 1
        decoded = tokenizer.decode([*ids, *response_ids], skip_special_tokens=True).replace(" ", "")
        assert decoded == (prompt + response).replace(" ", "")


def raw_sets(responses: list[list[str]]) -> Any:
    """Raw sets of prompts "a", "aa", ...; rewards 0, 1, ..."""
    import pyarrow as pa

    rows = [
        row
        | {
            "set_id": row["prompt_id"],
            "responses": texts,
            "rewards": [float(k) for k in range(len(texts))],
            "split": "train",
        }
        for row, texts in zip(raw_rows(["a" * (n + 1) for n in range(len(responses))]), responses, strict=True)
    ]
    return pa.Table.from_pylist(rows, schema=pa.schema([*RAW_SETS, ("split", pa.string())]))


def test_a_response_that_is_too_long_leaves_its_set_with_its_reward() -> None:
    """Limit 3 tokens with the end: "ddd" (4) goes, and a set that is left with one response is dropped."""
    table, dropped, answers = render_sets(
        raw_sets([["d", "ddd", "dd"], ["d", "ddd"]]), make_tokenizer(), max_prompt_tokens=9, max_response_tokens=3
    )
    assert dropped == {"too_long": 0, "empty": 0, "too_few_responses": 1}
    assert {how: n for how, n in answers.items() if n} == {"too_long": 2, "text": 5}
    row = table.to_pylist()[0]
    assert (row["responses"], row["rewards"]) == (["d", "dd"], [0.0, 2.0])
    assert row["response_token_ids"] == [[5, 1], [5, 5, 1]]
    assert (row["prompt_token_ids"], row["finish_reasons"], row["weight_version"]) == ([0, 2], ["stop", "stop"], -1)
    assert table.select(SAMPLED.names).schema == SAMPLED


def test_sets_need_a_tokenizer_that_can_end_a_response() -> None:
    """Without an end nothing could be trained to stop."""
    with pytest.raises(ModelError, match="no end-of-sequence token"):
        render_sets(raw_sets([["a", "b"]]), make_tokenizer(eos_token=None), max_prompt_tokens=9, max_response_tokens=9)


def test_offline_sets_are_read_split_and_rendered_with_the_count_of_everything(tmp_path: Path) -> None:
    """7 read = 3 train + 1 held out + 1 duplicate + 1 of one response + 1 left with one response.

    The two sets to "a" are two rows: the second says the opposite of the first. A prompt_id names one row.
    """
    rows = [
        {"prompt": "a", "chosen": "b", "rejected": "d"},
        {"prompt": "a", "chosen": "d", "rejected": "b"},
        {"prompt": "a", "chosen": "b", "rejected": "d", "rater": 2},
        {"prompt": "b", "responses": ["b", "d"], "rewards": [0.5, None]},
        {"prompt": "c", "responses": ["b"], "rewards": [0.5]},
        {"prompt": "d", "responses": ["b", "dddddd"], "rewards": [0.5, 1]},
    ]
    (tmp_path / "sets.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "held.jsonl").write_text('{"prompt": "e", "chosen": "b", "rejected": "d"}\n')
    config = PromptsConfig(path=str(tmp_path / "sets.jsonl"), heldout_path=str(tmp_path / "held.jsonl"))
    table, facts = load_sets(config, make_tokenizer(), max_response_tokens=4)
    kept = [(row["prompt"], row["split"], row["responses"], row["rewards"]) for row in table.to_pylist()]
    assert kept == [
        ("a", "train", ["b", "d"], [1.0, 0.0]),
        ("a", "train", ["d", "b"], [1.0, 0.0]),
        ("b", "train", ["b", "d"], [0.5, None]),
        ("e", "heldout", ["b", "d"], [1.0, 0.0]),
    ]
    assert len(set(table["prompt_id"].to_pylist())) == 4
    assert table["prompt_id"][3].as_py() == prompt_id("e")
    assert {reason: n for reason, n in facts["dropped"].items() if n} == {"duplicate": 1, "too_few_responses": 2}
    assert (facts["rows"], facts["formats"]) == (7, {"pair": 4, "native": 3})
    assert (facts["responses"], facts["rendered"]["text"]) == ({"duplicate": 0, "too_long": 1}, 10)
    assert facts["read"] == 7 == facts["train"] + facts["heldout"] + sum(facts["dropped"].values())


def chat(before: str, after: str, opening: str = "<s>") -> str:
    """A template: what stands before and after each message's text, and what opens the assistant's turn."""
    return (
        f"{{% for m in messages %}}{{{{ '{before}' + m['content'] + '{after}' }}}}{{% endfor %}}"
        f"{{% if add_generation_prompt %}}{{{{ '{opening}' }}}}{{% endif %}}"
    )


def answers(template: str, *responses: str, **changes: Any) -> list[tuple[list[int] | None, str]]:
    """What the template makes of responses to CHAT."""
    tokenizer = make_tokenizer(chat_template=template, **changes)
    text, ids = render(tokenizer, CHAT)
    return [(one.ids, one.how) for one in answer_ids(tokenizer, CHAT, text, ids, list(responses))]


def test_an_answer_ends_with_the_token_that_ends_its_turn_and_nothing_behind_it() -> None:
    """The template writes d, </s> (1) and then "a": an engine stops at </s>. A </s> of the text is the text's."""
    assert answers(chat("<s>", "</s>a"), "d", "bd") == [([5, 1], "whole"), ([3, 5, 1], "whole")]
    assert answers(chat("<s>", "</s>a"), "d</s>d", "d</s>") == [([5, 1, 5, 1], "whole"), ([5, 1], "whole")]


def test_an_end_of_turn_need_not_be_the_end_of_sequence_token() -> None:
    """As Gemma's <end_of_turn>: any special token; here the one behind the answer is <unk>, 8."""
    assert answers(chat("<s>", "<unk></s>"), "d") == [([5, 8], "whole")]


def test_a_template_that_strips_an_answer_trains_what_it_shows() -> None:
    """ "d " is shown, and read by an engine, as "d"."""
    assert answers(chat("<s>", "</s>").replace("m['content']", "m['content'] | trim"), " d ") == [([5, 1], "whole")]


def test_a_template_that_puts_space_before_an_answer_is_trusted_with_it() -> None:
    """As Llama 2's: the whole begins with the prompt, and what stands behind it is what is trained."""
    template = chat("<s>", "</s>").replace("m['content']", "(' ' if m['role'] == 'assistant' else '') + m['content']")
    (ids, how), (alone, _) = answers(template, "d", "")
    assert how == "whole"
    assert ids[-2:] == [5, 1]
    assert ids[:-2] == alone[:-1]  # the space, however it is encoded


@pytest.mark.parametrize(
    ("template", "response", "why"),
    [
        (chat("<s>", "</s>", opening="<s>b"), "d", "prefix_failed"),  # the opened turn is not what an answer's turn has
        (chat("<s>", "</s>").replace("m['content']", "m['content'] | upper"), "d", "prefix_failed"),
        (chat("b", "</s>", opening="b"), "cd", "prefix_failed"),  # the ids: the opened turn "b" and "c" are one token
        (chat("<s>", "a"), "d", "no_end_of_turn"),
    ],
    ids=["other opening", "other text", "token over the border", "no special token"],
)
def test_where_the_template_cannot_be_trusted_the_reason_is_given(template: str, response: str, why: str) -> None:
    """None, for the caller to put prompt, response and end together."""
    assert answers(template, response) == [(None, why)]


def test_an_answer_without_its_template_is_prompt_then_response_then_end_and_counted() -> None:
    """The prompt "ab" is b a b <unk> b, so "cd" would merge with the b: c d follows it instead; "d" is whole.

    Both end as the template ends a turn, with <unk> (8): an end of its own would tell one response from the other.
    """
    import pyarrow as pa

    row = {"prompt_id": "p", "prompt": json.dumps(CHAT), "conversational": True, "metadata": "{}", "set_id": "s"}
    row |= {"responses": ["cd", "d"], "rewards": [1.0, 0.0], "split": "train"}
    raw = pa.Table.from_pylist([row], schema=pa.schema([*RAW_SETS, ("split", pa.string())]))
    tokenizer = make_tokenizer(chat_template=chat("b", "<unk>", opening="b"))
    table, _, counts = render_sets(raw, tokenizer, max_prompt_tokens=9, max_response_tokens=9)
    found = table.to_pylist()[0]
    assert found["prompt_token_ids"] == [3, 2, 3, 8, 3]
    assert found["response_token_ids"] == [[4, 5, 8], [5, 8]]
    assert counts == {"too_long": 0, "text": 0, "whole": 1, "prefix_failed": 1, "no_end_of_turn": 0}


@settings(deadline=None)  # other work on the machine must not fail a test
@given(
    turns=st.lists(st.text("abcd", min_size=1, max_size=4), min_size=1, max_size=4),
    response=st.text("abcd", min_size=1, max_size=5),
)
def test_of_a_conversation_only_the_last_answer_and_its_end_are_trained(turns: list[str], response: str) -> None:
    """Prompt and response ids in a row are the ids of the whole render, up to the end of its last turn."""
    tokenizer = make_tokenizer(chat_template=chat("<s>", "</s>a"))
    messages = [{"role": "user" if n % 2 == 0 else "assistant", "content": text} for n, text in enumerate(turns)]
    text, ids = render(tokenizer, messages)
    (answer,) = answer_ids(tokenizer, messages, text, ids, [response])
    whole = "".join(f"<s>{one}</s>a" for one in [*turns, response]).removesuffix("a")
    assert answer.how == "whole"
    assert answer.ids is not None
    assert [*ids, *answer.ids] == tokenizer(whole, add_special_tokens=False)["input_ids"]
    assert tokenizer.decode(answer.ids) == response + "</s>"


THINKS = chat("<s>", "</s>").replace("{{ '<s>' }}", "{{ '<s>b' if think else '<s>' }}")


def test_template_arguments_are_given_to_every_render_and_hashed(tmp_path: Path) -> None:
    """The argument puts "b" (3) into the opened turn. Arguments in another order have the same hash."""
    (tmp_path / "p.jsonl").write_text(
        "".join(json.dumps({"prompt": [m]}) + "\n" for m in CHAT * 2 + [CHAT[0] | {"content": "d"}])
    )
    hashes = []
    for arguments, opened in (({}, [0]), ({"think": True}, [0, 3])):
        config = PromptsConfig(path=str(tmp_path / "p.jsonl"), template_arguments=arguments)
        table, facts = load_prompts(config, make_tokenizer(chat_template=THINKS))
        assert [ids[-len(opened) :] for ids in table["prompt_token_ids"].to_pylist()] == [opened] * 2
        hashes.append(facts["template"])
    assert hashes[0] == template_hash(make_tokenizer(chat_template=THINKS))
    assert hashes[1] == template_hash(make_tokenizer(chat_template=THINKS), {"think": True}) != hashes[0]
    assert template_hash(make_tokenizer(), {"a": 1, "b": 2}) == template_hash(make_tokenizer(), {"b": 2, "a": 1})


def test_a_conversation_with_its_system_prompt_is_loaded_as_the_template_writes_it(tmp_path: Path) -> None:
    """<s> c </s> <s> ab </s> <s>, then the answers and </s>: the system prompt "c" stays where it is."""
    turns = [{"role": "system", "content": "c"}, *CHAT]
    row = {
        side: [*turns, {"role": "assistant", "content": text}] for side, text in (("chosen", "d"), ("rejected", "a"))
    }
    (tmp_path / "s.jsonl").write_text(json.dumps(row) + "\n")
    config = PromptsConfig(path=str(tmp_path / "s.jsonl"), heldout_fraction=0.0)
    table, facts = load_sets(config, make_tokenizer(chat_template=chat("<s>", "</s>")), max_response_tokens=4)
    found = table.to_pylist()[0]
    assert found["prompt_token_ids"] == [0, 4, 1, 0, 2, 3, 1, 0]
    assert found["response_token_ids"] == [[5, 1], [2, 1]]
    assert facts["rendered"] == {"text": 0, "whole": 2, "prefix_failed": 0, "no_end_of_turn": 0}
