"""What a version was registered with: the lock, Python, torch, the machine's kind, the image, and the job."""

import importlib.metadata
import os
import platform
import re
from pathlib import Path

import torch

from ganlib.config import Section
from ganlib.files import sha256_file

LOCK = "requirements.txt"
IMAGE_DIGEST = "GANPIPE_IMAGE_DIGEST"  # a process in a container cannot tell which image it runs in: whoever starts it does
JOBS = {  # a job's identity, by the cluster that gives it
    "ray": "RAY_JOB_SUBMISSION_ID",
    "ray job": "RAY_JOB_ID",
    "slurm": "SLURM_JOB_ID",
    "kubernetes": "JOB_NAME",
    "ci": "GITHUB_RUN_ID",
}


class Environment(Section):
    """
    Attributes:
        lock: sha256 of requirements.txt; None where it is not there.
        unlike_lock: package -> (locked, installed), of those installed in another version than the lock has.
        torch: its version with the build (`2.13.0+cpu`).
        device: kind of the GPU, else of the CPU.
        image: digest of the container image, from GANPIPE_IMAGE_DIGEST; None: not said.
    """

    lock: str | None
    unlike_lock: dict[str, tuple[str, str]]
    python: str
    torch: str
    system: str
    device: str
    image: str | None = None

    @property
    def words(self) -> str:
        """One line."""
        image = f", image {self.image}" if self.image else ""
        return f"Python {self.python}, torch {self.torch}, {self.system}, {self.device}{image}"


def environment(root: Path) -> Environment:
    """Of this process, by the lock in `root`."""
    lock = root / LOCK
    return Environment(
        lock=sha256_file(lock) if lock.is_file() else None,
        unlike_lock=_unlike(lock) if lock.is_file() else {},
        python=platform.python_version(),
        torch=torch.__version__,
        system=f"{platform.system()} {platform.machine()}",
        device=_device(),
        image=os.environ.get(IMAGE_DIGEST) or None,
    )


def job() -> dict[str, str]:
    """The identities that clusters give a job, of those that are set."""
    return {kind: os.environ[name] for kind, name in JOBS.items() if os.environ.get(name)}


def _unlike(lock: Path) -> dict[str, tuple[str, str]]:
    pinned = dict(re.findall(r"^([A-Za-z0-9_.\-]+)(?:\[[^\]]*\])?==([^\s;\\]+)", lock.read_text(encoding="utf-8"), re.MULTILINE))
    found = {}
    for name, version in pinned.items():
        try:
            installed = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # of another platform, or of an extra that nobody asked for
        if installed != version:
            found[name] = (version, installed)
    return found


def _device() -> str:
    if torch.cuda.is_available():
        return f"GPU {torch.cuda.get_device_name(0)}, {torch.cuda.device_count()} of them"
    try:
        named = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace"), re.MULTILINE)
    except OSError:
        named = None
    return f"CPU {named[1].strip() if named else platform.processor() or platform.machine()} ({torch.backends.cpu.get_cpu_capability()})"
