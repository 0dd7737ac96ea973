"""How many CPUs this process may use: a container has a quota, which neither the machine's count nor the affinity knows of."""

import math
import os
from collections.abc import Iterator
from pathlib import Path

GROUPS = Path("/sys/fs/cgroup")  # where Linux mounts control groups, version 2
OWN_GROUP = Path("/proc/self/cgroup")


def usable_cpus(*, groups: Path = GROUPS, own: Path = OWN_GROUP) -> int:
    """CPUs this process may use at once, 1 or more: its affinity (a Slurm step), and no more than its control group's quota (a container).

    Half a CPU that a quota leaves over is not counted: whoever plans with it is throttled.

    Source: cpu.max in the kernel's documentation, admin-guide/cgroup-v2, "Core Interface Files" of the CPU controller.
    """
    affinity = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, math.floor(min([affinity, *_quotas(groups, own)]) + 1e-9))


def _quotas(groups: Path, own: Path) -> Iterator[float]:
    """Quota in CPUs of this process's group and of each one above it: all of them hold."""
    try:
        group = next(line.removeprefix("0::") for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):  # no control groups, or those of version 1 alone
        return
    folder = groups / group.strip("/")
    for place in (folder, *folder.parents):
        try:
            quota, period = (place / "cpu.max").read_text().split()
            if quota != "max":
                yield float(quota) / float(period)
        except (OSError, ValueError, ZeroDivisionError):
            pass
        if place == groups:
            return
