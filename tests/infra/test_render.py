"""`ganpipe render`: what would be sent is valid by the published schema of its kind, and safe by rules that no schema has."""

import copy
import json
import re
import shlex
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from pipeline.driver.settings import ClusterConfig
from pipeline.render import description
from pipeline.render.command import main, rendered
from pipeline.render.kustomize import Add, applied

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(Path(__file__).parent))
from validation import schema, validate  # noqa: E402

SECRET = re.compile(r"(password|secret|token|key)[\"']?\s*[:=]\s*[\"']?[A-Za-z0-9+/]{12,}", re.IGNORECASE)
TARGETS = yaml.safe_load((ROOT / description.FILE).read_text())["targets"]
CLUSTER = ClusterConfig()
KUBERNETES = {name for name, target in TARGETS.items() if target["kind"] in ("rayjob", "raycluster", "trainjob")}


def make(values: dict[str, Any], cluster: ClusterConfig = CLUSTER) -> tuple[dict[str, str], str]:
    target = description._target("here", json.loads(json.dumps(values)))
    return rendered("here", target, cluster, ROOT)


def run_of(values: dict[str, Any], cluster: ClusterConfig = CLUSTER) -> dict[str, Any]:
    return yaml.safe_load(make(values, cluster)[0]["run.yaml"])


def with_gpus(values: dict[str, Any]) -> tuple[dict[str, Any], ClusterConfig]:
    changed = copy.deepcopy(values)
    changed["resources"]["gpus"] = 2
    return changed, ClusterConfig(gpus_per_worker=1)


def pods(run: dict[str, Any]) -> list[dict[str, Any]]:
    """Every pod's specification in a RayJob or a RayCluster."""
    spec = run["spec"].get("rayClusterSpec", run["spec"])
    found = [spec["headGroupSpec"]["template"]["spec"], *(group["template"]["spec"] for group in spec["workerGroupSpecs"])]
    return found + ([run["spec"]["submitterPodTemplate"]["spec"]] if "submitterPodTemplate" in run["spec"] else [])


@pytest.mark.parametrize("gpu", [False, True], ids=["cpu", "gpu"])
@pytest.mark.parametrize("name", sorted(KUBERNETES))
def test_every_manifest_is_valid_by_its_schema(name: str, gpu: bool) -> None:
    """What is sent, what is made once, and each overlay alone. Kills: a renamed or misplaced field, a number where text is meant."""
    values, cluster = with_gpus(TARGETS[name]) if gpu else (TARGETS[name], CLUSTER)
    files, _ = make(values, cluster)
    base = yaml.safe_load(files["base/run.yaml"])
    documents = [yaml.safe_load(files["run.yaml"]), base, *yaml.safe_load_all(files["once.yaml"])]
    for component in ("gpu", "spot", "kueue"):
        if patch := files.get(f"components/{component}/patch.yaml"):
            operations = yaml.safe_load(patch)
            assert {operation["op"] for operation in operations} == {"add"}
            documents.append(applied(base, [Add(path=one["path"], value=one["value"]) for one in operations]))
    for document in documents:
        validate(document)
    text = json.dumps(documents[0])
    assert ('"nvidia.com/gpu": "2"' in text) == gpu
    assert ('"key": "nvidia.com/gpu"' in text) == gpu


BREAK = {
    "a field that nobody knows": lambda run: run["spec"].__setitem__("ttlSecondsAfterFinish", 1),
    "a number as a start parameter": lambda run: run["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"].__setitem__(
        "num-cpus", 0
    ),
    "volumes in a container": lambda run: pods(run)[0]["containers"][0].__setitem__("volumes", []),
    "a probe of an unknown kind": lambda run: pods(run)[1]["containers"][0]["readinessProbe"].__setitem__("wget", {}),
    "no replicas": lambda run: run["spec"]["rayClusterSpec"]["workerGroupSpecs"][0].pop("maxReplicas"),
    "another way to authenticate": lambda run: run["spec"]["rayClusterSpec"]["authOptions"].__setitem__("mode", "password"),
}


@pytest.mark.parametrize("how", BREAK)
def test_a_broken_manifest_is_refused_by_the_schemas_that_the_tests_carry(how: str) -> None:
    """Kills: schemas reduced to nothing."""
    run = run_of(TARGETS["kuberay"])
    BREAK[how](run)
    with pytest.raises(jsonschema.ValidationError):
        validate(run)


@pytest.mark.parametrize("name", ["kuberay", "kuberay-queued", "ray-cluster"])
def test_pods_are_what_a_restricted_namespace_lets_in_and_hold_no_rights(name: str) -> None:
    run = run_of(TARGETS[name])
    for pod in pods(run):
        (container,) = pod["containers"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert pod["automountServiceAccountToken"] is False
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert pod["terminationGracePeriodSeconds"] > CLUSTER.stop_grace_seconds + 10  # what drain.sh waits
        assert {mount["mountPath"] for mount in container["volumeMounts"]} == {"/workspace", "/dev/shm"}
        assert container["envFrom"] == [{"secretRef": {"name": "ganpipe-environment"}}]
        assert container["image"].endswith(subprocess.check_output(["git", "rev-parse", "HEAD"], cwd=ROOT, text=True).strip())
    cluster = run["spec"].get("rayClusterSpec", run["spec"])
    assert cluster["rayVersion"] == metadata.version("ray")
    assert cluster["authOptions"] == {"mode": "token"}
    assert cluster["headGroupSpec"]["serviceType"] == "ClusterIP"
    if run["kind"] == "RayJob":
        assert run["spec"]["ttlSecondsAfterFinished"] > 0
        assert run["spec"]["shutdownAfterJobFinishes"] is True


def test_overlays_reach_what_they_are_for() -> None:
    """Kills: the head on a preemptible node, a queued job that starts by itself, a priority of a pod beside the queue's."""
    plain, queued = run_of(TARGETS["kuberay"]), run_of(TARGETS["kuberay-queued"])
    head, worker, _ = pods(queued)
    assert worker["nodeSelector"] == {"cloud.google.com/gke-spot": "true"}
    assert head["nodeSelector"] == {}
    assert worker["tolerations"] == [{"key": "cloud.google.com/gke-spot", "operator": "Equal", "value": "true", "effect": "NoSchedule"}]
    assert queued["spec"]["suspend"] is True
    assert "suspend" not in plain["spec"]
    labels = {"queue-name": "ganpipe", "priority-class": "ganpipe-training"}
    assert labels.items() <= {key.partition("/")[2]: value for key, value in queued["metadata"]["labels"].items()}.items()
    assert "priorityClassName" not in worker


def test_nobody_but_the_operator_reaches_the_pods_and_their_account_may_do_nothing() -> None:
    documents = list(yaml.safe_load_all(make(TARGETS["kuberay"])[0]["once.yaml"]))
    by_kind = {document["kind"]: document for document in documents}
    peers, operator = by_kind["NetworkPolicy"]["spec"]["ingress"]
    assert list(peers) == ["from"]
    assert peers["from"] == [{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "ganpipe"}}}]
    assert [port["port"] for port in operator["ports"]] == [8265]
    assert not {"RoleBinding", "ClusterRole", "ClusterRoleBinding"} & by_kind.keys()
    for rule in by_kind["Role"]["rules"]:
        assert "*" not in rule["verbs"] + rule["resources"] + rule["apiGroups"]
        assert not {"secrets", "pods/exec"} & set(rule["resources"])
    assert by_kind["PersistentVolumeClaim"]["spec"]["storageClassName"] == "nfs"


@pytest.mark.skipif(shutil.which("kubectl") is None, reason="no kubectl here: that kustomize agrees is not checked (runners of CI have it)")
@pytest.mark.parametrize("name", ["kuberay-queued", "ray-cluster", "kubeflow"])
def test_kustomize_makes_of_the_tree_what_the_dry_run_says(name: str, tmp_path: Path) -> None:
    """Kills: a place that our own `applied` reads otherwise than RFC 6902."""
    values, cluster = with_gpus(TARGETS[name])
    files, _ = make(values, cluster)
    for path, text in files.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)

    def built(folder: Path) -> Any:
        return yaml.safe_load(subprocess.run(["kubectl", "kustomize", str(folder)], check=True, capture_output=True, text=True).stdout)

    assert built(tmp_path) == yaml.safe_load(files["run.yaml"])
    assert built(tmp_path / "overlays" / "cpu") == yaml.safe_load(files["base/run.yaml"])
    for overlay in (path.parent for path in tmp_path.glob("overlays/*/kustomization.yaml")):
        validate(built(overlay))


def test_skypilots_task_is_valid_by_its_schema() -> None:
    task = yaml.safe_load(make(TARGETS["sky"])[0]["task.yaml"])
    jsonschema.Draft202012Validator(schema("skypilot")).validate(task)
    assert set(task["secrets"].values()) == {None}
    subprocess.run(["sh", "-n"], input=task["run"], text=True, check=True)
    task["resources"]["accelerator"] = task.pop("num_nodes")
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft202012Validator(schema("skypilot")).validate(task)


def test_slurms_script_is_the_projects_own_with_the_descriptions_header() -> None:
    script = make(TARGETS["slurm"])[0]["train.sbatch"]
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    options = [line.removeprefix("#SBATCH ") for line in script.splitlines() if line.startswith("#SBATCH ")]
    assert {"--nodes=2", "--cpus-per-task=4", "--mem=16G", "--requeue", "--signal=B:TERM@120", "--time=24:00:00"} <= set(options)
    own = (ROOT / "infra" / "slurm" / "train.sbatch").read_text()
    assert script.endswith(own.partition("set -euo pipefail\n")[2])
    first_command = next(line for line in script.splitlines() if line and not line.startswith("#"))
    assert script.index("#SBATCH --output") < script.index(first_command)  # sbatch stops reading options at the first command


def test_a_ray_clusters_command_is_one_that_submit_understands() -> None:
    """Kills: a flag that submit does not have any more."""
    from pipeline.submit.command import _arguments

    words = shlex.split(make(changed("ray", credentials="/etc/ganpipe/credentials"))[0]["submit.sh"])
    assert words[:2] == ["ganpipe", "submit"]
    options = _arguments(words[2:])
    assert (options.address, options.workspace, options.credentials) == (
        "http://ray-head:8265",
        "/shared/ganpipe",
        "/etc/ganpipe/credentials",
    )
    assert options.timeout_minutes == 24 * 60


@pytest.mark.parametrize("name", sorted(TARGETS))
def test_no_credential_stands_in_anything_that_is_sent(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted-value-of-a-key")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "planted-value-of-a-token")
    files, command = make(TARGETS[name])
    everything = "\n".join([*files.values(), command])
    assert "planted-value" not in everything
    assert not SECRET.search(everything)
    assert SECRET.search("password: abcdefgh12345678")


def changed(name: str, **changes: Any) -> dict[str, Any]:
    return {**copy.deepcopy(TARGETS[name]), **changes}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (changed("kuberay", kind="pods"), "targets.here.kind='pods'; expected one of ray-jobs, rayjob"),
        (changed("kuberay", image="ganpipe:latest"), "image 'ganpipe:latest' could be another one tomorrow"),
        (changed("kuberay", image="ganpipe@sha256:12"), "NAME@sha256:DIGEST"),
        (changed("kuberay", imagePullPolicy="Always"), "targets.here.imagePullPolicy='Always' is not a known key"),
        (
            changed("kuberay", storage={"path": "/w", "size": "50Gi"}),
            "targets.here.storage.storage_class is missing; add it to infra/targets.yaml",
        ),
        (changed("kuberay", resources={"workers": 1, "cpus": 1, "memory": "8G"}), "'8G' is no size"),
        (changed("kuberay", resources={"workers": 1, "cpus": 1, "memory": "8Gi"}), "has room for 1 workers .* the training needs 2"),
        (changed("kuberay", grace_seconds=30), "grace_seconds=30 is not above cluster.stop_grace_seconds=30"),
        (changed("slurm", signal_seconds=20), "signal_seconds=20 is not above cluster.stop_grace_seconds=30"),
        (changed("ray", address="http://me:word@head:8265"), "targets.here.address"),
        (changed("sky", accelerator="H100"), "resources.gpus=0 and accelerator='H100': set both"),
        (
            changed("kuberay", resources={"workers": 2, "cpus": 2, "memory": "8Gi", "gpus": 1}),
            "would use none: set cluster.gpus_per_worker: 1",
        ),
    ],
)
def test_a_mistake_in_the_description_is_told_with_its_key(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(values)


def test_the_command_prints_what_it_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Kills: a dry run that differs from the files."""
    assert main(["kuberay"], root=ROOT) == 0
    printed = capsys.readouterr().out
    assert main(["kuberay", "--out", str(tmp_path)], root=ROOT) == 0
    assert (tmp_path / "run.yaml").read_text() == printed
    capsys.readouterr()
    assert main(["kuberay", "--once"], root=ROOT) == 0
    assert (tmp_path / "once.yaml").read_text() == capsys.readouterr().out
    assert main([], root=ROOT) == 0
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(TARGETS)
    with pytest.raises(ValueError, match="no target 'kuberai'"):
        main(["kuberai"], root=ROOT)
