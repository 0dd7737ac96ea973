"""A real Slurm of two nodes (slurm_lab.sh): what its scheduler does to a run, and what the run makes of it.

Needs root, namespaces, and Debian's slurm-wlm and munge: `make slow` skips it elsewhere, and says so.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from ganlib.files import sha256_file
from tests.clones import Clone

LAB = Path(__file__).with_name("slurm_lab.sh")
TOOLS = ("slurmctld", "slurmd", "munged", "unshare", "ip", "sbatch")


def missing() -> str:
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking or os.geteuid() != 0:
        return f"no Slurm here ({', '.join(lacking) or 'not root'}): apt-get install slurm-wlm munge iproute2, and run this as root"
    done = subprocess.run(["unshare", "--mount", "--net", "--pid", "--uts", "--fork", "true"], check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no namespaces here: {done.stderr.strip()}"


pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


def in_lab(folder: Path, script: str, *, environment: dict[str, str], cwd: Path, timeout: float) -> subprocess.CompletedProcess[str]:
    """`script` beside the controller; the whole lab ends with it."""
    command = ["bash", str(LAB), str(folder), "1", "bash", "-euc", script]
    return subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=timeout)


# until_ SECONDS COMMAND: waits for it. again JOB: a job that was requeued starts now, not after the two minutes that Slurm gives every node.
WORDS = """
until_() { local n=$1; shift; while ! "$@"; do n=$((n - 1)); [ $n -gt 0 ] || { echo "waited in vain: $*"; exit 1; }; sleep 1; done; }
is() { scontrol show job "$1" | grep -qE "$2"; }
again() { until_ 150 is "$1" JobState=PENDING; scontrol update JobId="$1" StartTime=now; }
"""


def test_the_signal_before_the_limit_reaches_the_script_and_the_job_starts_again(tmp_path: Path) -> None:
    """Slurm's part alone, with a stand-in for Ray: the run is told once, saves, and is back with its exit code.

    Kills: a signal that a shell between Slurm and the run swallows, a job that is requeued before it has saved, an exit code that is lost.
    """
    project, tools = tmp_path / "project", tmp_path / "tools"
    (project / "infra" / "slurm").mkdir(parents=True)
    (project / "pipeline" / "stages").mkdir(parents=True)
    tools.mkdir()
    for name in ("node.sh", "drain.sh", "slurm/train.sbatch"):
        shutil.copy(LAB.parents[2] / "infra" / name, project / "infra" / name)
    (tools / "ray").write_text(  # the node that has the address runs the command, the other lends itself
        '#!/bin/bash\n[ "$1" = symmetric-run ] || exit 0\n'
        'echo "$(hostname) lends $RAY_AUTH_MODE $(echo -n $RAY_AUTH_TOKEN | md5sum)" >>lent\n'
        '[ "$(hostname --ip-address)" = "${3%:*}" ] || { sleep 3; exit 0; }\n'
        'while [ "$1" != -- ]; do shift; done; shift; exec "$@"\n'
    )
    (tools / "ray").chmod(0o755)
    (project / "infra" / "job.sh").write_text("exec python -m pipeline.stages.train\n")
    (project / "pipeline" / "stages" / "train.py").write_text(
        "import os, signal, sys, time\n"
        "def save(*_):\n"
        "    time.sleep(2); open('saved', 'a').write('x'); sys.exit(143)\n"
        "signal.signal(signal.SIGTERM, save)\n"
        "if os.path.exists('saved'): sys.exit(7)\n"
        "open('training', 'w').close(); time.sleep(100)\n"
    )
    script = WORDS + (
        "job=$(sbatch --parsable -N2 --cpus-per-task=1 --mem=0 infra/slurm/train.sbatch)\n"
        "until_ 30 test -e training\n"
        "scancel --batch --signal=TERM $job\n"  # as Slurm itself sends it, --signal=B:TERM
        "again $job; until_ 60 is $job JobState=FAILED; scontrol show job $job; cat slurm-$job.log\n"
    )
    environment = {**os.environ, "PATH": f"{tools}:{os.environ['PATH']}", "PYTHONPATH": str(project)}
    done = in_lab(tmp_path / "lab", script, environment=environment, cwd=project, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (project / "saved").read_text() == "x"
    assert "Restarts=1" in done.stdout
    assert "ExitCode=7:0" in done.stdout  # of the run, after the restart
    lent = [line.split() for line in (project / "lent").read_text().splitlines()]
    assert sorted(line[0] for line in lent) == ["n1", "n1", "n2", "n2"]
    assert {line[2] for line in lent} == {"token"}
    assert len({line[3] for line in lent}) == 2  # a token a start, the same on both nodes


DISTURBANCES = {
    "requeue": "scontrol requeue $job\n",
    # The limit is moved to between one minute and two from now, so that the signal is due: Slurm looks every 30 s.
    "limit": (
        "minutes=$((($(date +%s) - $(date -d $(squeue --noheader --jobs=$job --format=%S) +%s)) / 60 + 2))\n"
        "scontrol update JobId=$job TimeLimit=$minutes\n"
    ),
}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(1500)  # two starts of Ray, a training twice; minutes on busy cores
@pytest.mark.parametrize("how", DISTURBANCES)
def test_a_disturbed_training_on_two_nodes_ends_in_the_same_bytes(how: str, make_clone, tmp_path: Path) -> None:
    """`scontrol requeue` in the middle of it, or Slurm's own time limit: the single machine's bytes."""
    clone: Clone = make_clone()
    total_images = 48_000 if how == "requeue" else 96_000  # more than Slurm's 30 s of training
    clone.set(train__total_images=total_images, train__checkpoint_interval_images=3200, train__select=None)
    clone.commit("longer")
    alone = clone.copy(tmp_path / "alone")
    environment = {name: value for name, value in clone.environment.items() if name != "RAY_AUTH_MODE"}
    environment |= {"GANPIPE_WORKSPACE": str(tmp_path / "workspace"), "GANPIPE_RAY_OPTIONS": "--object-store-memory=80000000"}
    environment["RAY_gcs_rpc_server_reconnect_timeout_s"] = "20"  # how long the second node keeps the job after the head has ended; 60
    script = WORDS + (
        "job=$(sbatch --parsable -N2 --cpus-per-task=1 --mem=0 --time=30 --signal=B:TERM@120 infra/slurm/train.sbatch train)\n"
        'trap "cat slurm-$job.log; scontrol show job $job" EXIT\n'
        f"saved() {{ ls -d {tmp_path}/workspace/state/*/checkpoints/step-* >/dev/null 2>&1; }}\n"
        f"until_ 300 saved\n{DISTURBANCES[how]}again $job\nscontrol update JobId=$job TimeLimit=30\n"
        "until_ 400 is $job 'JobState=(COMPLETED|FAILED)'\n"
    )
    with subprocess.Popen(["dvc", "repro", "train"], cwd=alone.root, env=alone.environment, stdout=subprocess.DEVNULL) as undisturbed:
        done = in_lab(tmp_path / "lab", script, environment=environment, cwd=clone.root, timeout=1000)
    assert undisturbed.returncode == 0
    assert done.returncode == 0, done.stdout + done.stderr
    assert "JobState=COMPLETED" in done.stdout, done.stdout
    assert "Restarts=1" in done.stdout
    assert "resumed from step-" in done.stdout
    assert ("asking the training for its last checkpoint" in done.stdout) == (how == "limit")
    (run,) = [path for path in (tmp_path / "workspace" / "runs").iterdir() if (path / "models" / "generator.safetensors").exists()]
    assert re.fullmatch(r"slurm-\d+-1", run.name)
    for name in ("generator.safetensors", "discriminator.safetensors"):
        assert sha256_file(run / "models" / name) == sha256_file(alone.root / "models" / name)
