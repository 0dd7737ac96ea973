"""Submission of a tiny git repository: the export alone, then a real Ray job server that is started once.

Long because that one server is shared by every ending a job can have.
"""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest

from pipeline import params, preflight
from pipeline.edit import override
from pipeline.submit import command as submit
from pipeline.submit import ray_jobs, targets
from pipeline.submit.package import Package, package_commit
from pipeline.submit.targets import Job, Outcome

# Ray's client passes ssl=None to aiohttp, which warns: as an error it would only cut every log.
pytestmark = pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning")

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(sys.executable).parent
NAMES = (*submit.SETTINGS, *submit.CREDENTIALS, "RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
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


def _anything(values: dict[str, Any]) -> None:
    """Accepts every params.yaml: the tiny pipeline has a schema of its own."""


def _git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=test", "-c", "user.email=test@localhost")
    return subprocess.run(["git", *identity, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed pipeline of two stages, with an ignored file beside it."""
    root = tmp_path / "project"
    for name, text in {
        "params.yaml": BEFORE,
        "dvc.yaml": STAGES,
        "make.py": MAKE,
        ".dvc/config": "",
        ".dvc/.gitignore": "/config.local\n/tmp\n/cache\n",
        ".gitignore": "/ignored.txt\n/tracked.log\n/samples\n/state\n",
        "ignored.txt": "a secret",
        "tracked.log": "ignored by name, committed by force",
    }.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    (root / "infra").mkdir()
    shutil.copy(ROOT / "infra" / "job.sh", root / "infra" / "job.sh")
    _git(root, "init", "--quiet")
    _git(root, "add", ".")
    _git(root, "add", "--force", "tracked.log")
    _git(root, "commit", "--quiet", "-m", "tiny")
    return root


class Recorder:
    """A target that keeps what it is given and ends as it is told."""

    def __init__(self, ending: Outcome | BaseException | None = None) -> None:
        self.jobs: list[Job] = []
        self.names: list[str] = []
        self.stopped: list[str] = []
        self._ending = ending

    def submit(self, package: Package, job: Job) -> None:
        self.jobs.append(job)
        self.names = zipfile.ZipFile(package.path).namelist()

    def follow(self, job_id: str, *, write: object, deadline: float | None = None) -> Outcome:
        if isinstance(self._ending, BaseException):
            ending, self._ending = self._ending, Outcome(status="STOPPED", exit_code=3)
            raise ending
        assert self._ending is not None
        return self._ending

    def stop(self, job_id: str) -> None:
        self.stopped.append(job_id)


# --- the export -------------------------------------------------------------------------------------------------------------------------


def test_package_is_the_commit_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    (repository / "untracked.py").write_text("")
    (repository / "make.py").write_text("changed, not committed")
    package = package_commit(repository, tmp_path, validate=_anything)
    held = zipfile.ZipFile(package.path)
    assert sorted(held.namelist()) == sorted(_git(repository, "ls-files").splitlines())
    assert {"ignored.txt", "untracked.py"}.isdisjoint(held.namelist())
    assert "tracked.log" in held.namelist()
    assert held.read("make.py").decode() == MAKE
    assert package.commit == _git(repository, "rev-parse", "HEAD")
    assert package.size_bytes == package.path.stat().st_size


def test_same_commit_and_overrides_give_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    def packed(name: str, *overrides: str) -> bytes:
        (tmp_path / name).mkdir()
        return package_commit(repository, tmp_path / name, overrides=overrides, validate=_anything).path.read_bytes()

    first = packed("a")
    time.sleep(2.1)  # the resolution of times in a zip file is two seconds
    assert packed("b") == first
    assert packed("c", "train.seed=2") != first


def test_overrides_keep_comments_and_types(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(BEFORE)
    values = override(path, ["train.seed=7", "train.options={depth: 3}", "train.mode=null", "train.rate=4.0e-4"])
    assert values["train"] == {"seed": 7, "mode": None, "state_uri": "state", "options": {"depth": 3}, "rate": 4e-4}
    assert "# the tiny pipeline" in path.read_text()
    assert "seed: 7   # kept" in path.read_text()
    assert override(path, []) == values


@pytest.mark.parametrize(
    ("item", "expected"),
    [
        ("train.seed", "expected key=value"),
        ("=1", "expected key=value"),
        ("trian.seed=1", "no section trian; sections there: train"),
        ("train.options.depth.more=1", "no section train.options.depth"),
        ("seed=1", "no key seed; legal: train"),
        ("train.seed={1", "is not a YAML value"),
    ],
)
def test_overrides_that_lead_nowhere_are_refused(tmp_path: Path, item: str, expected: str) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(BEFORE)
    with pytest.raises(ValueError, match=re.escape(expected)):
        override(path, [item])
    assert path.read_text() == BEFORE


def test_overrides_meet_the_real_schema(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    shutil.copy(ROOT / "params.yaml", path)
    assert preflight.parse(override(path, ["train.seed=5"])).train.seed == 5
    with pytest.raises(params.ParamsError, match=r"train\.sead"):
        preflight.parse(override(path, ["train.sead=5"]))


def test_too_large_a_commit_is_refused_before_it_is_sent(repository: Path) -> None:
    (repository / "weights.bin").write_bytes(os.urandom(3 * 2**20))
    _git(repository, "add", ".")
    _git(repository, "commit", "--quiet", "-m", "large")
    target = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(package_commit.__kwdefaults__ or {}, "max_bytes", 2 * 2**20)
        with pytest.raises(ValueError, match=r"(?s)must be smaller than 2.00 MiB.*3.00 MiB  weights.bin"):
            submit.submit(repository, target, validate=_anything)
    assert not target.jobs


def test_params_that_do_not_fit_are_refused_before_they_are_sent(repository: Path) -> None:
    target = Recorder()
    with pytest.raises(params.ParamsError, match=r"params\.yaml cannot be used"):
        submit.submit(repository, target)  # the real schema, which the tiny params.yaml does not meet
    assert not target.jobs


def test_limit_is_the_one_of_ray() -> None:
    from ray._private import ray_constants

    from pipeline.submit.package import MAX_PACKAGE_BYTES

    assert MAX_PACKAGE_BYTES == ray_constants.DASHBOARD_CLIENT_MAX_SIZE


@pytest.mark.parametrize("name", ["infra/job.sh", "dvc.yaml", "params.yaml"])
def test_commit_without_what_the_job_needs_is_refused(repository: Path, tmp_path: Path, name: str) -> None:
    _git(repository, "rm", "--quiet", name)
    _git(repository, "commit", "--quiet", "-m", "less")
    with pytest.raises(ValueError, match=f"holds no {name}"):
        package_commit(repository, tmp_path, validate=_anything)


def test_link_to_a_folder_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "link").symlink_to("infra")
    _git(repository, "add", ".")
    _git(repository, "commit", "--quiet", "-m", "link")
    with pytest.raises(ValueError, match="link is a link to a folder"):
        package_commit(repository, tmp_path, validate=_anything)


def test_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a git repository"):
        submit.submit(tmp_path, Recorder(), validate=_anything, allow_dirty=True)


# --- the submission ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["make.py", "new.py"])
def test_dirty_tree_is_refused(repository: Path, name: str) -> None:
    (repository / name).write_text("changed")
    target = Recorder()
    with pytest.raises(ValueError, match=rf"(?s)not in it:.*{name}.*--allow-dirty"):
        submit.submit(repository, target, validate=_anything)
    assert not target.jobs
    said: list[str] = []
    submit.submit(repository, target, validate=_anything, allow_dirty=True, say=said.append)
    assert "not sent: 1 uncommitted changes" in said
    assert "new.py" not in target.names


def test_job_carries_the_listed_environment_only(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MLFLOW_TRACKING_URI", "AWS_SECRET_ACCESS_KEY", "SOMETHING_ELSE"):
        monkeypatch.setenv(name, f"value of {name}")
    said: list[str] = []
    target = Recorder()
    submit.submit(repository, target, validate=_anything, job_id="one", stages=["make"], workspace="/shared", say=said.append)
    submit.submit(repository, target, validate=_anything, use_credentials=False, say=said.append)
    commit = _git(repository, "rev-parse", "HEAD")
    assert target.jobs[0] == submit.Job(
        id="one",
        stages=("make",),
        environment={
            "MLFLOW_TRACKING_URI": "value of MLFLOW_TRACKING_URI",
            "AWS_SECRET_ACCESS_KEY": "value of AWS_SECRET_ACCESS_KEY",
            "GANPIPE_JOB": "one",
            "GANPIPE_GIT_COMMIT": commit,
            "GANPIPE_STATE": "state",
            "GANPIPE_WORKSPACE": "/shared",
        },
        labels={"commit": commit, "overrides": "", "stages": "make"},
    )
    assert "AWS_SECRET_ACCESS_KEY" not in target.jobs[1].environment
    assert target.jobs[1].id.startswith(f"gan-{commit[:8]}-")
    assert not any("value of AWS" in line for line in said)


def test_what_cannot_be_seen_from_here_is_warned_of(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def warnings(**options: Any) -> str:
        said: list[str] = []
        submit.submit(repository, Recorder(), validate=_anything, say=said.append, **options)
        return "\n".join(line for line in said if line.startswith("warning"))

    assert "no --workspace" in warnings()
    assert "train.state_uri=state is relative" in warnings()
    assert "train.state_uri" not in warnings(overrides=["train.state_uri=/shared/state"])
    assert "MLFLOW_TRACKING_URI" in warnings(workspace="/shared")
    for uri in ("sqlite:///mlflow.db", "http://localhost:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert "another one on the cluster" in warnings(workspace="/shared")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://user:password@mlflow:5000")
    assert warnings(workspace="/shared") == ""
    with pytest.raises(ValueError, match="--workspace shared: expected an absolute path"):
        warnings(workspace="shared")


def test_unreachable_head_is_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert submit.main(["--address", address], root=tmp_path / "nothing") == submit.UNREACHABLE
    assert f"no Ray job server answers at {address}" in capsys.readouterr().err


def test_another_server_is_not_taken_for_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    class Other(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Other) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            code = submit.main(["--address", f"http://127.0.0.1:{server.server_port}"], root=tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert code == submit.UNREACHABLE
    assert "not as a Ray job server" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "http://"])
def test_address_of_another_kind_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="expected the job server"):
        submit.main(["--address", address], root=tmp_path)


def test_address_comes_from_the_environment_when_it_is_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match="where to"):
        submit.main([], root=tmp_path)
    asked: list[str] = []

    def unreachable(address: str) -> submit.Target:
        asked.append(address)
        raise submit.Unreachable("no")

    monkeypatch.setattr(submit, "target_at", unreachable)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert submit.main([], root=tmp_path) == submit.UNREACHABLE
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://other:8265")
    assert submit.main([], root=tmp_path) == submit.UNREACHABLE
    assert asked == ["http://head:8265", "https://other:8265"]


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("SUCCEEDED", 0, 0), ("STOPPED", None, 3), ("FAILED", 5, 5), ("FAILED", None, 1), ("FAILED", 0, 1), ("FAILED", -9, 137)],
)
def test_exit_code_of_each_ending(status: str, driver: int | None, code: int) -> None:
    assert ray_jobs._outcome(status, driver, "").exit_code == code


@pytest.mark.parametrize(
    ("ending", "code", "stopped"),
    [
        (KeyboardInterrupt(), submit.INTERRUPTED, ["job"]),
        (submit.TimedOut(), submit.TIMED_OUT, ["job"]),
        (submit.Lost("silence"), submit.LOST, []),
        (targets.Outcome(status="FAILED", exit_code=9), 9, []),
    ],
)
def test_follow_turns_each_ending_into_a_code(ending: BaseException | targets.Outcome, code: int, stopped: list[str]) -> None:
    target = Recorder(ending)
    assert submit.follow(target, "job", timeout_minutes=1) == code
    assert target.stopped == stopped


# --- a real job server ------------------------------------------------------------------------------------------------------------------


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a Ray head of our own: every port free, its own home and scratch folder, stopped by process id."""
    scratch = Path(tempfile.mkdtemp(prefix="r-", dir="/tmp"))  # short: it holds Unix sockets
    options = (
        "port",
        "dashboard-port",
        "dashboard-agent-listen-port",
        "dashboard-agent-grpc-port",
        "metrics-export-port",
        "runtime-env-agent-port",
    )
    ports = dict(zip(options, _free_ports(len(options)), strict=True))
    inherited = {name: value for name, value in os.environ.items() if name not in NAMES and not name.startswith("RAY_")}
    environment = {
        **inherited,
        "HOME": str(scratch),
        "TMPDIR": str(scratch),
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",
    }
    command = [str(BIN / "ray"), "start", "--head", "--block", "--node-ip-address=127.0.0.1", "--num-cpus=2", f"--temp-dir={scratch}/t"]
    command += ["--object-store-memory=80000000", "--include-dashboard=true", *(f"--{name}={port}" for name, port in ports.items())]
    address = f"http://127.0.0.1:{ports['dashboard-port']}"
    with (scratch / "log").open("wb") as log:
        head = subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                ray_jobs._check_answers(address)
                break
            except submit.Unreachable:
                assert head.poll() is None, (scratch / "log").read_text()
                assert time.monotonic() < deadline, "the job server did not start"
                time.sleep(0.3)
        yield address
    finally:
        ours = psutil.Process(head.pid).children(recursive=True) if head.poll() is None else []
        head.terminate()
        head.wait(timeout=120)
        for process in psutil.wait_procs(ours, timeout=10)[1]:
            process.kill()
        shutil.rmtree(scratch, ignore_errors=True)


def _send(server: str, repository: Path, workspace: Path, *arguments: str) -> int:
    return submit.main(["--address", server, "--workspace", str(workspace), *arguments], root=repository, validate=_anything)


@pytest.mark.heavy
def test_job_succeeds_with_its_overrides_and_the_next_one_starts_clean(
    server: str, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "forwarded")
    shared, kept, remote = tmp_path / "shared folder", tmp_path / "kept", tmp_path / "remote"
    (repository / ".dvc" / "config").write_text(f"[core]\n    remote = ours\n['remote \"ours\"']\n    url = {remote}\n")
    _git(repository, "commit", "--quiet", "-a", "-m", "remote")
    code = _send(server, repository, shared, "-S", "train.seed=7", "--submission-id", "first", "--results", str(kept))
    output, errors = capsys.readouterr()
    assert code == 0, output + errors
    assert output.count("making with seed 7") == 1  # the log, each line once
    samples = kept / "first" / "samples"
    assert (samples / "seed.txt").read_text() == "7"
    assert (kept / "first" / "reports" / "seed.txt").read_text() == "7"
    assert "make" in (kept / "first" / "dvc.lock").read_text()
    assert (samples / "commit.txt").read_text() == _git(repository, "rev-parse", "HEAD")
    assert (samples / "key.txt").read_text() == "forwarded"
    assert list(remote.glob("files/md5/*/*"))  # dvc push
    assert list(remote.glob("runs/*/*"))  # of the run cache too
    files = (samples / "files.txt").read_text().splitlines()
    assert "tracked.log" in files
    assert {"ignored.txt", "untracked.py"}.isdisjoint(files)

    # The same package again: Ray reuses the folder it unpacked, so nothing of the first run may lie in it, and the run cache still serves.
    assert _send(server, repository, shared, "-S", "train.seed=7", "--submission-id", "second", "--target", "make") == 0
    second = shared / "runs" / "second"
    assert (second / "samples" / "files.txt").read_text().splitlines() == files
    assert not (second / "reports").exists()  # the other stage was not asked for
    assert (shared / "state" / "ran.txt").read_text() == "ran\n"  # restored, not run
    assert _send(server, repository, shared, "--follow", "second") == 0
    with pytest.raises(ValueError, match="refused job second"):
        _send(server, repository, shared, "--submission-id", "second")


@pytest.mark.heavy
def test_failing_stage_fails_the_command(server: str, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = _send(server, repository, tmp_path / "shared", "-S", "train.mode=fail", "--submission-id", "failing")
    output = capsys.readouterr().out
    from ray.job_submission import JobSubmissionClient

    assert code == JobSubmissionClient(server).get_job_info("failing").driver_exit_code != 0
    assert "made to fail" in output
    assert "FAILED" in output


@pytest.mark.heavy
@pytest.mark.parametrize("error", [None, RuntimeError("connection closed")])
def test_log_that_is_cut_early_changes_nothing(
    server: str,
    repository: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: Exception | None,
) -> None:
    from ray.job_submission import JobSubmissionClient

    async def cut(self: JobSubmissionClient, job_id: str) -> Any:
        yield "the only line\n"
        if error is not None:
            raise error

    monkeypatch.setattr(JobSubmissionClient, "tail_job_logs", cut)
    mode = "ok" if error is None else "fail"
    code = _send(server, repository, tmp_path / "shared", "-S", f"train.mode={mode}")
    assert (code == 0) == (error is None)
    assert capsys.readouterr().out.count("the only line") == 1


def _until(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.2)


@pytest.mark.heavy
def test_stopped_job_is_no_success(server: str, repository: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    assert _send(server, repository, shared, "-S", "train.mode=wait", "--submission-id", "stopped", "--detach") == 0
    _until(shared / "state" / "waiting.txt")
    submit.target_at(server).stop("stopped")
    assert _send(server, repository, shared, "--follow", "stopped") == targets.STOPPED
    assert (shared / "state" / "graceful.txt").read_text() == "saved"  # it had more than Ray's three seconds to leave


@pytest.mark.heavy
def test_interrupt_stops_the_job(server: str, repository: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    arguments = ["--address", server, "--workspace", str(shared), "-S", "train.mode=wait", "--submission-id", "interrupted"]
    call = f"submit.main({arguments!r}, root=pathlib.Path({str(repository)!r}), validate=len)"
    code = f"import sys, pathlib; from pipeline.submit import command as submit; sys.exit({call})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        _until(shared / "state" / "waiting.txt")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == submit.INTERRUPTED, output
    assert "job interrupted: STOPPED" in output
    assert "Traceback" not in output


@pytest.mark.heavy
def test_unknown_job_is_told(server: str, repository: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="knows no job nobody"):
        _send(server, repository, tmp_path, "--follow", "nobody")


@pytest.mark.heavy
def test_silent_head_is_given_up_but_not_the_job(server: str) -> None:
    class Silent:
        def get_job_info(self, job_id: str) -> None:
            raise ConnectionError("silence")

        async def tail_job_logs(self, job_id: str) -> Any:
            raise ConnectionError("silence")
            yield ""

    target = ray_jobs.RayJobs(server, poll_seconds=0.05, lost_seconds=0.3)
    target._client = Silent()
    assert submit.follow(target, "job") == submit.LOST
