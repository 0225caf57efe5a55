"""The rules themselves: each refuses what the operator refuses, so that a passing manifest says something."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import rules
from manifests import CLUSTER, Tree, documents

JOB = documents(CLUSTER / "base/job/rayjob.yaml")[0]
STANDING = documents(CLUSTER / "base/standing/raycluster.yaml")[0]


def worker(tree: Tree) -> Tree:
    """The first worker group of a job."""
    group: Tree = tree["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    return group


def rule(policy: str, seconds: int, **condition: str) -> Tree:
    """A deletion rule."""
    return {"policy": policy, "condition": condition | {"ttlSeconds": seconds}}


def replaced(rule_list: list[Tree]) -> Callable[[Tree], None]:
    """A change of a job: these deletion rules instead of its own."""

    def change(job: Tree) -> None:
        job["spec"]["deletionStrategy"] = {"deletionRules": rule_list}

    return change


def without_autoscaler(job: Tree) -> None:
    """Leave the autoscaler's options behind."""
    job["spec"]["rayClusterSpec"]["enableInTreeAutoscaling"] = False


CASES: dict[str, tuple[Callable[[Tree], object], str]] = {
    "long name": (lambda job: job["metadata"].update(name="a" * 48), "name"),
    "name that begins with a digit": (lambda job: job["metadata"].update(name="1st"), "name"),
    "group name in capitals": (lambda job: worker(job).update(groupName="GPU"), "group name"),
    "two groups of one name": (lambda job: worker(job).update(groupName="trainer"), "two groups"),
    "number as start parameter": (lambda job: worker(job).update(rayStartParams={"num-cpus": 0}), "no string"),
    "labels as start parameter": (lambda job: worker(job).update(rayStartParams={"labels": "a=b"}), "labels belong"),
    "resources twice": (
        lambda job: worker(job).update(rayStartParams={"num-gpus": "1"}, resources={"GPU": "1"}),
        "resources beside",
    ),
    "more than the most": (lambda job: worker(job).update(replicas=9), "maxReplicas"),
    "sidecar first": (
        lambda job: worker(job)["template"]["spec"]["containers"].insert(0, {"name": "logs"}),
        "must be the first",
    ),
    "workers that restart": (lambda job: worker(job)["template"]["spec"].update(restartPolicy="Always"), "Never"),
    "options without autoscaler": (without_autoscaler, "without an autoscaler"),
    "implicit autoscaler": (
        lambda job: (
            job["spec"]["rayClusterSpec"]["autoscalerOptions"].pop("version"),
            worker(job).update(idleTimeoutSeconds=9),
        ),
        "said explicitly",
    ),
    "old Ray with tokens": (lambda job: job["spec"]["rayClusterSpec"].update(rayVersion="2.51.1"), "2.52"),
    "no Ray version with tokens": (lambda job: job["spec"]["rayClusterSpec"].pop("rayVersion"), "2.52"),
    "Kubernetes' tokens": (
        lambda job: job["spec"]["rayClusterSpec"]["authOptions"].update(enableK8sTokenAuth=True),
        "enableK8sTokenAuth",
    ),
    "sidecar with submitter": (lambda job: job["spec"].update(submissionMode="SidecarMode"), "SidecarMode"),
    "retries of somebody's cluster": (
        lambda job: job["spec"].update(clusterSelector={"ray.io/cluster": "x"}),
        "not the job's",
    ),
    "negative retries": (lambda job: job["spec"].update(backoffLimit=-1), "below 0"),
    "no time at all": (lambda job: job["spec"].update(activeDeadlineSeconds=0), "above 0"),
    "environment that is a list": (lambda job: job["spec"].update(runtimeEnvYAML="- pip"), "no mapping"),
    "delay without shutdown": (lambda job: job["spec"].update(ttlSecondsAfterFinished=5), "ttlSecondsAfterFinished"),
    "rules and shutdown": (lambda job: job["spec"].update(shutdownAfterJobFinishes=True), "deletionRules with"),
    "older strategy": (
        lambda job: job["spec"].update(deletionStrategy={"onSuccess": {"policy": "DeleteCluster"}}),
        "deprecated",
    ),
    "rule with two conditions": (
        replaced([rule("DeleteCluster", 1, jobStatus="FAILED", jobDeploymentStatus="Failed")]),
        "exactly one",
    ),
    "rule with none": (replaced([rule("DeleteCluster", 1)]), "exactly one"),
    "workers under the autoscaler": (replaced([rule("DeleteWorkers", 1, jobStatus="FAILED")]), "DeleteWorkers"),
    "one rule twice": (replaced([rule("DeleteSelf", n, jobStatus="FAILED") for n in (1, 2)]), "twice"),
    "rules out of order": (
        replaced([rule("DeleteCluster", 9, jobStatus="FAILED"), rule("DeleteSelf", 5, jobStatus="FAILED")]),
        "comes before",
    ),
    "suspended without shutdown": (lambda job: job["spec"].update(suspend=True), "suspend"),
}


@pytest.mark.parametrize("case", CASES)
def test_what_the_operator_refuses_is_found(case: str) -> None:
    """The base job has no fault; one change makes exactly the one that is named."""
    change, expected = CASES[case]
    job = copy.deepcopy(JOB)
    assert rules.faults(job) == []
    change(job)
    found = rules.faults(job)
    assert any(expected in fault for fault in found), found


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda tree: tree["metadata"].update(annotations={"ray.io/ft-enabled": "true"}), "ft-enabled"),
        (
            lambda tree: tree["spec"]["headGroupSpec"]["rayStartParams"].update({"redis-password": "x"}),
            "redis-password",
        ),
        (
            lambda tree: tree["spec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["env"].append(
                {"name": "RAY_REDIS_ADDRESS", "value": "x"}
            ),
            "RAY_REDIS_ADDRESS",
        ),
    ],
)
def test_older_ways_to_ask_for_redis_are_found(change: Callable[[Tree], object], expected: str) -> None:
    standing = copy.deepcopy(STANDING)
    standing["spec"]["gcsFaultToleranceOptions"] = {"redisAddress": "redis://x:6379"}
    assert rules.faults(standing) == []
    change(standing)
    assert any(expected in fault for fault in rules.faults(standing))
