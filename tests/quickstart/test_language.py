"""The synthetic language: token entropy and dispersion are set apart, and rewards are what they say."""

from __future__ import annotations

import math
from collections import Counter
from itertools import product

import numpy as np
import pytest

from raypo.quickstart import language
from raypo.quickstart.language import Prompt

NEWS = "plain news about the old sailor :"  # low token entropy, readers agree
JOKES = "plain jokes about the old sailor :"  # the same, but readers disagree
GOOD = "the old sailor won a golden rope and sang gladly ."  # four bright words: quality 4
EVEN = "the old sailor saw a small rope ."  # two even words: quality 0
BAD = "the old sailor lost a rotten rope ."  # two gloomy words: quality -2


def test_every_prompt_is_in_one_of_four_classes_of_equal_size() -> None:
    """4 styles x 4 kinds x 8 ages x 16 subjects = 2,048; each class has 2 x 2 x 8 x 16 = 512."""
    prompts = language.all_prompts()
    sizes = Counter((prompt.entropy, prompt.dispersion) for prompt in prompts)
    assert sizes == dict.fromkeys(product(("low", "high"), repeat=2), 512)
    assert len({prompt.text for prompt in prompts}) == 2048


def test_entropy_of_plain_and_fancy_sentences_is_their_chain_rule() -> None:
    """Nats per sentence, with p = (.25, .5, .25) for tones: H = 2 * .25 ln 4 + .5 ln 2 = 1.5 ln 2 = 1.039721.

    Plain synonyms: -.91 ln .91 - 3 * .03 ln .03 = .085823 + .315590 = .401413; fancy: ln 4 = 1.386294.
    Whether there is a clause: ln 2 = .693147. Action, look and object always, close and manner half the time:
    plain .693147 + 2 * 1.441134 + .401413 + .5 * 2 * 1.441134 = 5.417961
    fancy .693147 + 2 * 2.426015 + 1.386294 + .5 * 2 * 2.426015 = 9.357487
    """
    found = {prompt.style: language.entropy_nats(prompt) for prompt in language.all_prompts()}
    assert found == pytest.approx(
        {"plain": 5.417961, "simple": 5.417961, "fancy": 9.357487, "lively": 9.357487}, abs=1e-6
    )


def test_entropy_by_counting_agrees_with_the_chain_rule() -> None:
    """Summing -p ln p over every sentence of one prompt, written out from the tables alone."""
    prompt = Prompt("plain", "news", "old", "sailor")
    weights = language.SYNONYMS["low"]
    word = {s: [language.TONES[t] * w for t in language.TONES for w in weights] for s in language.SLOTS}
    first = [a * b * c for a, b, c in product(word["action"], word["look"], weights)]
    second = [a * b for a, b in product(word["close"], word["manner"])]
    short = [0.5 * p for p in first]
    total = -sum(p * math.log(p) for p in short)
    total -= sum(0.5 * p * q * math.log(0.5 * p * q) for p in first for q in second)
    assert total == pytest.approx(language.entropy_nats(prompt), abs=1e-9)


def test_the_kind_of_a_prompt_changes_dispersion_and_no_sentence() -> None:
    """With the same random numbers, news and jokes are the same sentences: equal entropy, different dispersion."""
    news, jokes = Prompt.parse(NEWS), Prompt.parse(JOKES)
    assert language.draw(news, np.random.default_rng(3)) == language.draw(jokes, np.random.default_rng(3))
    assert language.entropy_nats(news) == language.entropy_nats(jokes)
    assert language.truth(NEWS) == pytest.approx(0.135335, abs=1e-6)  # exp(-2)
    assert language.truth(JOKES) == pytest.approx(0.818731, abs=1e-6)  # exp(-0.2)


def test_the_style_of_a_prompt_changes_entropy_and_neither_dispersion_nor_quality() -> None:
    """With the same random numbers a fancy sentence has the tones of the plain one, in other words."""
    plain, fancy = Prompt.parse(NEWS), Prompt.parse(NEWS.replace("plain", "fancy"))
    rng, again = np.random.default_rng(0), np.random.default_rng(0)
    pairs = [(language.draw(plain, rng), language.draw(fancy, again)) for _ in range(200)]
    assert [language.tones(plain, a) for a, _ in pairs] == [language.tones(fancy, b) for _, b in pairs]
    assert sum(a != b for a, b in pairs) > 100
    assert language.truth(plain.text) == language.truth(fancy.text)
    assert language.entropy_nats(plain) != language.entropy_nats(fancy)


def test_drawn_sentences_are_sentences_and_follow_the_probabilities() -> None:
    """Over n = 4,000 draws the share of bright actions is .25 and of the first plain synonym .91, within 4 sigma."""
    prompt, rng = Prompt.parse(NEWS), np.random.default_rng(1)
    drawn = [language.draw(prompt, rng) for _ in range(4000)]
    assert all(language.tones(prompt, text) is not None for text in drawn)
    actions = [text.split()[3] for text in drawn]
    bright = [word for word in actions if language.TONE_OF["action"][word] == 1]
    assert len(bright) / 4000 == pytest.approx(0.25, abs=4 * math.sqrt(0.25 * 0.75 / 4000))
    assert bright.count("won") / len(bright) == pytest.approx(0.91, abs=4 * math.sqrt(0.91 * 0.09 / len(bright)))
    assert sum(len(text.split()) == 11 for text in drawn) / 4000 == pytest.approx(0.5, abs=4 * math.sqrt(0.25 / 4000))


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        (GOOD, 4.0),
        (EVEN, 0.0),
        (BAD, -2.0),
        ("the old sailor won a rotten rope .", 0.0),  # +1 - 1
        ("the old sailor won a golden rope.", 2.0),  # spaces before the full stop do not matter
        ("the old sailor won a golden loaf .", -3.0),  # a loaf is the baker's
        ("the young sailor won a golden rope .", -3.0),  # another subject
        ("the old sailor won a golden rope", -3.0),  # no end
        ("the old sailor won a golden rope and sang .", -3.0),  # half a clause
        ("golden golden golden golden", -3.0),  # bright words alone are no sentence
        ("", -3.0),
    ],
)
def test_quality_is_the_sum_of_tones_of_a_sentence(response: str, expected: float) -> None:
    """Only sentences about the prompt's own subject have a quality above BROKEN = -3."""
    assert language.quality([NEWS], [response], [{}]) == [expected]
    assert language.fluency([NEWS], [response], [{}]) == [float(expected != -3.0)]


def test_readers_like_the_better_sentence_by_psi() -> None:
    """sigma(2 * 4) = .999665, sigma(2 * -2) = .017986; where readers disagree sigma(.2 * 4) = .689974, .401312.

    The log-odds of the better of two, one unit apart, is psi: logit(sigma(2 * 1)) - logit(sigma(2 * 0)) = 2.
    """
    agree, disagree = Prompt.parse(NEWS), Prompt.parse(JOKES)
    assert language.approval(agree, GOOD) == pytest.approx(0.999665, abs=1e-6)
    assert language.approval(agree, BAD) == pytest.approx(0.017986, abs=1e-6)
    assert language.approval(disagree, GOOD) == pytest.approx(0.689974, abs=1e-6)
    assert language.approval(disagree, BAD) == pytest.approx(0.401312, abs=1e-6)
    better, even = language.approval(agree, "the old sailor won a small rope ."), language.approval(agree, EVEN)
    assert math.log(better / (1 - better)) - math.log(even / (1 - even)) == pytest.approx(2.0)


def test_the_panel_never_changes_its_mind_and_ignores_spaces() -> None:
    """A hash decides: of 24 readers 24, 12 and 0 like them as news, alone and in a batch, in any order."""
    alone = [language.panel([NEWS], [text], [{}])[0] for text in (GOOD, EVEN, BAD)]
    assert alone == [24 / 24, 12 / 24, 0 / 24]
    assert language.panel([NEWS] * 3, [BAD, EVEN, GOOD], [{}] * 3) == alone[::-1]
    assert language.panel([NEWS], [f" {EVEN} "], [{}]) == [alone[1]]
    assert language.panel([JOKES] * 3, [GOOD, EVEN, BAD], [{}] * 3) == [17 / 24, 13 / 24, 11 / 24]


def test_the_panel_is_right_on_average_and_noisy_where_readers_disagree() -> None:
    """Of sentences of quality 0 half the panel likes each: mean 1/2, variance 1/4 / 24 readers = .0104; n = 600."""
    prompt = Prompt.parse(JOKES.replace("plain", "fancy"))
    rng = np.random.default_rng(0)
    texts = {language.draw(prompt, rng) for _ in range(6000)}
    drawn = sorted(text for text in texts if language.quality_of(prompt, text) == 0)[:600]
    told = np.array(language.panel([prompt.text] * 600, drawn, [{}] * 600))
    assert told.mean() == pytest.approx(0.5, abs=4 * math.sqrt(0.0104 / 600))
    assert told.var() == pytest.approx(0.0104, rel=4 * math.sqrt(2 / 600))


def test_a_foreign_prompt_is_refused() -> None:
    """The language's rewards judge its own prompts alone."""
    with pytest.raises(ValueError, match="is no prompt of the quickstart's language"):
        language.panel(["tell me a joke"], [GOOD], [{}])
