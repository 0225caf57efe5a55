"""cluster/: what the operator takes, versions in step with the project's, a run that fits its machines."""

from __future__ import annotations

import copy
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rules
import yaml
from manifests import (
    BASES,
    CLUSTER,
    OVERLAYS,
    PROJECT,
    ROOT,
    Tree,
    cluster_spec,
    cpus,
    documents,
    gibibytes,
    groups,
    pin,
    pod_specs,
    rendered,
)

from raypo.config import RunConfig, build, load, refuse_online
from raypo.scoring.function import import_function
from raypo.stages.cluster import Asked

JOB = documents(CLUSTER / "base/job/rayjob.yaml")[0]
STANDING = documents(CLUSTER / "base/standing/raycluster.yaml")[0]
RUN = CLUSTER / "base/ground/run.yaml"
TAG = f"{PROJECT['project']['version']}-ray{pin('ray')}"
FILES = sorted(CLUSTER.rglob("*.yaml"))


def named(path: Path) -> str:
    return str(path.relative_to(CLUSTER))


# --- the files as they are: always


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_is_plain_yaml_without_a_key_given_twice(path: Path) -> None:
    class Loader(yaml.SafeLoader):
        """Refuses what the last key would hide."""

    def mapping(loader: yaml.SafeLoader, node: yaml.MappingNode) -> Tree:
        keys = [loader.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), f"{named(path)}:{node.start_mark.line + 1}: {keys}"
        return {loader.construct_object(key): loader.construct_object(value, deep=True) for key, value in node.value}

    Loader.add_constructor(yaml.resolver.BaseResolver.DEFAULT_MAPPING_TAG, mapping)
    assert list(yaml.load_all(path.read_text(encoding="utf-8"), Loader=Loader))


@pytest.mark.parametrize("tree", [JOB, STANDING], ids=lambda tree: tree["kind"])
def test_the_operator_finds_no_fault_in_a_base(tree: Tree) -> None:
    assert rules.faults(tree) == []


@pytest.mark.parametrize("path", FILES, ids=named)
def test_every_file_that_a_kustomization_names_is_there_and_every_file_is_named(path: Path) -> None:
    """A patch that nobody names does nothing, without a word."""
    named_by = {RUN.parent / "environment.env"}
    for kustomization in CLUSTER.rglob("kustomization.yaml"):
        for name in names_in(documents(kustomization)[0]):
            place = (kustomization.parent / name).resolve()
            assert place.exists(), f"{named(kustomization)} names {name}"
            named_by.add(place)
    by_hand = {CLUSTER / "components/kueue/queue.yaml"}
    if path.name != "kustomization.yaml":
        assert path in named_by | by_hand
    elif "overlays" not in path.parts and path.parent not in BASES:
        assert path.parent in named_by


def names_in(kustomization: Tree) -> Iterator[str]:
    """Every path in a kustomization."""
    yield from kustomization.get("resources", [])
    yield from kustomization.get("components", [])
    yield from (patch["path"] for patch in kustomization.get("patches", []) if "path" in patch)
    for generator in kustomization.get("configMapGenerator", []):
        yield from (name.rpartition("=")[2] for name in [*generator.get("files", []), *generator.get("envs", [])])


def test_the_standing_cluster_is_the_jobs_cluster() -> None:
    """But for the least size of its groups, which stay whether there is work or not."""
    job, standing = cluster_spec(JOB), copy.deepcopy(cluster_spec(STANDING))
    for group in standing["workerGroupSpecs"]:
        assert group["minReplicas"] == group["replicas"]
    least = [group["minReplicas"] for group in job["workerGroupSpecs"]]
    for group, count in zip(standing["workerGroupSpecs"], least, strict=True):
        group["minReplicas"] = count
    assert standing == job


@pytest.mark.parametrize("cloud", ["gke", "eks"])
def test_a_cloud_asks_the_same_of_a_job_and_of_a_standing_cluster(cloud: str) -> None:
    """The two patches differ in where the cluster's spec lies."""
    job, standing = ((CLUSTER / "components" / cloud / name).read_text() for name in ("rayjob.yaml", "raycluster.yaml"))
    assert job.replace("/spec/rayClusterSpec/", "/spec/") == standing


# --- versions


def test_ray_and_image_are_those_of_the_project() -> None:
    """rayVersion is pyproject's pin; the image's tag says raypo's version and Ray's."""
    for tree in (JOB, STANDING):
        assert cluster_spec(tree)["rayVersion"] == pin("ray")
        images = {container["image"] for spec in pod_specs(tree) for container in spec["containers"]}
        assert images == {f"registry.example.com/raypo:{TAG}"}
    assert TAG in (CLUSTER / "Dockerfile").read_text(encoding="utf-8")
    [image] = documents(CLUSTER / "overlays/kind/kustomization.yaml")[0]["images"]
    assert (image["name"], image["newTag"]) == ("registry.example.com/raypo", f"{TAG}-cpu")


def test_every_image_is_pinned() -> None:
    """By a version, never by latest."""
    found = []
    for path in FILES:
        found += re.findall(r"^\s*(?:- )?image: (\S+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert len(found) > 6
    assert [
        image for image in found if not re.search(r":\d+\.\d+\.\d+(-[\w.-]+)?(@sha256:[0-9a-f]{64})?$", image)
    ] == []


# --- the image


def steps() -> dict[str, list[str]]:
    """The Dockerfile's instructions, continued lines joined, comments left out."""
    text = re.sub(r"^\s*#.*\n", "", (CLUSTER / "Dockerfile").read_text(encoding="utf-8"), flags=re.MULTILINE)
    found: dict[str, list[str]] = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line.strip():
            name, _, rest = line.strip().partition(" ")
            found.setdefault(name, []).append(" ".join(rest.split()))
    return found


def test_the_image_is_pinned_and_runs_as_nobody_special() -> None:
    """Python of a minor version that pyproject.toml allows, uv by its version; a numeric user, the manifests' one."""
    found = steps()
    arguments = dict(line.split("=", 1) for line in found["ARG"])
    assert found["FROM"] == ["${PYTHON_IMAGE}"]
    version = re.fullmatch(r"python:(3\.\d+)\.\d+-slim-bookworm", arguments["PYTHON_IMAGE"])
    assert version
    assert version[1] == PROJECT["project"]["requires-python"].split(",")[0].removeprefix(">=")
    assert arguments["EXTRA"] in PROJECT["project"]["optional-dependencies"]
    assert [line for line in found["RUN"] if "pip install" in line and not re.search(r" \w+==[\d.]+$", line)] == []
    assert found["USER"] == ["1000:1000"]
    users = {
        (spec["securityContext"]["runAsUser"], spec["securityContext"]["runAsGroup"])
        for tree in (JOB, STANDING)
        for spec in pod_specs(tree)
    }
    assert users == {(1000, 1000)}


def test_the_image_is_built_from_files_that_are_there_and_let_in() -> None:
    """.dockerignore lets in what COPY names, and nothing else."""
    copied = [name for line in steps()["COPY"] for name in line.split()[:-1]]
    assert [name for name in copied if not (ROOT / name).exists()] == []
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    assert ignored[0] == "*"
    assert {line.removeprefix("!") for line in ignored if line.startswith("!")} == set(copied)


# --- entrypoints and the run


def test_every_entrypoint_names_a_job_of_the_image_and_a_file_of_the_run() -> None:
    """`python /opt/raypo/jobs/x.py /etc/raypo/y`: the image's folder, and a key of the ConfigMap mounted there."""
    workdir = steps()["WORKDIR"][0]
    kustomization = documents(RUN.parent / "kustomization.yaml")[0]
    keys = {name for one in kustomization["configMapGenerator"] for name in one.get("files", [])}
    program, script, config = JOB["spec"]["entrypoint"].split()
    assert program == "python"
    assert (ROOT / Path(script).relative_to(workdir)).is_file()
    for group in groups(JOB):
        mounts = {one["name"]: one["mountPath"] for one in group["template"]["spec"]["containers"][0]["volumeMounts"]}
        assert str(Path(config).parent) == mounts["run"]
    assert Path(config).name in keys


def test_no_secret_is_in_a_command_or_a_runtime_environment() -> None:
    """Both are stored in the resource and shown by the dashboard."""
    for tree in (JOB, STANDING):
        assert "runtimeEnvYAML" not in tree["spec"]
    assert not re.search(r"token|key|password|secret", JOB["spec"]["entrypoint"], re.IGNORECASE)
    environment = (RUN.parent / "environment.env").read_text(encoding="utf-8")
    assert not re.search(r"(TOKEN|KEY|PASSWORD|SECRET)=", environment)


@pytest.fixture
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    """/etc/raypo is on PYTHONPATH in every pod."""
    monkeypatch.syspath_prepend(str(RUN.parent))
    monkeypatch.delitem(sys.modules, "rewards", raising=False)


@pytest.mark.usefixtures("importable")
@pytest.mark.parametrize("path", [RUN, CLUSTER / "overlays/kind/run.yaml"], ids=named)
def test_the_run_is_one_that_raypo_takes(path: Path) -> None:
    """Its rewards can be imported and answer; its tables lie on the shared volume."""
    config = load(path)
    refuse_online(config)
    for source in config.rewards:
        function = import_function(source.path)
        assert function(["p", "p"], ["Yes.", "well " * 50], [{}, {}]) == [1 - 1 / 100, -50 / 100]
    assert config.output.startswith("/mnt/raypo/")
    environment = dict(line.split("=", 1) for line in (RUN.parent / "environment.env").read_text().splitlines())
    assert environment["HF_HOME"].startswith("/mnt/raypo/")
    assert environment["PYTHONPATH"] == "/etc/raypo"


def test_the_run_fits_the_machines_group_by_group() -> None:
    """raypo refuses a run that asks for more than is there, and it does not wait for the autoscaler.

    Samplers: 2 engines + 1 reference = 3 GPUs in 3 pods of 1. Trainers: 2 workers of 1 GPU in one pod of 2.
    """
    config = load(RUN)
    check_fits(config, JOB, on_gpu=True)
    places = {group["groupName"]: group for group in cluster_spec(JOB)["workerGroupSpecs"]}
    sampling = config.engine.count * config.engine.tensor_parallel + config.annotation.replicas * config.annotation.gpus
    assert (
        [devices(places["sampler"])[1], devices(places["trainer"])[1]] == [sampling, config.training.workers] == [3, 2]
    )
    for field, group in (("engine", "sampler"), ("scorer", "sampler"), ("trainer", "trainer")):
        wanted = getattr(config.cluster, f"{field}_labels")
        assert wanted.items() <= places[group]["labels"].items()


def check_fits(config: RunConfig, tree: Tree, *, on_gpu: bool) -> None:
    """All that the run asks for is there when the job starts."""
    asked = Asked.by(config, on_gpu=on_gpu)
    have = [devices(group) for group in cluster_spec(tree)["workerGroupSpecs"]]
    assert asked.cpus <= sum(one[0] for one in have)
    assert asked.gpus <= sum(one[1] for one in have)


def devices(group: Tree) -> tuple[float, float]:
    """Logical CPUs and GPUs that a group gives Ray at its first size."""
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    logical = float(group["rayStartParams"].get("num-cpus", cpus(limits["cpu"])))
    return group["replicas"] * logical, group["replicas"] * float(limits.get("nvidia.com/gpu", 0))


# --- what a job that cannot lose work needs, base and overlays alike


def test_the_head_keeps_out_of_the_work_and_off_spot_machines() -> None:
    for tree in (JOB, STANDING):
        head = groups(tree)[0]
        assert head["rayStartParams"] == {"num-cpus": "0"}
        assert head["labels"]["ray.io/market-type"] == "on-demand"
        assert head["serviceType"] == "ClusterIP"


def test_spot_machines_are_given_time_to_end_and_early_ones_to_wait() -> None:
    """A group that may shrink to nothing is not shrunk while the job waits for its last machine."""
    for group in cluster_spec(JOB)["workerGroupSpecs"]:
        assert group["template"]["spec"]["terminationGracePeriodSeconds"] >= 60
    assert {group["labels"]["ray.io/market-type"] for group in groups(JOB)} == {"spot", "on-demand"}
    idle = cluster_spec(JOB)["autoscalerOptions"]["idleTimeoutSeconds"]
    assert idle >= JOB["spec"]["preRunningDeadlineSeconds"]


def test_a_job_is_tried_again_and_cleaned_up_after() -> None:
    spec = JOB["spec"]
    assert spec["backoffLimit"] > 0
    assert spec["activeDeadlineSeconds"] > spec["preRunningDeadlineSeconds"] > 0
    conditions = [next(iter(rule["condition"].values())) for rule in spec["deletionStrategy"]["deletionRules"]]
    assert sorted(conditions) == ["FAILED", "Failed", "SUCCEEDED"]
    assert "entrypointNumCpus" not in spec  # the head has none, and the driver would wait for them


def restricted(tree: Tree) -> list[str]:
    """What the Pod Security Standard `restricted` would refuse in a resource."""
    found = []
    for spec in pod_specs(tree):
        pod = spec["securityContext"]
        if not pod.get("runAsNonRoot") or pod.get("seccompProfile") != {"type": "RuntimeDefault"}:
            found.append("pod")
        for container in spec["containers"]:
            one = container["securityContext"]
            if one.get("allowPrivilegeEscalation") is not False or one.get("capabilities") != {"drop": ["ALL"]}:
                found.append(container["name"])
        known = {"persistentVolumeClaim", "configMap", "emptyDir", "secret", "name"}
        found += [str(volume) for volume in spec.get("volumes", []) if set(volume) - known]
    return found


def check_pods(tree: Tree) -> None:
    """Restricted, sized, and without a token of the Kubernetes API where none is needed."""
    assert restricted(tree) == []
    for spec in pod_specs(tree):
        head = spec["containers"][0]["name"] == "ray-head"  # KubeRay makes its account, for the autoscaler
        assert head or spec["automountServiceAccountToken"] is False
        for container in spec["containers"]:
            assert {"cpu", "memory"} <= container["resources"]["requests"].keys()  # Kueue counts them
            assert {"cpu", "memory"} <= container["resources"]["limits"].keys()
            limits, requests = container["resources"]["limits"], container["resources"]["requests"]
            assert limits.get("nvidia.com/gpu") == requests.get("nvidia.com/gpu")
            for variable in container.get("env", []):
                assert "value" not in variable, f"{variable['name']} is written out"


@pytest.mark.parametrize("tree", [JOB, STANDING], ids=lambda tree: tree["kind"])
def test_pods_are_restricted_and_sized(tree: Tree) -> None:
    check_pods(tree)
    if cluster_spec(tree).get("enableInTreeAutoscaling"):
        context = cluster_spec(tree)["autoscalerOptions"]["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})


def test_every_ray_port_of_a_container_has_the_name_that_kuberay_knows() -> None:
    known = {"gcs-server": 6379, "dashboard": 8265, "client": 10001, "metrics": 8080}
    ports = groups(JOB)[0]["template"]["spec"]["containers"][0]["ports"]
    assert known.items() <= {one["name"]: one["containerPort"] for one in ports}.items()


def test_nothing_comes_in_but_from_the_pods_the_operator_and_prometheus() -> None:
    """Everything is denied first; only Ray's own pods may use every port; no rule is open to everyone."""
    policies = {tree["metadata"]["name"]: tree["spec"] for tree in documents(CLUSTER / "base/ground/network.yaml")}
    assert policies["raypo-deny"] == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    ours = {"podSelector": {"matchLabels": {"app.kubernetes.io/part-of": "raypo"}}}
    assert policies["raypo-ray"]["podSelector"] == ours["podSelector"]
    for rule in policies["raypo-ray"]["ingress"]:
        assert rule["from"] == [ours] or {port["port"] for port in rule["ports"]} <= {8265, 8080, 44217, 44227}
    assert any({port["port"] for port in rule.get("ports", [])} == {53} for rule in policies["raypo-ray"]["egress"])
    for tree in (JOB, STANDING):
        for group in groups(tree):
            assert group["template"]["metadata"]["labels"]["app.kubernetes.io/part-of"] == "raypo"
    submitter = JOB["spec"]["submitterPodTemplate"]["metadata"]["labels"]
    assert submitter["app.kubernetes.io/part-of"] == "raypo"


def test_the_queue_holds_the_whole_job() -> None:
    """Quota against the sum of the requests: head 4, samplers 3 x 8, trainer 16, submitter 0.2 CPUs."""
    [queue] = [tree for tree in documents(CLUSTER / "components/kueue/queue.yaml") if tree["kind"] == "ClusterQueue"]
    [flavor] = queue["spec"]["resourceGroups"][0]["flavors"]
    quota = {one["name"]: one["nominalQuota"] for one in flavor["resources"]}
    sizes = [(group.get("replicas", 1), group["template"]["spec"]) for group in groups(JOB)]
    sizes.append((1, JOB["spec"]["submitterPodTemplate"]["spec"]))
    asked = [(count, spec["containers"][0]["resources"]["requests"]) for count, spec in sizes]
    assert sum(count * cpus(one["cpu"]) for count, one in asked) == pytest.approx(44.2)
    assert cpus(quota["cpu"]) >= 44.2
    assert gibibytes(quota["memory"]) >= sum(count * gibibytes(one["memory"]) for count, one in asked)
    assert int(quota["nvidia.com/gpu"]) == sum(count * int(one.get("nvidia.com/gpu", 0)) for count, one in asked) == 5


# --- as kustomize renders them


def custom(trees: list[Tree]) -> Tree:
    """The one RayJob or RayCluster."""
    [found] = [tree for tree in trees if tree["apiVersion"] == "ray.io/v1"]
    return found


@pytest.mark.parametrize("folder", [*OVERLAYS, *BASES], ids=named)
def test_what_is_rendered_is_what_the_operator_takes(folder: Path) -> None:
    """The same checks as on the base files, after the patches; all of it in one namespace."""
    trees = rendered(folder)
    for tree in trees:
        if tree["kind"] not in ("Namespace", "PersistentVolume"):
            assert tree["metadata"]["namespace"] == "raypo", tree["metadata"]
        check_pods(tree)
    if folder.name == "ground":
        return
    tree = custom(trees)
    assert rules.faults(tree) == []
    assert cluster_spec(tree)["rayVersion"] == pin("ray")
    tags = {container["image"].partition(":")[2] for spec in pod_specs(tree) for container in spec["containers"]}
    assert tags == {f"{TAG}-cpu" if folder.name == "kind" else TAG}
    [run] = [tree for tree in trees if tree["kind"] == "ConfigMap" and tree["metadata"]["name"] == "raypo-run"]
    config = build(yaml.safe_load(run["data"]["run.yaml"]))
    check_fits(config, tree, on_gpu=config.engine.backend != "cpu")
    claims = {one["metadata"]["name"] for one in trees if one["kind"] == "PersistentVolumeClaim"}
    maps = {one["metadata"]["name"] for one in trees if one["kind"] == "ConfigMap"}
    for spec in pod_specs(tree):
        for volume in spec.get("volumes", []):
            assert volume.get("persistentVolumeClaim", {}).get("claimName", "raypo-storage") in claims
            assert volume.get("configMap", {}).get("name", "raypo-run") in maps


def test_kueue_gets_a_job_that_it_can_start_and_stop() -> None:
    """Kueue's limits: suspended, shut down after it ends, no autoscaler, at most 7 groups, a queue."""
    job = custom(rendered(CLUSTER / "overlays/kueue"))
    spec = job["spec"]
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "raypo"
    assert (spec["suspend"], spec["shutdownAfterJobFinishes"]) == (True, True)
    assert cluster_spec(job)["enableInTreeAutoscaling"] is False
    assert not {"deletionStrategy", "preRunningDeadlineSeconds", "clusterSelector"} & spec.keys()
    assert len(cluster_spec(job)["workerGroupSpecs"]) <= 7


@pytest.mark.parametrize(
    ("cloud", "spot"), [("gke", "cloud.google.com/gke-spot"), ("eks", "karpenter.sh/capacity-type")]
)
def test_a_cloud_names_machines_for_each_group(cloud: str, spot: str) -> None:
    """Samplers on spot, trainers not; both say which accelerator they are."""
    sampler, trainer = cluster_spec(custom(rendered(CLUSTER / "overlays" / cloud)))["workerGroupSpecs"]
    assert sampler["template"]["spec"]["nodeSelector"][spot] in ("true", "spot")
    assert trainer["template"]["spec"]["nodeSelector"].get(spot) in (None, "on-demand")
    assert sampler["labels"].keys() >= {"ray.io/accelerator-type", "ray.io/market-type", "raypo-role"}
    assert trainer["labels"].keys() >= {"ray.io/accelerator-type", "ray.io/market-type", "raypo-role"}


@pytest.mark.parametrize("base", ["job", "standing"])
@pytest.mark.parametrize("cloud", ["gke", "eks"])
def test_the_head_is_never_on_a_spot_machine(cloud: str, base: str, tmp_path: Path) -> None:
    """It holds the driver; its label says on-demand, which chooses no machine."""
    shutil.copytree(CLUSTER, tmp_path / "cluster")
    mine = tmp_path / "cluster/overlays/mine"
    mine.mkdir()
    text = f"resources: [../../base/{base}]\ncomponents: [../../components/{cloud}]\n"
    (mine / "kustomization.yaml").write_text(text, encoding="utf-8")
    pod = cluster_spec(custom(rendered(mine)))["headGroupSpec"]["template"]
    if cloud == "eks":
        assert pod["spec"]["nodeSelector"] == {"karpenter.sh/capacity-type": "on-demand"}
        assert pod["metadata"]["annotations"] == {"karpenter.sh/do-not-disrupt": "true"}
    else:
        [term] = pod["spec"]["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
            "nodeSelectorTerms"
        ]
        assert term == {"matchExpressions": [{"key": "cloud.google.com/gke-spot", "operator": "DoesNotExist"}]}


def test_the_standing_cluster_keeps_its_state_in_redis() -> None:
    """Redis appends to a volume, and Ray reaches it under the service's name."""
    trees = rendered(CLUSTER / "overlays/standing")
    options = cluster_spec(custom(trees))["gcsFaultToleranceOptions"]
    [service] = [tree for tree in trees if tree["kind"] == "Service"]
    assert options["redisAddress"] == f"redis://{service['metadata']['name']}:{service['spec']['ports'][0]['port']}"
    [redis] = [tree for tree in trees if tree["kind"] == "StatefulSet"]
    [container] = redis["spec"]["template"]["spec"]["containers"]
    assert "--appendonly yes" in container["command"][-1]
    assert container["volumeMounts"] == [{"name": "data", "mountPath": "/data"}]
    assert options["redisPassword"]["valueFrom"] == container["env"][0]["valueFrom"]


def test_a_volume_of_ones_own_is_bound_to_the_claim() -> None:
    trees = rendered(CLUSTER / "overlays/nfs")
    [volume] = [tree for tree in trees if tree["kind"] == "PersistentVolume"]
    [claim] = [tree for tree in trees if tree["kind"] == "PersistentVolumeClaim"]
    assert claim["spec"]["volumeName"] == volume["metadata"]["name"]
    assert claim["spec"]["storageClassName"] == volume["spec"]["storageClassName"] == ""
    assert volume["spec"]["claimRef"]["name"] == claim["metadata"]["name"]


def test_the_laptops_run_lies_beside_its_prompts() -> None:
    """32 prompts, and a job without GPUs."""
    trees = rendered(CLUSTER / "overlays/kind")
    [run] = [tree for tree in trees if tree["kind"] == "ConfigMap" and tree["metadata"]["name"] == "raypo-run"]
    assert run["data"].keys() == {"run.yaml", "rewards.py", "prompts.jsonl"}
    assert len(run["data"]["prompts.jsonl"].splitlines()) == 32
    assert "nvidia.com/gpu" not in str([group["template"]["spec"]["containers"] for group in groups(custom(trees))])


# --- the page


README = (CLUSTER / "README.md").read_text(encoding="utf-8")


def test_the_page_names_images_files_and_resources_that_there_are() -> None:
    """Tags are of this version; every path that it gives lies here; the names are those of the manifests."""
    assert set(re.findall(r"raypo:(\d[\w.-]*)", README)) == {TAG, f"{TAG}-cpu"}
    paths = set(re.findall(r"\bcluster/[\w./-]+[\w]", README)) - {"cluster/overlays/mine"}
    assert "cluster/overlays/kind" in paths
    missing = [path for path in paths if not (ROOT / path).exists() and "overlays/mine" not in path]
    assert missing == []
    components = {path.parent.name for path in CLUSTER.glob("components/*/kustomization.yaml")}
    [listed] = [line for line in README.splitlines() if line.startswith("| `components/`")]
    assert set(re.findall(r"`([\w-]+)`", listed)) == components
    secrets = {"raypo-ray-token": "auth_token", "raypo-secrets": "hf_token", "raypo-redis": "password"}
    for name, key in secrets.items():
        assert re.search(rf"create secret generic {name} --from-literal={key}=", README)


def test_the_overlay_that_the_page_shows_can_be_rendered(tmp_path: Path) -> None:
    """Written beside the others, with a run and a digest of one's own."""
    [block] = [text for text in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL) if "kind: Kustomization" in text]
    [block] = re.findall(r"( *apiVersion.*)", block, re.DOTALL)
    shutil.copytree(CLUSTER, tmp_path / "cluster")
    mine = tmp_path / "cluster/overlays/mine"
    mine.mkdir()
    text = "\n".join(line.removeprefix("   ") for line in block.splitlines()).replace(
        "sha256:...", f"sha256:{'0' * 64}"
    )
    (mine / "kustomization.yaml").write_text(text, encoding="utf-8")
    (mine / "run.yaml").write_text(RUN.read_text().replace("rounds: 3", "rounds: 9"), encoding="utf-8")
    shutil.copy(RUN.parent / "rewards.py", mine)
    trees = rendered(mine)
    job = custom(trees)
    images = {container["image"] for spec in pod_specs(job) for container in spec["containers"]}
    assert images == {f"YOUR_REGISTRY/raypo@sha256:{'0' * 64}"}
    [run] = [tree for tree in trees if tree["kind"] == "ConfigMap" and tree["metadata"]["name"] == "raypo-run"]
    assert build(yaml.safe_load(run["data"]["run.yaml"])).online.rounds == 9
