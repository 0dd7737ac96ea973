"""CPUs of a process in a container, with a folder of files as Linux has them."""

import os
from pathlib import Path

import pytest

from ganlib.cpus import usable_cpus


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, 64),
        ({"pod/box/cpu.max": "max 100000"}, 64),
        ({"pod/box/cpu.max": "200000 100000"}, 2),
        ({"pod/box/cpu.max": "250000 100000"}, 2),  # half a CPU is none
        ({"pod/box/cpu.max": "50000 100000"}, 1),  # but there is always one
        ({"pod/box/cpu.max": "max 100000", "pod/cpu.max": "300000 100000"}, 3),  # the limit of a pod holds for its containers
        ({"pod/box/cpu.max": "800000 100000", "pod/cpu.max": "300000 100000", "cpu.max": "600000 100000"}, 3),
        ({"cpu.max": "150000 50000"}, 3),  # in a namespace of its own a container sees its group as the root
        ({"pod/box/cpu.max": "6400000 50000"}, 64),  # a quota gives no CPUs that the affinity has not
        ({"pod/box/cpu.max": "nonsense"}, 64),
        ({"pod/other/cpu.max": "100000 100000"}, 64),  # somebody else's
    ],
)
def test_quota_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: int) -> None:
    """Kills the affinity alone: 64 processes in a pod of two CPUs."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    own = tmp_path / "cgroup"
    own.write_text("12:cpu:/of-version-1\n0::/pod/box\n")
    for name, text in files.items():
        (tmp_path / "fs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "fs" / name).write_text(text + "\n")
    (tmp_path / "cpu.max").write_text("100000 100000\n")  # above the mount: nobody's
    assert usable_cpus(groups=tmp_path / "fs", own=own) == expected
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    assert usable_cpus(groups=tmp_path / "fs", own=own) == 1


def test_without_control_groups_the_affinity_counts(tmp_path: Path) -> None:
    assert usable_cpus(groups=tmp_path, own=tmp_path / "none") == len(os.sched_getaffinity(0))
