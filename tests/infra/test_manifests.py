"""The files of infra/ that are no description: scripts, the image, what the README says. What is rendered: test_render.py."""

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
from importlib import metadata
from pathlib import Path

import pytest

from pipeline.render.pods import PROJECT, UID

ROOT = Path(__file__).resolve().parents[2]
INFRA = ROOT / "infra"
SHELL = [INFRA / "job.sh", INFRA / "node.sh", INFRA / "drain.sh", INFRA / "slurm" / "train.sbatch"]


def _pinned(package: str) -> str:
    """The version in requirements.in; the installed one while there is no such file."""
    path = ROOT / "requirements.in"
    found = re.search(rf"^{package}(?:\[[^\]]*\])?==(\S+)", path.read_text(), re.MULTILINE) if path.exists() else None
    return found[1] if found else metadata.version(package)


def test_dockerfile_has_what_is_pinned_and_what_the_manifests_say() -> None:
    text = (INFRA / "Dockerfile").read_text()
    uid = re.search(r"useradd .*--uid (\d+)", text)
    assert uid is not None
    assert int(uid[1]) == UID
    assert f"torch=={_pinned('torch')}" in text
    assert f"WORKDIR {PROJECT}\n" in text
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
    for script in ("node.sh", "drain.sh"):
        shutil.copy(INFRA / script, project / "infra" / script)
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


def test_drain_has_the_training_alone_save_and_waits_for_it(tmp_path: Path) -> None:
    """Kills: a signal to everything that mentions the stage, a return before the checkpoint, a wait without a limit."""
    isolated = _isolated()
    stage = tmp_path / "pipeline" / "stages"
    stage.mkdir(parents=True)
    (stage / "train.py").write_text(
        "import signal, sys, time\n"
        "def save(*_): time.sleep(0.5); open('saved', 'w').close(); sys.exit(143)\n"
        "if 'stubborn' not in sys.argv: signal.signal(signal.SIGTERM, save)\n"
        "else: signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "open('ready', 'w').close(); time.sleep(60)\n"
    )
    drain = f"sh {INFRA / 'drain.sh'}"
    wait = "while [ ! -e ready ]; do sleep 0.05; done; rm ready"
    script = (
        f"{drain} 5 && echo nothing\n"
        "sh -c 'sleep 60; : python -m pipeline.stages.train' & other=$!\n"
        f"python -m pipeline.stages.train & stage=$!; {wait}; {drain} 20; ls saved; wait $stage; echo code $?\n"
        f"python -m pipeline.stages.train stubborn & {wait}; {drain} 1; echo gave up\n"
        "kill -0 $other && echo other lives\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([*isolated, "sh", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=60)
    assert done.stdout.splitlines() == ["nothing", "saved", "code 143", "gave up", "other lives"], done.stderr
