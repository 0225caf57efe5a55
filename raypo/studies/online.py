"""The controllable-generation experiment through raypo's own online runs: objectives and seeds, compared at equal KL.

The base is the quickstart's language, whose second reward (quality, which readers see through noise) is never trained
on; or any run's config, with the model and the prompts that it or the overrides name:

    raypo study online config=jobs/stories.yaml policy.path=MODEL prompts.path=OPENINGS

`jobs/openings.py` makes OPENINGS from reviews. With --quick a given config's rounds and prompts are the quickstart's at
most, unless an override says how many.

Each condition changes the objective alone. Every run is an ordinary run in STUDY/runs/; what is finished is not run
again, so the same command continues. STUDY/study.json says of which base and seed the folder is: two studies of the
quickstart have runs of one name and one config that differ in their model and prompts, so a folder holds one of them.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from raypo.config import (
    HYPERPARAMETER_DEFAULTS,
    EvaluationConfig,
    OnlineConfig,
    RunConfig,
    Section,
    apply_overrides,
    build,
    read_yaml,
)
from raypo.errors import ConfigError
from raypo.online.folder import RunFolder
from raypo.quickstart.demonstration import make_config, write_prompts
from raypo.quickstart.model import Pretraining, make_policy, save_tokenizer
from raypo.stages import tables
from raypo.studies.drawings import forest
from raypo.studies.matched import (
    BASE,
    GAIN,
    MATTERS,
    Run,
    claimed,
    figure,
    finding,
    plain,
    read,
    rows_of,
    told_runs,
    votes,
)
from raypo.studies.result import Drawing, Result, Setting, adjusted

CONDITIONS: dict[str, dict[str, Any]] = {
    "dpo": {"preset": "dpo"},
    "mallows-theta": {"preset": "mallows-theta"},
    "mallows-phi": {"preset": "mallows-phi"},
    "mpo": {"preset": "mpo"},
    "w-mpo": {"preset": "w-mpo", "alpha": 1.0},
    "mallows-mpo": {"preset": "mallows-mpo", "alpha": 1.0},
    "simpo": {"preset": "simpo", "beta": 2.0, "gamma": 1.0},
}
"""Objectives, at the base's beta. SimPO divides by length: its beta is its authors', 2.0, with gamma / beta = 0.5."""

DISPERSED = ("mallows-theta", "mallows-phi", "mallows-mpo")
"""Conditions that take psi; the others run without an estimator."""

QUICK = (BASE, "mallows-mpo")
SEEDS = (2, 5)
"""With --quick: conditions and seeds; seeds at full size."""

QUICK_SIZES = {("online", "rounds"): 3, ("online", "prompts_per_round"): 192, ("evaluation", "num_prompts"): 96}
"""With --quick: of the quickstart's runs, and the most of a given config's."""
SECTIONS: dict[str, type[Section]] = {"online": OnlineConfig, "evaluation": EvaluationConfig}

PUBLISHED = "reference_entropy"
"""Estimator where the base has none."""


def base(setting: Setting) -> dict[str, Any]:
    """The config's tree that conditions change: the given one, or the quickstart's, whose model is made if need be.

    Raises:
        ConfigError: the config cannot be read, or overrides come without one.
    """
    given = {key: value for key, value in setting.options.items() if key not in OWN}
    if "config" in setting.options:
        path = setting.options["config"]
        tree = apply_overrides(read_yaml(path), [f"{key}={value}" for key, value in given.items()])
        if (beside := str(Path(path).absolute().parent)) not in sys.path:
            sys.path.insert(0, beside)  # reward functions lie beside their config
        return limited(tree, given) if setting.quick else tree
    if given:
        raise ConfigError(f"study online has no option {next(iter(given))!r}", "config=FILE beside a run's own keys")
    config = make_config(setting.place, setting.seed)
    tree = config.model_dump(mode="json", exclude_unset=True)
    rounds, prompts, heldout = QUICK_SIZES.values()
    tree["online"] |= {"rounds": setting.size(rounds, 6), "prompts_per_round": setting.size(prompts, 384)}
    tree["evaluation"] |= {"num_prompts": setting.size(heldout, heldout)}
    return tree


def limited(tree: Mapping[str, Any], overridden: Collection[str]) -> dict[str, Any]:
    """A given base at no more than QUICK_SIZES; what an override names is as it asks, and what is no number as it is.

    Args:
        tree: of the config.
        overridden: keys of the overrides.
    """
    found = dict(tree)
    for (section, name), most in QUICK_SIZES.items():
        here = found.get(section) or {}
        own = here.get(name, SECTIONS[section].model_fields[name].default) if isinstance(here, dict) else ""
        if not {section, f"{section}.{name}"} & set(overridden) and isinstance(own, int | None):
            found[section] = {**here, name: most if own is None else min(own, most)}
    return found


OWN = ("config", "conditions", "seeds")


RECORD = "study.json"
QUICKSTART, GIVEN = "the quickstart's", "a given config"


def identity(setting: Setting) -> dict[str, Any]:
    """What must not change within a folder. A given config's model and prompts do not come from the study's seed."""
    return {"base": GIVEN} if "config" in setting.options else {"base": QUICKSTART, "seed": setting.seed}


def same_study(setting: Setting) -> None:
    """Record of which study the folder is, or check that it is this one.

    A folder without a record is told by what it holds: the quickstart's model, and BASE's first run, which has the
    study's seed.

    Raises:
        ConfigError: it holds another study; what differs is named.
    """
    asked, record = identity(setting), setting.place / RECORD
    held = tables.read_json(str(record)) or _told_by(setting.place)
    if held is not None and held != asked:
        differing = [key for key in ("base", "seed") if held.get(key) != asked.get(key)]
        told, wanted = (", ".join(f"{key}: {one[key]}" for key in differing if key in one) for one in (held, asked))
        raise ConfigError(
            f"{setting.place} holds a study with {told}", wanted, "another --out, or that study's command"
        )
    tables.write_json(str(record), asked)


def _told_by(place: Path) -> dict[str, Any] | None:
    seeds = [int(one.name.rpartition("seed")[2]) for one in (place / "runs").glob(f"{BASE}-seed*")]
    if not seeds:
        return None
    return {"base": QUICKSTART, "seed": min(seeds)} if (place / "policy").exists() else {"base": GIVEN}


def make_start(folder: Path, seed: int) -> None:
    """The quickstart's prompts and its pretrained model, unless they are there."""
    write_prompts(folder / "language", seed)
    if not (folder / "policy" / "config.json").exists():
        make_policy(folder / "policy", save_tokenizer(folder / "policy"), seed, Pretraining(), lambda step, loss: None)


def matrix(setting: Setting) -> tuple[list[str], list[int]]:
    """Conditions, BASE first, and seeds of the runs.

    Raises:
        ConfigError: an unknown condition, or a number of seeds from which no interval can be told.
    """
    asked = setting.options.get("conditions")
    names = asked.split(",") if asked else list(QUICK if setting.quick else CONDITIONS)
    unknown = [name for name in names if name not in CONDITIONS]
    names = [BASE, *(name for name in dict.fromkeys(names) if name != BASE)]
    if unknown or len(names) < 2:
        raise ConfigError(f"conditions={asked}", f"some of {', '.join(CONDITIONS)}, with commas; {BASE} is always run")
    text = setting.options.get("seeds", str(setting.size(*SEEDS)))
    if not text.isdecimal() or int(text) < 2:
        raise ConfigError(f"seeds={text}", "a number from 2: one seed tells nothing of seeds")
    return names, [setting.seed + one for one in range(int(text))]


def config_of(tree: Mapping[str, Any], condition: str, seed: int, runs: Path) -> RunConfig:
    """The run of a condition and a seed: the base with another objective.

    Raises:
        ConfigError: the base is no run.
    """
    given = tree.get("dispersion") or {}
    estimator = given.get("estimator", PUBLISHED)
    dispersed = {**given, "estimator": PUBLISHED if estimator == "none" else estimator}
    return build(
        {
            **tree,
            "name": f"{condition}-seed{seed}",
            "output": str(runs),
            "seed": seed,
            "objective": objective_of(tree, condition),
            # without an estimator its scale and its shuffling act on nothing, and a config refuses them
            "dispersion": dispersed if condition in DISPERSED else {"estimator": "none"},
        }
    )


def objective_of(tree: Mapping[str, Any], condition: str) -> dict[str, Any]:
    """The objective of a condition, with the beta that the base has, or that a run has by itself."""
    return {"beta": (tree.get("objective") or {}).get("beta", HYPERPARAMETER_DEFAULTS["beta"])} | CONDITIONS[condition]


def second_of(config: RunConfig) -> str | None:
    """Name of the first reward that is never trained on."""
    return next((source.name for source in config.rewards if source.weight == 0), None)


def run(setting: Setting) -> Result:
    """Run what is not finished, and compare."""
    from raypo.online.run import run as align

    names, seeds = matrix(setting)
    tree, runs = base(setting), setting.place / "runs"
    configs = {(name, seed): config_of(tree, name, seed, runs.absolute()) for seed in seeds for name in names}
    same_study(setting)
    if "config" not in setting.options:
        make_start(setting.place, setting.seed)
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    for config in configs.values():
        align(config)
    found = [read(name, seed, RunFolder(one), second_of(one)) for (name, seed), one in configs.items()]
    objectives = {name: objective_of(tree, name) for name in names}
    return concluded(found, {"conditions": objectives, "seeds": seeds, "base": tree})


def concluded(runs: Sequence[Run], settings: Mapping[str, Any]) -> Result:
    """The table, the figures and the finding of finished runs."""
    rows = adjusted(rows_of(runs))
    gains = [row for row in rows if row.measure == GAIN]
    return Result.decided(
        rows,
        votes(rows),
        [plain(rows), finding(rows)],
        headline=claimed(rows),
        drawings=[
            Drawing("frontier", "Held-out reward against KL; a line a run.", figure(runs)),
            Drawing(
                "effects",
                "Reward over DPO's at the KL where the one that moved less ended; the band would not matter.",
                forest(gains, "reward over DPO's, spreads of the start's rewards", matters=MATTERS),
            ),
        ],
        settings={**settings, "runs": told_runs(runs)},
    )
