"""One YAML file plus dotted overrides -> a frozen tree, or every fault in one message."""

from __future__ import annotations

import copy
import difflib
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast, get_args

import yaml
from pydantic import BaseModel, ValidationError

from raypo.config.refusals import refuse_contradictions
from raypo.config.rewards import FunctionReward, HttpReward, ModelReward, RewardSource
from raypo.config.tree import RunConfig
from raypo.errors import ConfigError

PLACES = (
    "policy.path",
    "policy.chat_template",
    "prompts.path",
    "prompts.heldout_path",
    "annotation.importance.positive",
    "annotation.importance.negative",
    "evaluation.judge.template",
)
"""Keys that name a file or a folder, beside those of reward models."""

REWARDS: dict[str, type[BaseModel]] = {"function": FunctionReward, "model": ModelReward, "http": HttpReward}


def load(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and dotted overrides into a frozen tree.

    Args:
        path: YAML file with one mapping.
        overrides: `section.key=value` strings; the value is YAML.

    Raises:
        ConfigError: the file cannot be read, a key is unknown (with the nearest known one) or a value does not fit.
    """
    return build(apply_overrides(read_yaml(path), overrides))


def as_yaml(config: RunConfig) -> str:
    """The whole tree as YAML that `load` reads back as an equal tree."""
    return yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read one YAML mapping, safely.

    Raises:
        ConfigError: the file is missing, unreadable, not YAML, or not a mapping, or gives a key twice.
    """
    try:
        tree = parse_yaml(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}", "a YAML file", "check the path") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not YAML: {_told(error)}", "one YAML mapping", "mend the file") from None
    if not isinstance(tree, dict):
        raise ConfigError(f"{path} holds {type(tree).__name__}", "one YAML mapping of sections", "see jobs/*.yaml")
    return tree


class _Loader(yaml.SafeLoader):
    """Plain values only. A key given twice is refused, and 1e-6 is a number, as in YAML 1.2."""

    def compose_mapping_node(self, anchor: dict[Any, yaml.Node]) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)  # before merge keys (<<) add what a key of its own may replace
        keys = [(key.tag, key.value) for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
        if twice := [value for place, (tag, value) in enumerate(keys) if (tag, value) in keys[:place]]:
            raise yaml.constructor.ConstructorError(None, None, f"key {twice[0]!r} is given twice", node.start_mark)
        return node

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        super().flatten_mapping(node)
        # what is merged again and again would double at each level
        node.value = list({(key.tag, str(key.value)): (key, value) for key, value in node.value}.values())


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?(\d+\.?\d*|\.\d+)[eE][-+]?\d+$"), list("-+.0123456789")
)


DEEPEST, MOST_VALUES = 50, 100_000
"""Bounds of a tree. Aliases may make one of a few lines endless."""


def parse_yaml(text: str) -> Any:
    """One YAML value.

    Raises:
        yaml.YAMLError: it is not YAML, a mapping gives a key twice, or it is too deep or too large.
    """
    try:
        tree = yaml.load(text, Loader=_Loader)
        left = MOST_VALUES
        for depth in _depths(tree):
            left -= 1
            if depth > DEEPEST or left < 0:
                raise yaml.YAMLError(f"more than {DEEPEST} levels or {MOST_VALUES} values, or an alias of itself")
    except RecursionError:
        raise yaml.YAMLError(f"more than {DEEPEST} levels, or an alias of itself") from None
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        # what its constructors say of a date such as 2024-99-99 or a tag such as !!bool on another word
        raise yaml.YAMLError(f"a value cannot be read: {error}") from None
    return tree


def _depths(tree: Any, depth: int = 0) -> Iterator[int]:
    """How deep each value of a tree lies."""
    yield depth
    parts = [*tree.keys(), *tree.values()] if isinstance(tree, dict) else tree if isinstance(tree, list) else []
    for part in parts:
        yield from _depths(part, depth + 1)


def _told(error: Exception) -> str:
    """What is wrong with a YAML text and where, without the lines that PyYAML shows: they may hold a secret."""
    if isinstance(error, yaml.MarkedYAMLError):
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        return f"{error.problem or error.context}{place}"
    if isinstance(error, UnicodeDecodeError):
        return f"no UTF-8: {error.reason} at byte {error.start}"
    return str(error)


def apply_overrides(tree: Mapping[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Return a copy of the tree in which each `a.b.c=value` is set. List items are addressed by number.

    Raises:
        ConfigError: an override is not `key=value`, its value is not YAML, or its key leads nowhere.
    """
    values = []
    for override in overrides:
        key, text = key_of(override), override.partition("=")[2]
        try:
            values.append((key, parse_yaml(text), override))
        except yaml.YAMLError as error:
            raise ConfigError(f"override {override!r}: not YAML: {_told(error)}", "key.subkey=value") from None
    return _with_values(tree, values)


def set_values(tree: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """A copy of a tree with values, which are not read as YAML, at dotted keys.

    Args:
        tree: plain mapping.
        values: by dotted key. Sections that are absent are made.

    Raises:
        ConfigError: a key leads through a value, or to an item that a list does not have.
    """
    return _with_values(tree, [(key, value, f"{key}={value}") for key, value in values.items()])


def _with_values(tree: Mapping[str, Any], values: Sequence[tuple[str, Any, str]]) -> dict[str, Any]:
    """A copy of a tree with values at dotted keys, each with the override that asks for it."""
    copied = copy.deepcopy(dict(tree))
    for key, value, override in values:
        _set(copied, key.split("."), copy.deepcopy(value), override)  # a later key may lead into it
    return copied


def key_of(override: str) -> str:
    """The dotted key of a `key=value` override.

    Raises:
        ConfigError: it is not of that form.
    """
    key, separator, _ = override.partition("=")
    if not separator or not all(key.split(".")):
        raise ConfigError(f"override {override!r}", "key.subkey=value", "write e.g. training.learning_rate=1e-6")
    return key


def _set(node: Any, keys: list[str], value: Any, override: str) -> None:
    for depth, key in enumerate(keys):
        last = depth == len(keys) - 1
        index: Any = int(key) if isinstance(node, list) and key.isdecimal() else key
        if isinstance(node, list) and not (isinstance(index, int) and index < len(node)):
            raise ConfigError(f"override {override!r}: no item {key!r}", f"a number below {len(node)}")
        if not isinstance(node, (dict, list)):
            raise ConfigError(f"override {override!r}: {'.'.join(keys[:depth])} is a value", "a section")
        if last:
            node[index] = value
        else:
            if isinstance(node, dict) and node.get(index) is None:
                node[index] = {}
            node = node[index]


def build(tree: Mapping[str, Any]) -> RunConfig:
    """Validate a plain mapping into a frozen tree.

    Raises:
        ConfigError: every fault of keys and values in one message, or the first combination that means nothing.
    """
    try:
        config = RunConfig.model_validate(dict(tree))
    except ValidationError as error:
        lines = [_describe(fault) for fault in error.errors()]
        raise ConfigError("\n  ".join(lines), remedy="see `raypo plan` and the docstrings of raypo/config") from None
    refuse_contradictions(config)
    return _anchored(config)


def _anchored(config: RunConfig) -> RunConfig:
    """The same tree with the paths of files and folders that exist made absolute.

    Workers, and a later command that goes on with the run, stand in other folders: there a relative path would be
    another one, or the name of a model on the hub.
    """
    placed: Any = config.model_copy(update={"output": os.path.expanduser(config.output)})
    for key in PLACES:
        placed = _with_place(placed, key.split("."))
    return cast("RunConfig", placed.model_copy(update={"rewards": anchored_rewards(config.rewards)}))


def _with_place(section: Any, keys: Sequence[str]) -> Any:
    """A section with the path below these keys in its place; a section that is absent stays so."""
    if section is None:
        return None
    inner = getattr(section, keys[0])
    found = anchored_path(inner) if len(keys) == 1 else _with_place(inner, keys[1:])
    return section.model_copy(update={keys[0]: found})


def anchored_rewards(sources: Sequence[RewardSource]) -> tuple[RewardSource, ...]:
    """The same reward sources, with the folders of models that exist made absolute."""
    return tuple(
        one.model_copy(update={"path": anchored_path(one.path)}) if isinstance(one, ModelReward) else one
        for one in sources
    )


def anchored_path(path: str | None) -> str | None:
    """A local path that exists, absolute; anything else as it is."""
    if path is None:
        return None
    local = os.path.expanduser(path)
    return os.path.abspath(local) if os.path.exists(local) else path


def _describe(fault: Any) -> str:
    # rewards.0.http.url: the kind of a source is no key
    kind = 2 if fault["loc"][:1] == ("rewards",) and len(fault["loc"]) > 2 else None
    location = [part for place, part in enumerate(fault["loc"]) if place != kind]
    where = ".".join(map(str, location)) or "config"
    if fault["type"] == "extra_forbidden":
        near = difflib.get_close_matches(str(location[-1]), _known_keys(fault["loc"][:-1]), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        return f"unknown key {where!r}{hint}"
    if fault["type"] == "missing":
        return f"{where} must be given"
    given = fault.get("input")
    if fault["type"] == "union_tag_invalid" and isinstance(given, Mapping):
        return f"{where}: no reward source of type {fault['ctx']['tag']!r}; one of {', '.join(REWARDS)}"
    if fault["type"] in ("model_type", "union_tag_invalid"):
        return f"{where} = {given!r}: a section with keys of its own is expected"
    if fault["type"] == "tuple_type":
        return f"{where} = {given!r}: a list is expected"
    return f"{where} = {given!r}: {fault['msg']}"


def _known_keys(location: Sequence[Any]) -> list[str]:
    """Names of the fields of the section at a location of the tree."""
    model: Any = RunConfig
    for part in location:
        if part in REWARDS:
            model = REWARDS[part]
            continue
        if (field := model.model_fields.get(str(part))) is not None:
            kinds = (field.annotation, *get_args(field.annotation))  # a section, or one that may be absent
            model = next((kind for kind in kinds if isinstance(kind, type) and issubclass(kind, BaseModel)), model)
    return list(model.model_fields)
