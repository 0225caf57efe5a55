"""What must not stand in a config: secrets, and addresses of hosts that nobody listed.

A config is written into the run's folder, into Ray's job records and into messages, so a secret in it is a secret lost;
it is refused rather than hidden, and the refusal does not repeat it. Prompts and responses are sent to reward servers
and judges: a config that somebody else wrote must not choose where they go without saying so in one place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from raypo.config.rewards import HttpReward
from raypo.config.tree import RunConfig
from raypo.errors import ConfigError

MASK = "***"
_USER = r"(?P<user>[A-Za-z][A-Za-z0-9+.-]*://)[^/\s@]+(?=@)"
_QUERY = r"(?P<query>[?&][A-Za-z0-9_.-]*(?:key|token|secret|passw|signature|credential)[A-Za-z0-9_.-]*=)[^&\s'\"]+"
_TOKEN = r"\b(?:hf_|sk-|ghp_|gho_|ghs_|github_pat_|glpat-|xox[abp]-|AKIA|ASIA)[A-Za-z0-9_-]{16,}"
_NAMED = (
    r"(?P<named>\b[A-Za-z0-9_]*(?:api_?key|token|secret|password)['\"]?\s*[=:]\s*['\"]?)(?!\s|null|None)[^\s,'\"}]+"
)
_SECRET = re.compile(f"{_USER}|{_QUERY}|(?P<token>{_TOKEN})", re.IGNORECASE)
_SHOWN = re.compile(f"{_USER}|{_QUERY}|(?P<token>{_TOKEN})|{_NAMED}", re.IGNORECASE)
"""In messages also what follows a name such as `api_key`, which may be a misspelt or unknown key of the tree."""


def masked(text: str) -> str:
    """The text with whatever looks like a secret replaced: users and passwords of addresses, keys, tokens."""
    return _SHOWN.sub(lambda found: (found["user"] or found["query"] or found["named"] or "") + MASK, text)


def refuse_addresses(config: RunConfig) -> Iterator[ConfigError]:
    """Faults of a config's strings: secrets in them, and servers on hosts that are not listed."""
    for key, text in _strings(config.model_dump(mode="json")):
        if _SECRET.search(text):
            yield ConfigError(
                f"{key} = {masked(text)!r} holds a secret",
                "none: a config is stored with its run and shown in messages",
                "give it by the environment: token_env for reward servers and judges, AWS_* or the machine's identity "
                "for storage, HF_TOKEN, WANDB_API_KEY, MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
            )
    urls = {f"reward {one.name!r}": one.url for one in config.rewards if isinstance(one, HttpReward)}
    if config.evaluation.judge is not None:
        urls[f"judge {config.evaluation.judge.model!r}"] = config.evaluation.judge.url
    for who, url in urls.items():
        if not listed(url, config.scoring.allowed_hosts):
            yield ConfigError(
                f"{who} is at {urlsplit(url).hostname}, which scoring.allowed_hosts does not list",
                f"one of {', '.join(config.scoring.allowed_hosts) or 'no host at all'}: prompts and responses are "
                "sent there",
                f"add it where you trust it: scoring.allowed_hosts=[{urlsplit(url).hostname}]",
            )


def listed(url: str, hosts: tuple[str, ...]) -> bool:
    """Whether an address is of a listed host; `*.example.com` lists all hosts below example.com."""
    host = (urlsplit(url).hostname or "").lower()
    return any(fnmatchcase(host, one.lower()) for one in hosts)


def _strings(tree: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    """Every string of a nested tree with its dotted key; keys of mappings are read too."""
    if isinstance(tree, str):
        yield prefix.rstrip("."), tree
    elif isinstance(tree, Mapping):
        for name, part in tree.items():
            yield from _strings(part, f"{prefix}{name}.")
    elif isinstance(tree, (list, tuple)):
        for index, part in enumerate(tree):
            yield from _strings(part, f"{prefix}{index}.")
