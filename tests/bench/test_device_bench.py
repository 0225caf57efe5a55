"""raypo.bench.device: it runs with torch, transformers and peft alone, and says what is not there."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import call

from raypo.bench import floor, llama, measure
from raypo.config import HYPERPARAMETER_DEFAULTS, TrainingConfig
from raypo.training.settings import Settings

BARE = """
import importlib.metadata as metadata, re, sys
from importlib.machinery import PathFinder
from packaging.requirements import Requirement

def closure(*names):
    found, waiting = set(), list(names)
    while waiting:
        name = re.sub("[-_.]+", "-", waiting.pop()).lower()
        if name in found:
            continue
        try:
            wanted = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        found.add(name)
        asked = map(Requirement, wanted)
        waiting += [one.name for one in asked if one.marker is None or one.marker.evaluate({"extra": ""})]
    return found

kept = closure("torch", "transformers", "peft") | {"raypo"}
refused = {"ray", "vllm", "pydantic", "pyarrow", "pandas", "typer", "rich", "plotly", "sklearn", "scipy", "datasets"}
for module, owners in metadata.packages_distributions().items():
    if not kept & {re.sub("[-_.]+", "-", one).lower() for one in owners}:
        refused.add(module)

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, path=None, target=None):
        return None if name.split(".")[0] in refused else PathFinder.find_spec(name, path, target)

sys.meta_path[sys.meta_path.index(PathFinder)] = Bare
try:
    import pydantic
except ModuleNotFoundError:
    pass
else:
    raise AssertionError("the finder refuses nothing")
"""
"""Lets a process find what torch, transformers and peft ask for, and nothing else that is installed here."""


def bare(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Python with torch, transformers, peft and what they ask for."""
    return subprocess.run([sys.executable, "-c", BARE + code, *arguments], capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A tiny model in bf16 on the CPU: the code that a GPU runs, but for the kernel of attention."""
    out = tmp_path_factory.mktemp("device") / "device.json"
    given = ["--device", "cpu", "--size", "tiny", "--responses", "3", "--prompt", "12", "--response", "6"]
    given += ["--sets", "4", "--budget", "64", "--steps", "2", "--threads", "1", "--peak-tflops", "0.5"]
    done = bare("import sys; from raypo.bench import device; sys.exit(device.main())", "--out", str(out), *given)
    assert done.returncode == 0, done.stderr
    assert "log-ratios at policy == reference" in done.stdout
    read: dict[str, Any] = json.loads(out.read_text(encoding="utf-8"))
    return read


def test_a_step_runs_with_torch_transformers_and_peft_alone(found: dict[str, Any]) -> None:
    assert [one["case"] for one in found["cases"]] == ["K=3, shared", "K=3, none"]
    assert found["plan"]["peak"] == 0.5e12
    assert {"torch", "transformers", "peft"} <= set(found["environment"]["versions"])
    for one in found["cases"]:
        assert 0 < one["min"] <= one["mean"] <= one["max"]
        assert one["peak GB"] > 0


def test_gradients_are_compared_in_both_layouts_and_types(found: dict[str, Any]) -> None:
    """fp32 agrees to some 1e-6; bf16 rounds to 8 bits, so it is above that."""
    distances = {one["case"]: one["distance"] for one in found["gradients"]}
    assert list(distances) == ["float32, none", "float32, shared", "bfloat16, none", "bfloat16, shared"]
    assert distances["float32, none"] == 0.0
    assert distances["float32, shared"] < 1e-5
    assert 1e-4 < distances["bfloat16, shared"] < 0.1
    ratios = {one["reference"]: one for one in found["log-ratios at policy == reference"]}
    assert list(ratios) == ["each set alone", "separate rows", "packed, fp32"]
    assert 0 < ratios["packed, fp32"]["median"] <= ratios["packed, fp32"]["largest"] < 1


def test_rates_follow_from_the_seconds(found: dict[str, Any]) -> None:
    """4 sets of 3 x (12 + 6) = 216 tokens; computed 4 x (12 + 3 x 5) = 108 shared, 216 as rows.

    Operations of a set, shared, of hidden 64, MLP 128, 2 layers, 4 heads and 2 of keys: weights 2 x (2 x 64^2 + 2 x 64
    x 32 + 3 x 64 x 128) = 73,728, tokens 27, pairs 78 + 3 x (15 + 60) = 303, head 6 x 18 x 64 x 512 = 3,538,944:
    6 x 73,728 x 27 + 12 x 2 x 64 x 303 + 3,538,944 = 15,948,288; over 0.5e12 a second, of four sets.
    """
    shared, rows = found["cases"]
    for one, computed in ((shared, 108), (rows, 216)):
        assert one["tokens/s"] == pytest.approx(216 / one["mean"])
        assert one["computed tokens/s"] == pytest.approx(computed / one["mean"])
    assert shared["MFU"] == pytest.approx(4 * 15_948_288 / shared["mean"] / 0.5e12)


def test_a_device_is_known_by_whole_words_of_its_name() -> None:
    """An L40 is no L4, an A10G no A10 and an RTX A1000 no A100; an H100 by PCIe is slower than others."""
    assert floor.peak_of("NVIDIA H100 PCIe") == 756e12
    assert floor.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert floor.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert floor.peak_of("NVIDIA L4") == 121e12
    assert [floor.peak_of(f"NVIDIA {name}") for name in ("L40", "A10G", "RTX A1000", "GeForce")] == [None] * 4


def test_a_machine_without_git_knows_no_commit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert measure.environment(1)["commit"] == "unknown"


def test_what_is_computed_again_counts_towards_no_mfu() -> None:
    """13 M parameters, K = 20 of 64 tokens: 14 to 12 per pair, and a first chunk of 1,024 positions of the head."""
    again, once = (floor.flops(20, 1, 64, shared=True, again=again) for again in (True, False))
    pairs = 1 + 20 * (63 * 64 / 2 + 63)
    assert again - once == 2 * 6 * 384 * pairs + 2 * 1024 * 384 * 8192


def test_the_peak_of_a_device_is_that_of_its_name() -> None:
    assert floor.peak_of("NVIDIA H100 80GB HBM3") == 989e12
    assert floor.peak_of("NVIDIA H100 PCIe") == 756e12
    assert floor.peak_of("NVIDIA A100-SXM4-80GB") == 312e12
    assert floor.peak_of("NVIDIA A10") == 125e12
    assert floor.peak_of("AMD EPYC") is None


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is not there")
def test_without_a_gpu_it_says_so(tmp_path: Path) -> None:
    done = bare(
        "import sys; from raypo.bench import device; sys.exit(device.main())", "--out", str(tmp_path / "x.json")
    )
    assert done.returncode == 2
    assert done.stderr.startswith("no GPU: torch")
    assert "--device cpu --size tiny" in done.stderr
    assert not (tmp_path / "x.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="says what is not there")
@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--device", "cuda", "--dtype", "bfloat16"], "no GPU: torch"),
        (["--device", "cuda", "--size", "70b"], "--size 70b"),
        (["--device", "cuda", "--grid"], "--device cuda with --against, --python or --grid"),
        (["--dtype", "bfloat16"], "--device cpu --dtype bfloat16"),
    ],
)
def test_the_command_line_takes_the_same_way(
    given: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, error = call(monkeypatch, capsys, "bench", "train", *given)
    assert code == 2
    assert said in error


def test_settings_are_those_of_the_config() -> None:
    """Without pydantic a step has the same defaults, and the objective the same hyperparameters."""
    config = TrainingConfig()
    assert {name: getattr(config, name) for name in vars(Settings())} == vars(Settings())
    assert (HYPERPARAMETER_DEFAULTS["alpha"], HYPERPARAMETER_DEFAULTS["beta"]) == (1.0, 0.1)


def test_the_table_of_a_1b_model() -> None:
    """Llama 3.2's: 16 x (2 x 2048^2 + 2 x 2048 x 512 + 3 x 2048 x 8192) = 973,078,528; of the head 128,256 x 2,048."""
    assert llama.SIZES["1b"].weights == 973_078_528
    assert llama.SIZES["1b"].vocabulary * llama.SIZES["1b"].hidden == 262_668_288
