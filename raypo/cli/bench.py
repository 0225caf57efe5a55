"""`raypo bench`: what is heavy is imported inside the commands."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from raypo.cli.arguments import ConfigFile, Overrides, StudyFile, StudyOverrides, load, out_option
from raypo.cli.opening import opening
from raypo.errors import ConfigError

bench = typer.Typer(help="Measure, print a table and write JSON.", no_args_is_help=True)


@bench.command("train")
def bench_train(
    out: Annotated[Path, out_option("Where the JSON goes.")] = Path("bench-train.json"),
    against: Annotated[str | None, typer.Option(help="A peer to run beside: trl.")] = None,
    python: Annotated[str | None, typer.Option(help="Interpreter that has the peer; without it uv makes one.")] = None,
    responses: Annotated[int, typer.Option(min=2, help="K.")] = 8,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 256,
    response: Annotated[int, typer.Option(min=2, help="Tokens of a response.")] = 64,
    steps: Annotated[int, typer.Option(min=4, help="Steps per case and round; the first two are not counted.")] = 8,
    rounds: Annotated[int, typer.Option(min=1, help="Processes per case, taken in turns.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch.")] = 2,
    grid: Annotated[bool, typer.Option(help="Also K = 2 to 64 at three lengths of prompt, and K = 8 to 512.")] = False,
    device: Annotated[str, typer.Option(help="cpu, or cuda: then the step alone, by raypo.bench.device.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="float32, or bfloat16 on cuda.")] = "float32",
    size: Annotated[str, typer.Option(help="Of the model on cuda: 1b, 13m or tiny.")] = "1b",
    budget: Annotated[int, typer.Option(min=1, help="Tokens of a micro-batch on cuda.")] = 16_384,
    peak_tflops: Annotated[float | None, typer.Option(min=1, help="10^12 bf16 operations per second on cuda.")] = None,
) -> None:
    """Measure a training step: prompts shared against separate rows, and against TRL on the same pairs."""
    if device == "cuda":
        sizes = {"responses": responses, "prompt": prompt, "response": response, "steps": steps, "threads": threads}
        peak = None if peak_tflops is None else peak_tflops * 1e12
        given = {"device": device, "dtype": dtype, "size": size, "budget": budget, "peak": peak, **sizes}
        on_device(given, out, alone=not (against or grid or python))
        return
    if (device, dtype) != ("cpu", "float32"):
        raise ConfigError(
            f"--device {device} --dtype {dtype}",
            "cpu with float32, or cuda",
            "on a CPU in another type: python -m raypo.bench.device --device cpu --size tiny",
        )
    if against not in (None, "trl") or (python and not against):
        raise ConfigError(
            f"--against {against} with --python {python}",
            "--against trl, or neither; --python is the interpreter of the peer's environment",
            "leave --python away, and one with trl is made by uv",
        )
    with opening("bench train"):
        from raypo.bench import train as benchmark
    plan = benchmark.Plan(responses, prompt, response, steps, rounds, threads, against, python, grid=grid)
    benchmark.bench_train(plan, out)


def on_device(given: dict[str, Any], out: Path, *, alone: bool) -> None:
    """The step on a GPU; `given` are fields of the benchmark's plan."""
    if not alone:
        raise ConfigError(
            f"--device {given['device']} with --against, --python or --grid", "the step alone, or --device cpu"
        )
    with opening("bench train"):
        from raypo.bench import device as benchmark
    typer.echo(benchmark.told(benchmark.bench_device(benchmark.Plan(**given), out)))


@bench.command("tune")
def bench_tune(
    path: StudyFile,
    overrides: StudyOverrides = None,
    out: Annotated[Path, out_option("Where the JSON goes.")] = Path("bench-tune.json"),
    separate: Annotated[int | None, typer.Option(min=1, help="Separate runs to time. None: one a trial.")] = None,
) -> None:
    """Measure an offline study against as many separate runs of `raypo train` and `raypo evaluate`."""
    with opening("bench tune", path):
        from raypo.bench import tune as benchmark
    benchmark.bench_tune(path, overrides or [], out, separate)


@bench.command("sample")
def bench_sample(
    out: Annotated[Path, out_option("Where the JSON goes.")] = Path("bench-sample.json"),
    prompts: Annotated[int, typer.Option(min=1, help="How many.")] = 32,
    prompt: Annotated[int, typer.Option(min=1, help="Tokens of a prompt.")] = 64,
    responses: Annotated[int, typer.Option(min=1, help="K.")] = 8,
    response: Annotated[int, typer.Option(min=1, help="Tokens of a response.")] = 64,
    repeats: Annotated[int, typer.Option(min=1, help="Timed calls per side, in turns.")] = 6,
    threads: Annotated[int, typer.Option(min=1, help="OpenMP threads of the engine.")] = 2,
) -> None:
    """Measure the sampling stage against vLLM alone, and a sync of new weights against an engine's start."""
    with opening("bench sample"):
        from raypo.bench import sample as benchmark
    benchmark.bench_sample(benchmark.SamplePlan(prompts, prompt, responses, response, repeats, threads), out)


@bench.command("online")
def bench_online(
    path: ConfigFile,
    overrides: Overrides = None,
    out: Annotated[Path, out_option("Where the JSON goes.")] = Path("bench-online.json"),
) -> None:
    """Run a config aside, and say where the time of a round goes and what the loop itself takes."""
    loaded = load(path, overrides)
    with opening("bench online", path):
        from raypo.bench import online as benchmark
    benchmark.bench_online(loaded, out)
