"""The synthetic language: short sentences about tradespeople, and a panel of readers who like them more or less.

A prompt asks for a sentence in a style, and a response is that sentence:

    fancy jokes about the old sailor :    the old sailor won a splendid compass and danced proudly .

    the AGE SUBJECT action a look object [and close manner] .

A word of action, look, close and manner has a tone: bright (+1), even (0) or gloomy (-1). Two words of the prompt set
two things that are independent of each other by construction:

    STYLE   how many synonyms are in use: token entropy. In plain styles one of the four synonyms of a tone takes 0.91,
            in fancy styles all are equally likely. Tones are as likely in either, so quality is distributed alike.
    KIND    how far readers agree: dispersion. It touches no probability of the language at all.

*Quality* of a sentence is the sum of its tones (a broken sentence: BROKEN). *Training reward* is the share of a panel
of readers who like it; each likes it with probability sigma(psi quality), and psi depends on KIND alone. Of readers who
like exactly one of two sentences, a share sigma(psi gap) likes the better one: psi is exactly raypo's scale of
dispersion, and phi = exp(-psi) the dispersion in (0, 1). Where readers disagree, the reward says little about quality.

A panel's mean is what makes reward spread a sign of agreement here; a single noisy reader's grades would spread more
where readers disagree. Nothing of this is known to the policy or to an estimator.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

STYLES = {"plain": "low", "simple": "low", "fancy": "high", "lively": "high"}
"""Style word -> token entropy of its sentences."""

KINDS = {"news": "low", "facts": "low", "jokes": "high", "dreams": "high"}
"""Kind word -> dispersion of the readers' preferences."""

PSI = {"low": 2.0, "high": 0.2}
"""Dispersion -> psi: log-odds that the better of two sentences, one unit of quality apart, is preferred."""

AGES = ("old", "young", "tall", "short", "busy", "clever", "shy", "brave")

OBJECTS = {
    "sailor": ("rope", "sail", "anchor", "compass"),
    "baker": ("loaf", "cake", "bun", "oven"),
    "farmer": ("plough", "cow", "barn", "cart"),
    "painter": ("brush", "canvas", "portrait", "frame"),
    "doctor": ("bandage", "needle", "bottle", "lamp"),
    "teacher": ("book", "slate", "globe", "bell"),
    "hunter": ("bow", "trap", "knife", "tent"),
    "miller": ("sack", "wheel", "stone", "scale"),
    "tailor": ("coat", "button", "ribbon", "scarf"),
    "singer": ("song", "harp", "drum", "flute"),
    "soldier": ("sword", "shield", "helmet", "medal"),
    "gardener": ("rose", "spade", "fence", "pond"),
    "potter": ("jug", "bowl", "vase", "plate"),
    "smith": ("nail", "hammer", "chain", "horseshoe"),
    "writer": ("letter", "pen", "poem", "desk"),
    "fisher": ("net", "hook", "basket", "trout"),
}
"""Subject -> the four objects of the trade."""

SLOTS: dict[str, dict[int, tuple[str, ...]]] = {
    "action": {
        1: ("won", "made", "found", "mended"),
        0: ("saw", "took", "held", "kept"),
        -1: ("lost", "broke", "dropped", "stole"),
    },
    "look": {
        1: ("golden", "lovely", "shining", "splendid"),
        0: ("small", "grey", "round", "common"),
        -1: ("rotten", "dirty", "rusty", "filthy"),
    },
    "close": {
        1: ("laughed", "danced", "sang", "smiled"),
        0: ("walked", "stood", "waited", "rested"),
        -1: ("wept", "cursed", "sulked", "groaned"),
    },
    "manner": {
        1: ("gladly", "kindly", "proudly", "warmly"),
        0: ("slowly", "there", "again", "nearby"),
        -1: ("bitterly", "coldly", "alone", "sadly"),
    },
}
"""Slot -> tone -> synonyms."""

TONES = {1: 0.25, 0: 0.5, -1: 0.25}
"""Probability of each tone, in every slot and every style."""

SYNONYMS = {"low": (0.91, 0.03, 0.03, 0.03), "high": (0.25, 0.25, 0.25, 0.25)}
"""Token entropy -> probability of each of four synonyms, or of four objects."""

CLAUSE = 0.5
"""Probability of the second clause, `and close manner`."""

BROKEN = -3.0
"""Quality of what is not a sentence about the prompt's subject."""

READERS = 24
"""Size of the panel."""

TONE_OF = {slot: {word: tone for tone, words in tones.items() for word in words} for slot, tones in SLOTS.items()}


@dataclass(frozen=True)
class Prompt:
    """A prompt's four choices."""

    style: str
    kind: str
    age: str
    subject: str

    @property
    def text(self) -> str:
        """As the model reads it."""
        return f"{self.style} {self.kind} about the {self.age} {self.subject} :"

    @property
    def entropy(self) -> str:
        """Class of token entropy, "low" or "high"."""
        return STYLES[self.style]

    @property
    def dispersion(self) -> str:
        """Class of the readers' dispersion, "low" or "high"."""
        return KINDS[self.kind]

    @staticmethod
    def parse(text: str) -> Prompt:
        """The prompt of a text.

        Raises:
            ValueError: the text is no prompt of this language.
        """
        words = text.split()
        if len(words) == 7:
            prompt = Prompt(words[0], words[1], words[4], words[5])
            known = prompt.style in STYLES and prompt.kind in KINDS and prompt.age in AGES and prompt.subject in OBJECTS
            if known and prompt.text == " ".join(words):
                return prompt
        raise ValueError(f"{text!r} is no prompt of the quickstart's language")


def all_prompts() -> list[Prompt]:
    """Every prompt: 4 styles x 4 kinds x 8 ages x 16 subjects = 2,048."""
    return [Prompt(s, k, a, n) for s in STYLES for k in KINDS for a in AGES for n in OBJECTS]


def draw(prompt: Prompt, rng: np.random.Generator) -> str:
    """One sentence for a prompt, from the language itself."""
    uniform = rng.random(10)
    weights = SYNONYMS[prompt.entropy]
    words = ["the", prompt.age, prompt.subject]
    words.append(_word("action", uniform[0], uniform[1], weights))
    words.append("a")
    words.append(_word("look", uniform[2], uniform[3], weights))
    words.append(OBJECTS[prompt.subject][_choice(uniform[4], weights)])
    if uniform[5] < CLAUSE:
        words += [
            "and",
            _word("close", uniform[6], uniform[7], weights),
            _word("manner", uniform[8], uniform[9], weights),
        ]
    return " ".join([*words, "."])


def _word(slot: str, tone: float, synonym: float, weights: Sequence[float]) -> str:
    return SLOTS[slot][list(TONES)[_choice(tone, list(TONES.values()))]][_choice(synonym, weights)]


def _choice(uniform: float, weights: Sequence[float]) -> int:
    """Index by inverse distribution function."""
    total = 0.0
    for index, weight in enumerate(weights[:-1]):
        total += weight
        if uniform < total:
            return index
    return len(weights) - 1


def entropy_nats(prompt: Prompt) -> float:
    """Exact entropy of the language's sentences for a prompt, nats per sentence, by the chain rule."""
    tone = _entropy(list(TONES.values()))
    synonym = _entropy(SYNONYMS[prompt.entropy])
    always, clause = 2 * (tone + synonym) + synonym, 2 * (tone + synonym)
    return _entropy((CLAUSE, 1 - CLAUSE)) + always + CLAUSE * clause


def _entropy(weights: Sequence[float]) -> float:
    return -sum(weight * math.log(weight) for weight in weights)


def expected_tokens() -> float:
    """Mean tokens of a sentence, the end token included: 9, and 3 more with the second clause."""
    return 9 + 3 * CLAUSE


def tones(prompt: Prompt, response: str) -> list[int] | None:
    """Tones of a sentence's slots; None when it is not a sentence about the prompt's subject."""
    words = response.replace(".", " . ").split()
    start, rest = ["the", prompt.age, prompt.subject], words[3:]
    if words[:3] != start or len(rest) not in (5, 8) or rest[-1] != "." or rest[1] != "a":
        return None
    slots = {"action": rest[0], "look": rest[2]}
    if len(rest) == 8:
        if rest[4] != "and":
            return None
        slots |= {"close": rest[5], "manner": rest[6]}
    if rest[3] not in OBJECTS[prompt.subject] or any(word not in TONE_OF[slot] for slot, word in slots.items()):
        return None
    return [TONE_OF[slot][word] for slot, word in slots.items()]


def quality_of(prompt: Prompt, response: str) -> float:
    """True quality: the sum of tones, in -4..4; BROKEN for what is no sentence."""
    found = tones(prompt, response)
    return BROKEN if found is None else float(sum(found))


def truth(prompt: str) -> float:
    """True dispersion phi = exp(-psi) of a prompt's readers, in (0, 1)."""
    return math.exp(-PSI[Prompt.parse(prompt).dispersion])


def approval(prompt: Prompt, response: str) -> float:
    """Probability that a reader likes a response: sigma(psi quality)."""
    return 1.0 / (1.0 + math.exp(-PSI[prompt.dispersion] * quality_of(prompt, response)))


def panel(prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """The training reward: share of READERS simulated readers who like each response, in [0, 1].

    A reader's opinion of a text never changes: it is a hash of both.

    Raises:
        ValueError: a prompt is not of this language.
    """
    return [_panel(Prompt.parse(prompt), response) for prompt, response in zip(prompts, responses, strict=True)]


def _panel(prompt: Prompt, response: str) -> float:
    text = f"{prompt.text}\n{' '.join(response.split())}".encode()
    bound = approval(prompt, response) * 2**16
    opinions = np.frombuffer(hashlib.blake2b(text, digest_size=2 * READERS).digest(), dtype="<u2")
    return float((opinions < bound).mean())


def quality(prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """True quality, which no reader's noise touches. Watched, never trained on."""
    return [quality_of(Prompt.parse(p), response) for p, response in zip(prompts, responses, strict=True)]


def fluency(prompts: Sequence[str], responses: Sequence[str], metadata: Sequence[Mapping[str, Any]]) -> list[float]:
    """1 for a sentence about the prompt's subject, 0 for anything else. Watched, never trained on."""
    return [float(tones(Prompt.parse(p), response) is not None) for p, response in zip(prompts, responses, strict=True)]


def vocabulary() -> list[str]:
    """Every word of the language, in a fixed order, without repetition."""
    words = ["about", "the", ":", "a", "and", ".", *STYLES, *KINDS, *AGES, *OBJECTS]
    words += [item for items in OBJECTS.values() for item in items]
    words += [word for tones_of in SLOTS.values() for synonyms in tones_of.values() for word in synonyms]
    return list(dict.fromkeys(words))
