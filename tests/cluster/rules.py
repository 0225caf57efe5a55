"""What KubeRay's operator (1.6 and 1.7) refuses beyond its schema, as plain checks: each returns the faults it found.

From ray-operator/controllers/ray/utils/validation.go, which runs in the operator and not in the API server.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import yaml
from manifests import Tree, cluster_spec, groups, pod_specs

DNS_1035 = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
DNS_1123 = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
LONGEST = {"RayCluster": 53, "RayJob": 47, "RayService": 47, "RayCronJob": 36}
OLD_FAULT_TOLERANCE = {"RAY_REDIS_ADDRESS", "REDIS_PASSWORD", "RAY_external_storage_namespace"}
OF_A_NODE = {"num-cpus", "num-gpus", "memory", "resources"}


def faults(tree: Tree) -> list[str]:
    """Everything that the operator would refuse in a RayJob or RayCluster."""
    found = [*names(tree), *autoscaler(tree), *authentication(tree), *fault_tolerance(tree)]
    for group in groups(tree):
        found += group_faults(group)
    if tree["kind"] == "RayJob":
        found += [*submission(tree["spec"]), *clean_up(tree["spec"]), *suspension(tree["spec"])]
    return found


def names(tree: Tree) -> list[str]:
    """Names that become names of services and labels."""
    name, found = tree["metadata"]["name"], []
    if not DNS_1035.fullmatch(name) or len(name) > LONGEST[tree["kind"]]:
        found.append(f"name {name!r}")
    seen = [group["groupName"] for group in cluster_spec(tree)["workerGroupSpecs"]]
    found += [f"group name {one!r}" for one in seen if not DNS_1123.fullmatch(one)]
    return found + (["two groups of one name"] if len(set(seen)) < len(seen) else [])


def group_faults(group: Tree) -> list[str]:
    """Sizes, start parameters and labels of one group."""
    name, params, found = group.get("groupName", "head"), group["rayStartParams"], []
    found += [f"{name}: rayStartParams.{key} is no string" for key, value in params.items() if type(value) is not str]
    if "labels" in params:
        found.append(f"{name}: labels belong to the group")
    if "resources" in group and OF_A_NODE & params.keys():
        found.append(f"{name}: resources beside rayStartParams")
    if "groupName" in group and not 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]:
        found.append(f"{name}: minReplicas <= replicas <= maxReplicas")
    container = group["template"]["spec"]["containers"][0]
    if not container["name"].startswith("ray-"):
        found.append(f"{name}: Ray's container must be the first")
    return found


def autoscaler(tree: Tree) -> list[str]:
    """What autoscaler v2 needs, and what needs autoscaler v2."""
    spec, found = cluster_spec(tree), []
    if not spec.get("enableInTreeAutoscaling"):
        return ["autoscalerOptions without an autoscaler"] if "autoscalerOptions" in spec else []
    second = spec.get("autoscalerOptions", {}).get("version") == "v2"
    for group in groups(tree):
        if second and group["template"]["spec"].get("restartPolicy", "Never") != "Never":
            found.append(f"{group.get('groupName', 'head')}: autoscaler v2 needs restartPolicy Never")
        if not second and {"idleTimeoutSeconds", "priority"} & group.keys():
            found.append(f"{group['groupName']}: needs autoscaler v2, said explicitly")
        if "RAY_enable_autoscaler_v2" in variables(group):
            found.append("autoscaler v2 asked for twice")
    return found


def authentication(tree: Tree) -> list[str]:
    """Token authentication needs a known Ray of 2.52 or later; Kubernetes' own tokens are not for jobs."""
    spec = cluster_spec(tree)
    options = spec.get("authOptions", {})
    if options.get("mode") != "token":
        return []
    version = tuple(int(part) for part in spec.get("rayVersion", "0.0").split(".")[:2])
    found = [] if version >= (2, 52) else ["token authentication needs rayVersion >= 2.52"]
    return found + (["enableK8sTokenAuth with a RayJob"] if options.get("enableK8sTokenAuth") else [])


def fault_tolerance(tree: Tree) -> list[str]:
    """The older ways to ask for Redis exclude gcsFaultToleranceOptions."""
    spec, found = cluster_spec(tree), []
    if "gcsFaultToleranceOptions" not in spec:
        return []
    if "ray.io/ft-enabled" in tree["metadata"].get("annotations", {}):
        found.append("annotation ray.io/ft-enabled")
    head = spec["headGroupSpec"]
    if "redis-password" in head["rayStartParams"]:
        found.append("rayStartParams.redis-password")
    return found + [f"variable {name}" for name in OLD_FAULT_TOLERANCE & variables(head)]


def variables(group: Tree) -> set[str]:
    """Names in `env` of all containers of a group."""
    return {
        one["name"]
        for spec in pod_specs(group["template"])
        for container in spec["containers"]
        for one in container.get("env", [])
    }


def submission(spec: Tree) -> list[str]:
    """What goes with which way of submission, and retries."""
    mode, found = spec.get("submissionMode", "K8sJobMode"), []
    if mode == "SidecarMode" and {"submitterPodTemplate", "submitterConfig", "clusterSelector"} & spec.keys():
        found.append("SidecarMode with a submitter of its own")
    if spec.get("backoffLimit", 0) and (mode == "InteractiveMode" or "clusterSelector" in spec):
        found.append("backoffLimit on a cluster that is not the job's")
    if spec.get("backoffLimit", 0) < 0:
        found.append("backoffLimit below 0")
    for name in ("activeDeadlineSeconds", "preRunningDeadlineSeconds"):
        if name in spec and spec[name] <= 0:
            found.append(f"{name} must be above 0")
    if not isinstance(yaml.safe_load(spec.get("runtimeEnvYAML", "{}")), dict):
        found.append("runtimeEnvYAML is no mapping")
    return found


def clean_up(spec: Tree) -> list[str]:
    """Deletion rules exclude shutdownAfterJobFinishes; what goes first must not go last."""
    rules, found = spec.get("deletionStrategy", {}).get("deletionRules", []), []
    if spec.get("ttlSecondsAfterFinished", 0) and not spec.get("shutdownAfterJobFinishes"):
        found.append("ttlSecondsAfterFinished without shutdownAfterJobFinishes")
    if {"onSuccess", "onFailure"} & spec.get("deletionStrategy", {}).keys():
        found.append("deprecated deletionStrategy")
    if rules and spec.get("shutdownAfterJobFinishes"):
        found.append("deletionRules with shutdownAfterJobFinishes")
    delays: dict[tuple[str, str], dict[str, int]] = {}
    for rule in rules:
        conditions = {
            name: rule["condition"][name] for name in ("jobStatus", "jobDeploymentStatus") if name in rule["condition"]
        }
        if len(conditions) != 1:
            found.append("a rule has exactly one of jobStatus and jobDeploymentStatus")
            continue
        if rule["policy"] == "DeleteWorkers" and spec["rayClusterSpec"].get("enableInTreeAutoscaling"):
            found.append("DeleteWorkers with the autoscaler")
        known = delays.setdefault(next(iter(conditions.items())), {})
        if rule["policy"] in known:
            found.append("one policy twice for one condition")
        known[rule["policy"]] = rule["condition"].get("ttlSeconds", 0)
    for known in delays.values():
        ordered = [known[name] for name in ("DeleteWorkers", "DeleteCluster", "DeleteSelf") if name in known]
        found += ["a rule comes before what it contains" for first, second in pairwise(ordered) if first > second]
    return found


def suspension(spec: Tree) -> list[str]:
    """A queue starts and stops a job by `suspend`, which removes its cluster."""
    suspended: Any = spec.get("suspend")
    if suspended and not spec.get("shutdownAfterJobFinishes"):
        return ["suspend without shutdownAfterJobFinishes"]
    return ["suspend with clusterSelector"] if suspended and "clusterSelector" in spec else []
