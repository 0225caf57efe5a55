"""What must not stand in a config: secrets, and addresses of hosts that nobody listed.

A config is written into the run's folder, into Ray's job records and into messages, so a secret in it is a secret lost;
it is refused rather than hidden, and the refusal does not repeat it. Prompts and responses are sent to reward servers
and judges: a config that somebody else wrote must not choose where they go without saying so in one place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fnmatch import fnmatchcase
from typing import Any
from urllib.parse import urlsplit

from raypo.config.rewards import HttpReward
from raypo.config.tree import RunConfig
from raypo.errors import ConfigError
from raypo.masking import MASK, holds_secret, names_secret


def refuse_addresses(config: RunConfig) -> Iterator[ConfigError]:
    """Faults of a config's strings: secrets in them, and servers on hosts that are not listed."""
    for key, text, named in _leaves(config.model_dump(mode="json")):
        if "\0" in text:
            yield ConfigError(f"{key} = {text!r}", "no null character: no path and no name has one", "remove it")
        if named or holds_secret(text):
            yield ConfigError(
                f"{key} = {MASK if named else text!r} holds a secret",
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


def _leaves(tree: Any, prefix: str = "", named: bool = False) -> Iterator[tuple[str, str, bool]]:
    """Every string and whole number of a nested tree: its dotted key, its text, whether a key says it is a secret.

    Keys are strings of the tree too: a mapping such as `prompts.template_arguments` has them from the user.
    """
    if isinstance(tree, Mapping):
        for name, part in tree.items():
            yield f"a key of {prefix.rstrip('.') or 'the config'}", str(name), False
            yield from _leaves(part, f"{prefix}{name}.", named or names_secret(str(name)))
    elif isinstance(tree, (list, tuple)):
        for index, part in enumerate(tree):
            yield from _leaves(part, f"{prefix}{index}.", named)
    elif isinstance(tree, (str, int)) and not isinstance(tree, bool):
        yield prefix.rstrip("."), str(tree), named
