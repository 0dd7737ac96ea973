"""A Slurm script: infra/slurm/train.sbatch with the header that the description says."""

from pathlib import Path

from pipeline.render.description import Slurm

SCRIPT = "infra/slurm/train.sbatch"


def script(target: Slurm, name: str, root: Path, *, drain_seconds: int) -> str:
    """The text that `sbatch` gets; it must be sent from the project's root."""
    have = target.resources
    header = [
        f"--job-name=ganpipe-{name}",
        f"--nodes={have.workers}",
        "--ntasks-per-node=1",
        f"--cpus-per-task={have.cpus}",
        f"--mem={have.memory.removesuffix('i')}",
        *([f"--gpus-per-node={have.gpus}"] if have.gpus else []),
        *([f"--partition={target.partition}"] if target.partition else []),
        *([f"--qos={target.priority.name}"] if target.priority else []),
        "--exclusive",
        f"--time={target.hours}:00:00",
        "--requeue",
        "--open-mode=append",
        f"--signal=B:TERM@{target.signal_seconds}",
        "--output=slurm-%j.log",
    ]
    lines = (root / SCRIPT).read_text(encoding="utf-8").splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("#SBATCH"))
    body = [line for line in lines[first:] if not line.startswith("#SBATCH")]
    start = body.index("set -euo pipefail") + 1
    settings = [
        f'export GANPIPE_WORKSPACE="${{GANPIPE_WORKSPACE:-{target.storage.path}}}"',
        f'export GANPIPE_DRAIN_SECONDS="${{GANPIPE_DRAIN_SECONDS:-{drain_seconds}}}"',
    ]
    return "\n".join([*lines[:first], *(f"#SBATCH {line}" for line in header), *body[:start], *settings, *body[start:]]) + "\n"
