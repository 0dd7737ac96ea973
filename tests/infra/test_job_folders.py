"""infra/job.sh alone: whose folders it takes, and how long they stay. A stand-in for DVC; nothing else of the pipeline runs."""

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from tests.pipeline.tiny_jobs import ROOT

DAY = 24 * 3600


@pytest.fixture
def project(tmp_path: Path) -> Path:
    root = tmp_path / "project"
    (root / "infra").mkdir(parents=True)
    (root / ".dvc").mkdir()
    shutil.copy(ROOT / "infra" / "job.sh", root / "infra")
    tools = tmp_path / "tools"
    tools.mkdir()
    for name, text in (("dvc", 'if [ "$1" = repro ]; then ls -a; fi'), ("python", "exit 0")):
        (tools / name).write_text(f"#!/bin/sh\n{text}\n")
        (tools / name).chmod(0o755)
    return root


def run(project: Path, **settings: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": f"{project.parent / 'tools'}:{os.environ['PATH']}", "TMPDIR": str(project.parent / "tmp"), **settings}
    (project.parent / "tmp").mkdir(exist_ok=True)
    return subprocess.run(["sh", "infra/job.sh"], cwd=project, env=environment, check=False, capture_output=True, text=True)


def mode(path: Path) -> str:
    return oct(path.stat().st_mode & 0o777)


def test_without_a_workspace_the_folder_is_this_users_own_and_closed(project: Path) -> None:
    """Kills a folder that others read, whatever the umask, and one that somebody else has made before us."""
    old = os.umask(0)
    try:
        done = run(project, GANPIPE_JOB="one")
    finally:
        os.umask(old)
    folder = project.parent / "tmp" / f"ganpipe-{os.getuid()}"
    assert done.returncode == 0, done.stderr
    assert (mode(folder), mode(folder / "runs" / "one")) == ("0o700", "0o700")
    folder.chmod(0o777)
    assert run(project, GANPIPE_JOB="two").returncode == 0
    assert mode(folder) == "0o700"


@pytest.mark.parametrize("trap", ["link", "file", "owner"])
def test_a_folder_that_somebody_else_has_made_is_refused(project: Path, trap: str) -> None:
    folder, elsewhere = project.parent / "tmp" / f"ganpipe-{os.getuid()}", project.parent / "elsewhere"
    elsewhere.mkdir()
    folder.parent.mkdir()
    if trap == "link":
        folder.symlink_to(elsewhere)
    elif trap == "file":
        folder.write_text("")
    else:
        if os.getuid() != 0:
            pytest.skip("only root can give a folder to somebody else")
        folder.mkdir()
        os.chown(folder, 12345, 12345)
    done = run(project, GANPIPE_JOB="one")
    assert done.returncode == 1
    assert f"is no folder of user {os.getuid()}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert list(elsewhere.iterdir()) == []


def test_folders_of_runs_that_ended_long_ago_go_and_others_stay(project: Path) -> None:
    """Kills a limit that takes a run which is still going, or one that was asked to stay longer."""
    shared = project.parent / "shared"
    ages = {"old": 31, "young": 29, "going": 31, "killed": 500}
    for name in ages:
        assert run(project, GANPIPE_JOB=name, GANPIPE_WORKSPACE=str(shared)).returncode == 0
    for name in ("going", "killed"):
        (shared / "runs" / name / ".ended").unlink()
    for name, days in ages.items():
        for path in (shared / "runs" / name / ".ended", shared / "runs" / name):
            if path.exists():
                os.utime(path, (time.time() - days * DAY - 3600,) * 2)
    done = run(project, GANPIPE_JOB="next", GANPIPE_WORKSPACE=str(shared), GANPIPE_KEEP_DAYS="60")
    assert {path.name for path in (shared / "runs").iterdir()} == {"old", "young", "going", "next"}, done.stdout
    done = run(project, GANPIPE_JOB="last", GANPIPE_WORKSPACE=str(shared))
    assert {path.name for path in (shared / "runs").iterdir()} == {"young", "going", "next", "last"}
    assert "runs/old: that run ended more than 30 days ago (GANPIPE_KEEP_DAYS)" in done.stdout
    assert run(project, GANPIPE_KEEP_DAYS="-1").returncode == 1
