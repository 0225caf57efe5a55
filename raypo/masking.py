"""What looks like a secret, and texts without it.

Patterns see names (`api_key=`, `?sig=`, `Bearer ...`), users of addresses and the prefixes of well-known tokens. A
secret without any of these looks like any other word: whoever knows one takes it out himself.
"""

from __future__ import annotations

import re

MASK = "***"
# every repetition is bounded or begins at a word's own start: a text of megabytes is read in one pass
_FIRST = r"(?<![A-Za-z0-9])"
_WORD = r"[A-Za-z0-9_.-]{0,64}"
_PLAIN_USER = r"(?:(?:abfss?|wasbs?|hdfs|viewfs)://[^/:\s@'\"]*@|(?:gs|gcs)://anonymous@)"  # a container, a name
_USER = (
    rf"(?P<user>(?<![A-Za-z0-9+.-])(?!(?i:{_PLAIN_USER}))[A-Za-z][A-Za-z0-9+.-]*://)"
    # before the first slash; or after a colon that no port follows, where a secret may hold slashes itself
    r"(?:[^/\s'\"]{1,600}(?=@)|[^/\s@:\['\"]{0,500}:(?!\d+(?:/|$))[^\s'\"]{1,600}(?=@))"
)
_TOKENIZERS = (
    "bos eos pad unk sep cls mask image video audio vision next last first start end stop special think thinking tool"
)
_SPECIAL = "".join(rf"(?<!(?<![a-z]){name}_)" for name in _TOKENIZERS.split())
"""Before the word token: those of a tokenizer, which are no secrets."""
_QUERY = (
    rf"(?P<query>[?&;#](?i:{_WORD}(?:key(?!words?=|board)|{_SPECIAL}token(?!s|iz)|secret|passw|pwd|signature|credential)"
    rf"{_WORD}"
    rf"|(?:{_WORD}[_.-])?(?:sig|auth|jwt|pass)|code)=)[^&\s'\"]+"
)
_TOKEN = rf"(?P<token>{_FIRST}(?:" + "|".join(
    (
        r"hf_(?=[a-z]{0,64}[A-Z0-9])[A-Za-z0-9]{30,}(?![\w-]|\.\w)",  # followed by .jsonl it is a file
        r"sk-(?:ant|proj|svcacct|admin)-(?=[\w-]{0,200}[A-Z])(?=[\w-]{0,200}[0-9])[\w-]{40,}(?!\.\w)",
        # of others one unbroken part is random: `sk-Exp1-LARGE-lr1e-6-seed0` is a folder
        r"sk-(?:[A-Za-z0-9_]{1,32}-){0,3}(?:(?=[A-Za-z_]{0,200}[0-9])(?=[a-z0-9_]{0,200}[A-Z])[A-Za-z0-9_]{20,}[\w-]*"
        r"|[0-9a-f]{32,})(?![\w-]|\.\w)",
        r"gh[opsur]_[A-Za-z0-9]{20,}|github_pat_[A-Za-z0-9_]{20,}|glpat-[A-Za-z0-9_-]{20,}",
        r"gsk_[A-Za-z0-9]{20,}|nvapi-[A-Za-z0-9_-]{20,}|xox[abeprs]-(?=[A-Za-z-]{0,64}[0-9])[A-Za-z0-9-]{16,}",
        r"(?:AKIA|ASIA)[A-Z0-9]{16}(?![A-Z0-9])(?::[^\s@,'\"}]+)?|AIza[A-Za-z0-9_-]{35}",
        r"eyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]*",
        r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY-----[^-]*",
    )
) + "))"  # fmt: skip
_BEARER = rf"(?P<bearer>{_FIRST}[Bb]earer\s+)(?!(?i:auth|token))[^\s,'\"}}]{{8,}}"
_NAME = (
    r"(?:(?:api|access|secret|private|account|signing)[_-]?key|secret|passw(?:or)?d|passphrase|pwd|credentials?"
    rf"|{_SPECIAL}token)"
)
_NAMED = (
    rf"(?P<named>(?<![A-Za-z0-9_-])(?i:[A-Za-z0-9_-]{{0,64}}{_NAME}['\"]?\s*[=:]\s*"
    r"|authorization['\"]?\s*[=:]\s*['\"]?(?:bearer |basic |token )?)[\[({]*['\"]?)"
    r"(?!\s|null|None|int\b|str\b)(?:(?<=')[^']+|(?<=\")[^\"]+|[^\s,'\"})\]]+)"
)
_SECRET = re.compile(f"{_USER}|{_QUERY}|{_BEARER}|{_TOKEN}")
_SHOWN = re.compile(f"{_USER}|{_QUERY}|{_BEARER}|{_TOKEN}|{_NAMED}")
"""In messages also what follows a name such as `api_key`, which may be a misspelt or unknown key of the tree."""
_KEY = re.compile(rf"[A-Za-z0-9_.-]{{0,64}}{_NAME}", re.IGNORECASE)


def masked(text: str) -> str:
    """The text with whatever looks like a secret replaced: users and passwords of addresses, keys, tokens."""
    return _SHOWN.sub(
        lambda found: (found["user"] or found["query"] or found["bearer"] or found["named"] or "") + MASK, text
    )


def holds_secret(text: str) -> bool:
    """Whether a value by itself looks like a secret, or like an address with one."""
    return _SECRET.search(text) is not None


def names_secret(key: str) -> bool:
    """Whether a key of a mapping says that its value is a secret: `api_key`, `password`, `hub_token`."""
    return _KEY.fullmatch(key) is not None
