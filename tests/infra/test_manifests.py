"""The files of infra/: valid against KubeRay's own schema, strictly, and with the versions this project pins."""

import copy
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
CRDS = Path(os.environ.get("KUBERAY_CRDS", ROOT.parent / "shared" / "data" / "kuberay-crds"))
SHELL = [INFRA / "job.sh", INFRA / "slurm" / "train.sbatch"]


def _strict(schema: Any) -> Any:
    """The schema with unknown fields forbidden: KubeRay drops them without a word."""
    if isinstance(schema, list):
        return [_strict(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    strict = {key: _strict(value) for key, value in schema.items()}
    if isinstance(schema.get("properties"), dict) and not schema.get("x-kubernetes-preserve-unknown-fields"):
        strict.setdefault("additionalProperties", False)
    if schema.get("x-kubernetes-int-or-string"):
        strict.pop("type", None)
        strict["anyOf"] = [{"type": "integer"}, {"type": "string"}]
    return strict


def _pinned(package: str) -> str:
    """The version in requirements.in; the installed one while there is no such file."""
    path = ROOT / "requirements.in"
    found = re.search(rf"^{package}(?:\[[^\]]*\])?==(\S+)", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1] if found else metadata.version(package)


@pytest.fixture(scope="module")
def schema() -> dict[str, Any]:
    path = CRDS / "ray.io_rayjobs.yaml"
    if not path.is_file():
        pytest.skip(
            f"there is no {path}: helm pull kuberay-operator --repo https://ray-project.github.io/kuberay-helm/ --untar, then "
            "KUBERAY_CRDS=kuberay-operator/crds pytest tests/infra/test_manifests.py"
        )
    definition = yaml.load(path.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))
    (version,) = [version for version in definition["spec"]["versions"] if version["storage"]]
    assert version["name"] == "v1"
    strict = _strict(version["schema"]["openAPIV3Schema"])
    strict["properties"]["metadata"] = {"type": "object"}  # the API server's own business: a bare object here
    return strict


@pytest.fixture
def job() -> dict[str, Any]:
    document = yaml.safe_load((INFRA / "kuberay" / "rayjob.yaml").read_text())
    return json.loads(json.dumps(document))  # anchors become copies of their own


def _pods(job: dict[str, Any]) -> Iterator[dict[str, Any]]:
    cluster = job["spec"]["rayClusterSpec"]
    yield cluster["headGroupSpec"]["template"]["spec"]
    for group in cluster["workerGroupSpecs"]:
        yield group["template"]["spec"]


def test_rayjob_is_valid(schema: dict[str, Any], job: dict[str, Any]) -> None:
    jsonschema.Draft7Validator(schema).validate(job)


def _rename_ttl(job: dict[str, Any]) -> None:
    job["spec"]["ttlSecondsAfterFinish"] = job["spec"].pop("ttlSecondsAfterFinished")


def _number_as_parameter(job: dict[str, Any]) -> None:
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] = 0


def _misplace_volume(job: dict[str, Any]) -> None:
    container = next(_pods(job))["containers"][0]
    container["volumes"] = container.pop("volumeMounts")


def _drop_replicas(job: dict[str, Any]) -> None:
    del job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]["maxReplicas"]


@pytest.mark.parametrize("mutate", [_rename_ttl, _number_as_parameter, _misplace_volume, _drop_replicas])
def test_broken_rayjob_is_refused(schema: dict[str, Any], job: dict[str, Any], mutate: Any) -> None:
    broken = copy.deepcopy(job)
    mutate(broken)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate(broken)


def test_rayjob_runs_the_pinned_ray_and_cleans_up(job: dict[str, Any]) -> None:
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == _pinned("ray")
    assert {container["image"].partition(":")[2] for pod in _pods(job) for container in pod["containers"]} == {f"ray-{_pinned('ray')}"}
    assert job["spec"]["shutdownAfterJobFinishes"] is True
    assert job["spec"]["entrypoint"] == "sh /opt/ganpipe/infra/job.sh"


def test_every_pod_sees_the_workspace(job: dict[str, Any]) -> None:
    for pod in _pods(job):
        (container,) = pod["containers"]
        workspace = {variable["name"]: variable["value"] for variable in container["env"]}["GANPIPE_WORKSPACE"]
        (mount,) = [mount for mount in container["volumeMounts"] if mount["mountPath"] == workspace]
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"] for volume in pod["volumes"] if "persistentVolumeClaim" in volume
        }
        claim = yaml.safe_load((INFRA / "kuberay" / "workspace.yaml").read_text())
        assert claims[mount["name"]] == claim["metadata"]["name"]
        assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_workers_of_params_fit_on_the_manifest(job: dict[str, Any]) -> None:
    cluster = yaml.safe_load((ROOT / "params.yaml").read_text())["cluster"]
    group = job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]
    cpus = int(group["template"]["spec"]["containers"][0]["resources"]["requests"]["cpu"])
    assert group["replicas"] * (cpus // cluster["cpus_per_worker"]) >= cluster["workers"]


def test_dockerfile_and_manifest_agree(job: dict[str, Any]) -> None:
    text = (INFRA / "Dockerfile").read_text()
    uid = re.search(r"useradd .*--uid (\d+)", text)
    assert uid is not None
    assert {pod["securityContext"]["runAsUser"] for pod in _pods(job)} == {int(uid[1])}
    assert f"ganpipe:ray-{_pinned('ray')}" in text
    assert f"torch=={metadata.version('torch').partition('+')[0]}" in text
    assert text.rindex("\nUSER ganpipe\n") > text.rindex("\nRUN ")  # nothing runs as root after it
    for variable in ("RAY_USAGE_STATS_ENABLED=0", "MLFLOW_DISABLE_TELEMETRY=true", "DVC_NO_ANALYTICS=1"):
        assert variable in text
        assert variable in (INFRA / "slurm" / "train.sbatch").read_text()


@pytest.mark.parametrize("path", SHELL, ids=lambda path: path.name)
def test_scripts_parse(path: Path) -> None:
    shell = "bash" if path.suffix == ".sbatch" else "sh"
    subprocess.run([shell, "-n", str(path)], check=True)


def test_readme_names_every_file_and_variable() -> None:
    text = (INFRA / "README.md").read_text()
    for path in INFRA.rglob("*"):
        if path.is_file() and path.name != "README.md":
            assert path.relative_to(INFRA).as_posix() in text
    from pipeline.submit.sending import CREDENTIALS, SETTINGS

    for name in (*SETTINGS, *CREDENTIALS, *re.findall(r"GANPIPE_\w+", "".join(script.read_text() for script in SHELL))):
        assert f"`{name}`" in text


def _isolated() -> list[str]:
    """A process namespace of our own: symmetric-run ends with `ray stop`, which would stop every Ray it can see."""
    command = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child", "--mount-proc"]
    if shutil.which("unshare") is None or subprocess.run([*command, "true"], check=False, capture_output=True).returncode:
        pytest.skip("no process namespaces here (unshare): symmetric-run would stop the Ray of others")
    return command


@pytest.mark.heavy
def test_sbatch_starts_ray_and_returns_the_exit_code_of_its_command(tmp_path: Path) -> None:
    """The script itself under stand-ins for srun and scontrol, with a real `ray symmetric-run` on one node."""
    isolated = _isolated()
    tools, project = tmp_path / "tools", tmp_path / "project"
    for folder in (tools, project / "infra"):
        folder.mkdir(parents=True)
    (tools / "srun").write_text('#!/bin/bash\nwhile [[ $1 == --* ]]; do shift; done\nexec "$@"\n')
    (tools / "scontrol").write_text("#!/bin/bash\necho 127.0.0.1\n")
    (tools / "hostname").write_text("#!/bin/bash\necho 127.0.0.1\n")
    for tool in tools.iterdir():
        tool.chmod(0o755)
    check = (
        "import os, ray; ray.init(address=os.environ['RAY_ADDRESS'], log_to_driver=False); print('CPUs', ray.cluster_resources()['CPU'])"
    )
    (project / "infra" / "job.sh").write_text(f'echo "stages $*"; python -c "{check}"; exit 7\n')
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    scratch = tempfile.mkdtemp(prefix="r-", dir="/tmp")  # short: it holds Unix sockets
    ours = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
    environment = {
        **ours,
        "HOME": scratch,
        "PATH": f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "SLURM_SUBMIT_DIR": str(project),
        "SLURM_JOB_ID": "42",
        "SLURM_JOB_NODELIST": "one",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_CPUS_PER_TASK": "2",
        "GANPIPE_RAY_PORT": str(port),
        "GANPIPE_RAY_OPTIONS": f"--include-dashboard=false --temp-dir={scratch}/t --object-store-memory=80000000",
    }

    def run(**more: str) -> subprocess.CompletedProcess[str]:
        command = [*isolated, "bash", str(INFRA / "slurm" / "train.sbatch"), "train", "sample"]
        return subprocess.run(command, env={**environment, **more}, check=False, capture_output=True, text=True, timeout=120)

    try:
        done = run()
        assert done.returncode == 7, done.stdout + done.stderr
        assert "stages train sample" in done.stdout
        assert "CPUs 2.0" in done.stdout
        # Ray that does not start: symmetric-run says 0, the script does not.
        failed = run(GANPIPE_RAY_OPTIONS="--no-such-option")
        assert failed.returncode == 1, failed.stdout + failed.stderr
        assert "Ray did not start" in failed.stderr
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
