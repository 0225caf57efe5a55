"""The command line: parses, calls one function, and tells a failure in one message.

`raypo --help` and `raypo plan` import neither torch nor ray: what is heavy is imported inside the commands that need
it.
"""

from __future__ import annotations

import os
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Annotated

import typer
from rich.console import Console
from rich.padding import Padding
from rich.table import Column, Table
from rich.text import Text

from raypo import __version__, config
from raypo.cli.arguments import (
    AcceptPins,
    ConfigFile,
    Overrides,
    StudyFile,
    StudyOverrides,
    find_modules,
    load,
    out_option,
)
from raypo.cli.bench import bench
from raypo.cli.opening import opening
from raypo.errors import ConfigError, RaypoError

app = typer.Typer(
    name="raypo",
    help="Align language models on a Ray cluster by preference optimization over sets of responses.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.add_typer(bench, name="bench")


def load_run(path: Path) -> config.RunConfig:
    """The config of a run's folder; reward functions that lie in the working folder can then be imported."""
    from raypo.online.evaluation import config_of_run

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    return config_of_run(path)


def preflight(loaded: config.RunConfig, *, samples: bool = True) -> None:
    """Refuse in seconds what would end the run later."""
    from raypo.doctor import checks

    checks.refuse(loaded, Console(stderr=True), samples=samples)


@app.command()
def run(
    path: ConfigFile,
    overrides: Overrides = None,
    fork: Annotated[
        str | None, typer.Option(metavar="NAME", help="A new run that goes on from this one, with a changed config.")
    ] = None,
    accept_pins: AcceptPins = False,
) -> None:
    """Align a policy online; the same command again continues where it stopped."""
    loaded = load(path, overrides)
    with opening("run", path):
        from raypo.online.fork import fork as forked
        from raypo.online.run import run as align
    looked: list[config.RunConfig] = []

    def look(one: config.RunConfig) -> None:
        if not looked:
            preflight(one)
        looked.append(one)

    if fork is not None:
        loaded = forked(loaded, fork, preflight=look)
    align(loaded, accept_pins=accept_pins, preflight=look)


@app.command()
def train(path: ConfigFile, overrides: Overrides = None, accept_pins: AcceptPins = False) -> None:
    """Train offline on sets that have responses and rewards: annotate once, then train."""
    loaded = load(path, overrides)
    with opening("train", path):
        from raypo.online.offline import train_offline
    train_offline(loaded, accept_pins=accept_pins, preflight=partial(preflight, samples=False))


@app.command()
def sample(
    path: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, out_option("Folder for tables and sets.jsonl.")] = Path("samples"),
    policy: Annotated[
        str | None, typer.Option(help="Model folder, such as a run's version. None: policy.path.")
    ] = None,
    split: Annotated[str, typer.Option(help="all, train or heldout prompts.")] = "all",
) -> None:
    """Sample responses, score them where there are rewards, and write sets that `raypo train` takes."""
    loaded = load(path, overrides)
    with opening("sample", path):
        from raypo.online.draw import sample_policy
    preflight(loaded, samples=False)  # it may have no rewards
    sample_policy(loaded, out, policy=policy, split=split)


@app.command()
def tune(path: StudyFile, overrides: StudyOverrides = None) -> None:
    """Search over configs: many trials on shared tables and engines; the same command again continues."""
    find_modules(path)
    with opening("tune", path):
        from raypo.tuning import run as study_run
        from raypo.tuning import study
    study_run.tune_study(study.load(path, overrides or []))


@app.command()
def evaluate(
    path: Annotated[Path, typer.Argument(metavar="CONFIG_OR_RUN", help="YAML file of a run, or a run's folder.")],
    overrides: Overrides = None,
    policy: Annotated[
        list[str] | None,
        typer.Option(metavar="METHOD[:POINT]=FOLDER", help="A policy, points as trained; again: another seed."),
    ] = None,
    out: Annotated[Path | None, out_option("Folder for tables and figures.")] = None,
) -> None:
    """Compare policies with their start on held-out prompts: the best and last of a run, or any folders."""
    is_run = path.is_dir()
    if is_run and overrides:
        raise ConfigError("overrides beside a run's folder", "its own config", "give its config as a YAML file")
    given = None if is_run else load(path, overrides)
    with opening("evaluate", path):
        from raypo.online import evaluation
    settings = given or load_run(path)
    chosen = evaluation.policies_of(policy or []) or evaluation.policies_of_run(settings)
    if out is None and "://" in settings.output:
        raise ConfigError(f"output {settings.output} is no local folder", "one for the figures", "give --out")
    place = out or Path(settings.output) / settings.name / "comparison"
    evaluation.evaluate_policies(settings, chosen, place)


@app.command()
def export(
    folder: Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.")],
    out: Annotated[Path, out_option("Folder to write: it must not exist, or be empty.")],
    version: Annotated[int | None, typer.Option(help="Weight version. None: the best within the KL bound.")] = None,
    dtype: Annotated[str, typer.Option(help="bfloat16, or float32 where the run evaluated in float32.")] = "bfloat16",
    licence: Annotated[str | None, typer.Option(help="Licence of the model, for its card. None: the start's.")] = None,
) -> None:
    """Write a version of a run as a model folder that others can use, with a card that says what it is."""
    with opening("export", folder):
        from raypo.online.export import export as write
    Console().print(write(folder, out, version=version, dtype=dtype, licence=licence), soft_wrap=True, highlight=False)


@app.command()
def plan(
    path: ConfigFile,
    overrides: Overrides = None,
    as_yaml: Annotated[bool, typer.Option("--yaml", help="Print YAML that `raypo run` takes as it is.")] = False,
) -> None:
    """Print a run as it would be: every value with its source, and the memory per device."""
    given = config.apply_overrides(config.read_yaml(path), overrides or [])
    resolved = config.build(given)
    if any(source.weight for source in resolved.rewards):  # without one it is a plan of `raypo train`
        config.refuse_online(resolved)
    from raypo.doctor import resolve
    from raypo.doctor.shown import plan_tables

    values = resolve(resolved, given, overrides or [])
    console = Console()
    if as_yaml:
        console.print(config.as_yaml(resolved), markup=False, highlight=False, soft_wrap=True, end="")
        return
    console.print(*plan_tables(values, resolved))


@app.command()
def doctor(
    path: ConfigFile,
    overrides: Overrides = None,
    sample: Annotated[bool, typer.Option(help="Start Ray and an engine, and score sixteen responses.")] = True,
    audit: Annotated[
        Path | None,
        typer.Option(metavar="SETS", help="Sets whose better responses are known: how often is each reward right?"),
    ] = None,
) -> None:
    """Check a config before its run: files, data, rewards, resources, memory, and a few responses as trained."""
    loaded = load(path, overrides)
    with opening("doctor", path):
        from raypo.doctor.examination import examine
        from raypo.doctor.findings import failed
    if failed(examine(loaded, sampled=sample, console=Console(), audit=audit)):
        raise typer.Exit(2)


@app.command()
def presets(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print the table as Markdown.")] = False,
) -> None:
    """Print the named objectives: their four choices, what they need, their hyperparameters and sources."""
    from raypo.objective.presets import TABLE, hyperparameters
    from raypo.objective.presets import table as presets_table

    defaults = config.HYPERPARAMETER_DEFAULTS
    if markdown:
        typer.echo(presets_table.markdown(defaults))
        return
    console = Console()
    for name, row in TABLE.items():
        told = presets_table.described(name, defaults)
        usual = defaults | dict(row.defaults)
        taken = ", ".join(f"{key} ({usual[key]:g})" for key in hyperparameters(name))
        console.print(Text(name, style="bold"))
        lines = {"": row.meaning} | {key: told[key] for key in ("prior", "contrast", "link", "dispersion", "needs")}
        for title, text in (lines | {"takes": taken, "source": f"arXiv {row.paper}, {row.equation}"}).items():
            if text != "-":
                console.print(Padding(Text(f"{title:<12}{text}" if title else text), (0, 0, 0, 4)))


@app.command()
def quickstart(
    out: Annotated[Path, out_option("Folder for the model, the data and the run.")] = Path("quickstart-run"),
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0,
) -> None:
    """Make a tiny model of a synthetic language and align it: the whole loop on a laptop, in minutes."""
    from raypo.quickstart.demonstration import quickstart as demonstrate

    demonstrate(out, seed)


@app.command()
def study(
    name: Annotated[str | None, typer.Argument(help="Which study. Left out: all are listed.")] = None,
    options: Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="The study's own.")] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Minutes on two cores, with wider intervals.")] = False,
    most: Annotated[int | None, typer.Option(min=2, help="No size above this: a look at it in seconds.")] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of everything random.")] = 0,
    out: Annotated[Path | None, out_option("Folder for its files. None: study-NAME.")] = None,
    markdown: Annotated[bool, typer.Option("--markdown", help="Run nothing: the table of these FOLDERS.")] = False,
) -> None:
    """Test a claim of the papers: a table with intervals and power, figures, and what was found."""
    if markdown:
        from raypo.studies.overview import markdown as table_of

        typer.echo(table_of([Path(one) for one in (name, *(options or [])) if one is not None]))
        return
    from raypo.studies.catalogue import CATALOGUE, entry

    console = Console()
    if name is None:
        for key, one in CATALOGUE.items():
            console.print(Text(key, style="bold"), Padding(Text(f"{one.claim} ({one.source})"), (0, 0, 0, 4)))
            for option, meaning in one.takes.items():
                console.print(Padding(Text(f"{option}=  {meaning}"), (0, 0, 0, 8)))
        return
    entry(name)
    with opening("study", name):
        from raypo.studies import run as studies
    found = studies.study(name, quick=quick, seed=seed, out=out, options=options or [], most=most)
    words = "condition", "measure"  # are folded before a number is cut
    table = Table(*(Column(column, no_wrap=column not in words) for column in studies.COLUMNS), box=None)
    for cells in studies.shown(found):
        table.add_row(*map(Text, cells))
    Console(width=max(console.width, 160)).print(table)  # cut cells would say less than long lines
    console.print(f"{name}: {studies.VERDICTS[found.verdict]}")
    console.print(found.finding, highlight=False, markup=False, soft_wrap=True)


@app.command()
def report(
    folder: Annotated[
        Path, typer.Argument(metavar="RUN_OR_STUDY", help="Folder of a run, a study or a comparison (raypo evaluate).")
    ],
) -> None:
    """Write the page of a run, of a study or of a comparison again, from its folder."""
    if (folder / "evaluate.json").exists():
        with opening("report", folder):
            from raypo.online.comparison_page import write_comparison_page
        page = write_comparison_page(folder)
    elif (folder / "study.json").exists() and not (folder / "result.json").exists():  # a claim's `online` has both
        with opening("report", folder):
            from raypo.tuning.telling import write_page
        page = write_page(folder)
    else:
        with opening("report", folder):
            from raypo.online.summary import rewrite_report
        page = rewrite_report(folder)
    Console().print(page, soft_wrap=True, highlight=False)


def _version(asked: bool) -> None:
    if asked:
        Console().print(f"raypo {__version__}", highlight=False)
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Options before the command."""


_ended: list[int] = []  # exit codes of signals that came


def _terminated(number: int, frame: FrameType | None) -> None:
    """End as safely as SIGKILL does: what is committed is whole at any moment."""
    _ended.append(128 + number)
    reason = signal.Signals(number).name
    Console(stderr=True).print(
        f"raypo: ended by {reason}; what was committed stays, and the same command continues", style="red"
    )
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line; failures end in one message and an exit code: 2 for what the user can mend, else 1."""
    signal.signal(signal.SIGTERM, _terminated)
    if not os.environ.get("RAY_ADDRESS"):
        # Ray reads this once, when it is imported. Without it, under `uv run` every worker would resolve and build an
        # environment of its own; on a cluster that somebody else started the choice is theirs.
        os.environ.setdefault("RAY_ENABLE_UV_RUN_RUNTIME_ENV", "0")
    try:
        app()
    except RaypoError as error:
        if os.environ.get("RAYPO_TRACEBACK"):
            raise
        Console(stderr=True).print(f"raypo: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except SystemExit:
        # within a call of Ray's the exit that a handler asks for becomes one of Ray's own, with another code
        if _ended:
            sys.exit(_ended[0])
        raise
