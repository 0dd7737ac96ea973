"""A tiny committed pipeline to submit, a target that only records, and a Ray job server of our own with tokens on."""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from pipeline.submit import ray_jobs, sending
from pipeline.submit.package import Package
from pipeline.submit.targets import Job, Known, Outcome, Unreachable

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
TOKENS = ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
NAMES = (*sending.SETTINGS, *sending.CREDENTIALS, *TOKENS, "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
BEFORE = "# the tiny pipeline\ntrain:\n  seed: 1   # kept\n  mode: ok\n  state_uri: state\n  options: {depth: 2}\n"
STAGES = """
stages:
  make:
    cmd: python make.py
    deps: [make.py]
    params: [train.seed, train.mode]
    outs: [samples]
  report:
    cmd: mkdir -p reports && cp samples/seed.txt reports/seed.txt
    deps: [samples]
    outs: [reports/seed.txt]
"""
MAKE = """
import os, pathlib, signal, sys, time
from ruamel.yaml import YAML
train = YAML(typ="safe").load(open("params.yaml"))["train"]
out = pathlib.Path("samples")
out.mkdir()
print("making with seed", train["seed"], flush=True)
pathlib.Path("state", "ran.txt").open("a").write("ran\\n")
(out / "seed.txt").write_text(str(train["seed"]))
(out / "commit.txt").write_text(os.environ["GANPIPE_GIT_COMMIT"])
(out / "key.txt").write_text(os.environ.get("AWS_ACCESS_KEY_ID", "none"))
(out / "files.txt").write_text("\\n".join(sorted(p.as_posix() for p in pathlib.Path(".").rglob("*") if ".dvc" not in p.parts)))
if train["mode"] == "ray":
    import ray
    ray.init(log_to_driver=False)
    print("workers say", ray.get(ray.remote(lambda: "hello").remote()), flush=True)
if train["mode"] == "fail":
    sys.exit("made to fail")
if train["mode"] == "wait":
    def leave(number, frame):
        time.sleep(4)  # longer than the 3 s Ray gives by default
        pathlib.Path("state", "graceful.txt").write_text("saved")
        sys.exit(143)
    signal.signal(signal.SIGTERM, leave)
    pathlib.Path("state", "waiting.txt").write_text("waiting")
    time.sleep(300)
"""


def anything(values: dict[str, Any]) -> None:
    """Accepts every params.yaml: the tiny pipeline has a schema of its own."""


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def make_repository(root: Path, *, remote: Path | str | None = None) -> Path:
    """A committed pipeline of two stages, with an ignored file beside it."""
    config = f"[core]\n    remote = ours\n['remote \"ours\"']\n    url = {remote}\n" if remote else ""
    for name, text in {
        "params.yaml": BEFORE,
        "dvc.yaml": STAGES,
        "make.py": MAKE,
        ".dvc/config": config,
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/ignored.txt\n/tracked.log\n/samples\n/reports\n/state\n",
        "ignored.txt": "a secret",
        "tracked.log": "ignored by name, committed by force",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "job.sh", root / "infra" / "job.sh")
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "add", "--force", "tracked.log")
    git(root, "commit", "--quiet", "-m", "tiny")
    return root


class Recorder:
    """A target that keeps what it is given and ends as it is told."""

    def __init__(self, ending: Outcome | BaseException | None = None) -> None:
        self.sent: list[Job] = []
        self.names: list[str] = []
        self.stopped: list[str] = []
        self._ending = ending

    def submit(self, package: Package, job: Job) -> None:
        self.sent.append(job)
        self.names = zipfile.ZipFile(package.path).namelist()

    def follow(self, job_id: str, *, write: object, deadline: float | None = None) -> Outcome:
        if isinstance(self._ending, BaseException):
            ending, self._ending = self._ending, Outcome(status="STOPPED", exit_code=3)
            raise ending
        assert self._ending is not None
        return self._ending

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)

    def jobs(self) -> Sequence[Known]:
        outcome = self._ending if isinstance(self._ending, Outcome) else None
        status = outcome.status if outcome else "RUNNING"
        return [Known(id=job.id, status=status, labels=job.labels, outcome=outcome) for job in self.sent]

    def log(self, job_id: str) -> str:
        return ""


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@dataclass
class Server:
    """A Ray head; its processes can be found below `head`."""

    address: str
    token: str
    scratch: Path
    head: "subprocess.Popen[bytes]"


@contextmanager
def job_server(*, token: str = "") -> Iterator[Server]:
    """A Ray head of our own: every port free, its own home and scratch folder, stopped by process id; with a token it asks for it."""
    scratch = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))  # short: it holds Unix sockets
    options = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "runtime-env-agent-port",
    )
    ports = dict(zip(options, free_ports(len(options)), strict=True))
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES and not name.startswith("RAY_")}
    environment = {
        **inherited,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(
            [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        ),  # infra/job.sh runs pipeline.submit.results, which the tiny commit has not
        "RAY_AUTH_MODE": "token" if token else "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    if token:
        (scratch / ".ray").mkdir()
        (scratch / ".ray" / "auth_token").write_text(token)
    command = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={scratch}/t"]
    command += ["--object-store-memory=80000000", "--include-dashboard=true", *(f"--{name}={port}" for name, port in ports.items())]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    with (scratch / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 90
        while True:
            try:
                ray_jobs._status(address, {})
                if b"Ray runtime started" in (scratch / "log").read_bytes():  # it answers before, and gives up after 30 s on a busy machine
                    break
                raise Unreachable
            except Unreachable:
                assert head.poll() is None, (scratch / "log").read_text()
                assert time.monotonic() < deadline, "the job server did not start"
                time.sleep(0.3)
        yield Server(address=address, token=token, scratch=scratch, head=head)
    finally:
        ours = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        head.wait(timeout=120)
        for process in psutil.wait_procs(ours, timeout=10)[1]:
            process.kill()
        shutil.rmtree(scratch, ignore_errors=True)


def until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.2)
