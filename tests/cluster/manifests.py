"""Reading of cluster/: files, pins of pyproject.toml, and kustomize where it is installed."""

from __future__ import annotations

import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
CLUSTER = ROOT / "cluster"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
OVERLAYS = sorted(path.parent for path in CLUSTER.glob("overlays/*/kustomization.yaml"))
BASES = sorted(path.parent for path in CLUSTER.glob("base/*/kustomization.yaml"))

Tree = dict[str, Any]


def pin(package: str) -> str:
    """The exact version that pyproject.toml asks for."""
    for line in PROJECT["project"]["dependencies"]:
        name, _, version = line.partition("==")
        if name.split("[")[0] == package:
            return str(version)
    raise KeyError(package)


def documents(path: Path) -> list[Tree]:
    """The YAML documents of a file."""
    return [tree for tree in yaml.safe_load_all(path.read_text(encoding="utf-8")) if tree]


@cache
def rendered(folder: Path) -> list[Tree]:
    """What kustomize makes of a folder."""
    if shutil.which("kustomize"):
        command = ["kustomize", "build"]
    elif shutil.which("kubectl"):
        command = ["kubectl", "kustomize"]
    else:
        pytest.skip("neither kustomize nor kubectl is installed: the base files are checked as they are")
    done = subprocess.run([*command, str(folder)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return [tree for tree in yaml.safe_load_all(done.stdout) if tree]


def cluster_spec(tree: Tree) -> Tree:
    """The RayCluster's spec of a RayCluster or a RayJob."""
    spec: Tree = tree["spec"]["rayClusterSpec"] if tree["kind"] == "RayJob" else tree["spec"]
    return spec


def groups(tree: Tree) -> list[Tree]:
    """Head and worker groups of a RayCluster or a RayJob."""
    spec = cluster_spec(tree)
    return [spec["headGroupSpec"], *spec["workerGroupSpecs"]]


def pod_specs(tree: Tree) -> Iterator[Tree]:
    """Every pod spec inside a resource, by its containers."""
    if isinstance(tree, dict):
        if "containers" in tree:
            yield tree
        for value in tree.values():
            yield from pod_specs(value)
    elif isinstance(tree, list):
        for value in tree:
            yield from pod_specs(value)


def cpus(quantity: str) -> float:
    """Kubernetes' CPU quantity in cores: "500m" is 0.5."""
    return float(quantity[:-1]) / 1000 if quantity.endswith("m") else float(quantity)


def gibibytes(quantity: str) -> float:
    """Kubernetes' memory quantity in GiB; raypo's manifests write Mi, Gi or Ti."""
    return float(quantity[:-2]) * {"Mi": 1 / 1024, "Gi": 1, "Ti": 1024}[quantity[-2:]]
