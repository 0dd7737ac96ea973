"""Every way a job can end, and its way home, against a real Ray job server with tokens on, started once.

Long because that one server is shared by every ending a job can have.
"""

import json
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from pipeline.submit import command, following, ray_jobs, targets
from pipeline.submit.results import Storage
from tests.pipeline.tiny_jobs import NAMES, ROOT, Server, anything, git, job_server, make_repository, until

# Ray's client passes ssl=None to aiohttp, which warns: as an error it would only cut every log.
# DVC itself uses what one of its packages is about to drop.
pytestmark = [
    pytest.mark.heavy,
    pytest.mark.filterwarnings("ignore:ssl=None is deprecated:DeprecationWarning", "ignore:_NoneStep.value:DeprecationWarning"),
]
TOKEN = "b6c1f2d3e4a5968778695a4b3c2d1e0f"  # of no cluster but this one
SECRET = "planted-hunter22"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with job_server(token=TOKEN) as found:
        yield found


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A committed pipeline with a DVC remote."""
    return make_repository(tmp_path / "project", remote=tmp_path / "remote")


def _run(server: Server, repository: Path, *arguments: str) -> int:
    return command.main([*arguments, "--address", server.address], root=repository, validate=anything)


def _send(server: Server, repository: Path, workspace: Path, *arguments: str) -> int:
    return _run(server, repository, "send", "--workspace", str(workspace), *arguments)


def _dvc(root: Path, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "dvc", *arguments], cwd=root, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


# --- the token --------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, "asks for a token, and there is none in RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or ~/.ray/auth_token"),
        ({"RAY_AUTH_TOKEN": "wrong"}, "does not take the token of RAY_AUTH_TOKEN"),
        ({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": TOKEN}, "asks for a token, and RAY_AUTH_MODE=disabled sends none"),
    ],
)
def test_wrong_or_missing_token_is_one_line(
    server: Server,
    repository: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    variables: dict[str, str],
    expected: str,
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert _run(server, repository, "list") == targets.UNREACHABLE
    output, errors = capsys.readouterr()
    assert expected in errors
    assert (output, errors.count("\n")) == ("", 1)


@pytest.mark.parametrize("place", ["variable", "path", "home"])
def test_token_of_every_place_is_sent(
    server: Server, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    monkeypatch.delenv("RAY_AUTH_TOKEN")
    file = tmp_path / "home" / ".ray" / "auth_token"
    file.parent.mkdir(parents=True)
    file.write_text(f"{'wrong' if place != 'home' else TOKEN}\n")
    if place == "variable":
        monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    elif place == "path":
        (tmp_path / "token").write_text(TOKEN)
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
    assert _run(server, repository, "list") == 0


# --- there and back ---------------------------------------------------------------------------------------------------------------------


def test_results_come_home_and_the_same_job_is_not_run_twice(
    server: Server, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills the way home that trains again, one that leaves the parameters behind, and a second job for the same commit."""
    shared = tmp_path / "shared folder"
    other = tmp_path / "other clone"
    git(tmp_path, "clone", "--quiet", str(repository), str(other))
    assert _send(server, repository, shared, "-S", "train.seed=7", "--results", str(tmp_path / "kept")) == 0
    output, errors = capsys.readouterr()
    assert output.count("making with seed 7") == 1, output + errors  # the log, each line once
    (job,) = Storage(repository).names()
    samples = tmp_path / "kept" / job / "samples"
    assert (samples / "commit.txt").read_text() == git(repository, "rev-parse", "HEAD")
    files = (samples / "files.txt").read_text().splitlines()
    assert "tracked.log" in files
    assert {"ignored.txt", "untracked.py"}.isdisjoint(files)

    shutil.rmtree(shared)  # what comes home comes from the remote
    assert (repository / "samples" / "seed.txt").read_text() == "7"
    assert "seed: 7   # kept" in (repository / "params.yaml").read_text()
    for root in (repository, other):
        if root is other:
            assert _run(server, root, "--fetch", job) == 0
        assert "up to date" in _dvc(root, "status")
        for name in ("samples", "reports", ".dvc/cache"):
            shutil.rmtree(root / name)
        _dvc(root, "pull")
        said = _dvc(root, "repro")
        assert "Running stage" not in said
        assert (root / "reports" / "seed.txt").read_text() == "7"
    capsys.readouterr()

    assert _run(server, repository, "fetch", job) == 0  # again: nothing changes
    git(repository, "checkout", "--quiet", "params.yaml")
    (repository / "dvc.lock").unlink()
    assert _send(server, repository, shared, "-S", "train.seed=7", "--results", str(tmp_path / "kept")) == 0
    assert f"job {job} has done this commit" in capsys.readouterr().out
    assert "up to date" in _dvc(repository, "status")
    (repository / "params.yaml").write_text((repository / "params.yaml").read_text() + "# mine\n")  # it cannot be applied here
    arguments = ("-S", "train.seed=7", "--results", str(tmp_path / "kept"), "--allow-dirty")
    assert _send(server, repository, shared, *arguments) == targets.NOT_HOME
    assert "params.yaml would be overwritten" in capsys.readouterr().err
    assert not shared.exists()


def test_without_a_remote_the_workspace_brings_results_home(server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    repository, shared = make_repository(tmp_path / "project"), tmp_path / "shared"
    assert _send(server, repository, shared, "--no-fetch", "--submission-id", "workspace", "--target", "make") == 0
    assert not (repository / "samples").exists()
    assert not (shared / "runs" / "workspace" / "reports").exists()  # the other stage was not asked for
    assert _run(server, repository, "fetch", "workspace") == 0  # the job says where its workspace was
    assert (repository / "samples" / "seed.txt").read_text() == "1"
    capsys.readouterr()
    with pytest.raises(ValueError, match="no job nobody"):
        _run(server, repository, "fetch", "nobody")


def test_job_that_cannot_push_says_so(server: Server, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "remote").write_text("a file where a folder should be")
    assert _send(server, repository, tmp_path / "shared", "--submission-id", "homeless") == targets.NOT_HOME
    assert "its results were not kept" in capsys.readouterr().out


# --- endings ----------------------------------------------------------------------------------------------------------------------------


def test_verbs_tell_of_a_failure_by_its_last_lines(
    server: Server, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills DVC's 255 as an exit code, and a message that is cut before the reason."""
    code = _send(server, repository, tmp_path / "shared", "-S", "train.mode=fail", "--submission-id", "failing")
    output = capsys.readouterr().out
    assert code == 1
    assert output.count("made to fail") == 1
    assert "job failing: FAILED (exit code 1)" in output
    for verb in ("status", "logs", "stop"):
        assert _run(server, repository, verb, "failing") == 0
        assert "made to fail" in capsys.readouterr().out
    assert _run(server, repository, "list") == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("failing ")]
    assert "FAILED" in line
    assert "train.mode=fail" in line
    with pytest.raises(ValueError, match="left no results"):
        _run(server, repository, "fetch", "failing")
    for verb in ("status", "logs", "stop"):
        with pytest.raises(ValueError, match="knows no job nobody"):
            _run(server, repository, verb, "nobody")
    with pytest.raises(ValueError, match="is no name of a job"):
        _run(server, repository, "status", "../../x")


@pytest.mark.parametrize("error", [None, RuntimeError("connection closed")])
def test_log_that_is_cut_early_changes_nothing(
    server: Server,
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


def test_running_job_is_attached_to_and_a_stopped_one_is_no_success(
    server: Server, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shared = tmp_path / "shared"
    assert _send(server, repository, shared, "-S", "train.mode=wait", "--detach") == 0
    until(shared / "state" / "waiting.txt")
    (job,) = [path.name for path in (shared / "runs").iterdir()]
    assert _send(server, repository, shared, "-S", "train.mode=wait", "--detach") == 0
    assert f"job {job} runs this commit with these settings already" in capsys.readouterr().out
    assert _send(server, repository, shared, "-S", "train.mode=wait", "--timeout-minutes", "0.01") == targets.TIMED_OUT
    assert len(list((shared / "runs").iterdir())) == 1
    assert (shared / "state" / "graceful.txt").read_text() == "saved"  # it had more than Ray's three seconds to leave
    assert _run(server, repository, "logs", job, "--follow") == targets.STOPPED
    assert _run(server, repository, "stop", job) == 0
    assert "nothing to stop" in capsys.readouterr().out


def test_interrupt_stops_the_job(server: Server, repository: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    arguments = ["--address", server.address, "--workspace", str(shared), "-S", "train.mode=wait", "--submission-id", "interrupted"]
    call = f"command.main({arguments!r}, root=pathlib.Path({str(repository)!r}), validate=len)"
    code = f"import sys, pathlib; from pipeline.submit import command; sys.exit({call})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        until(shared / "state" / "waiting.txt")
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=240)
    finally:
        process.kill()
    assert process.returncode == targets.INTERRUPTED, output
    assert "job interrupted: STOPPED" in output
    assert "Traceback" not in output


def test_contact_that_is_lost_leaves_the_job_running(
    server: Server, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A follower that is ended, a job server that is silent, and a second Ctrl-C: one job goes through all three."""
    shared, name = tmp_path / "shared", "followed"
    assert _send(server, repository, shared, "-S", "train.mode=wait", "--submission-id", name, "--detach") == 0
    until(shared / "state" / "waiting.txt")
    call = f"command.main(['logs', {name!r}, '--follow', '--address', {server.address!r}], root=pathlib.Path({str(repository)!r}))"
    code = f"import sys, pathlib; from pipeline.submit import command; sys.exit({call})"

    def follower() -> "subprocess.Popen[str]":
        process = subprocess.Popen([sys.executable, "-uc", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        assert process.stdout is not None
        while "making with seed" not in (line := process.stdout.readline()):
            assert line, "it ended before it followed"
        return process

    with follower() as ended:
        ended.terminate()
        assert ended.wait(30) == -signal.SIGTERM

    (dashboard,) = [process for process in _processes_of(server, "dashboard/dashboard.py") if process.ppid() == server.head.pid]
    monkeypatch.setattr(ray_jobs, "REQUEST_SECONDS", 0.5)
    monkeypatch.setitem(ray_jobs.RayJobs.__init__.__kwdefaults__, "lost_seconds", 1.0)  # type: ignore[index]
    target = ray_jobs.RayJobs(server.address)
    dashboard.suspend()
    try:
        assert following.follow(target, name).exit_code == targets.LOST
    finally:
        dashboard.resume()
    assert f"`ganpipe submit logs {name} --follow`" in capsys.readouterr().out
    monkeypatch.undo()
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    assert _run(server, repository, "status", name) == 0
    assert "RUNNING" in capsys.readouterr().out

    with follower() as twice:
        assert twice.stdout is not None
        twice.send_signal(signal.SIGINT)
        while "Ctrl-C again leaves it running" not in (line := twice.stdout.readline()):
            assert line, "it did not stop the job"
        twice.send_signal(signal.SIGINT)
        output, _ = twice.communicate(timeout=60)
    assert twice.returncode == targets.INTERRUPTED, output
    assert f"job {name} was asked to stop, but nobody waited for it" in output
    assert _run(server, repository, "stop", name) == 0


def _processes_of(server: Server, word: str) -> list[psutil.Process]:
    found = []
    for process in psutil.Process(server.head.pid).children(recursive=True):
        try:
            if word in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.parametrize(("victim", "code"), [("infra/job.sh", 137), ("JobSupervisor", targets.DIED)])
def test_driver_that_is_killed_is_sent_again(
    server: Server, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], victim: str, code: int
) -> None:
    """Kills a retry that makes another job of another name, and one that goes on without end."""
    shared, killed = tmp_path / "shared", []

    def kill() -> None:
        for attempt in range(2):
            until(shared / "state" / "waiting.txt")
            (shared / "state" / "waiting.txt").unlink()
            for process in _processes_of(server, victim):
                process.kill()
            killed.append(attempt)

    thread = threading.Thread(target=kill)
    thread.start()
    assert _send(server, repository, shared, "-S", "train.mode=wait", "--retry", "1") == code
    thread.join(60)
    assert killed == [0, 1]
    first, second = sorted(path.name for path in (shared / "runs").iterdir())
    assert second == f"{first}-2"
    assert "its driver died: sent again, try 1 of 1" in capsys.readouterr().out


def test_silent_head_is_given_up_but_not_the_job(server: Server) -> None:
    class Silent:
        def get_job_info(self, job_id: str) -> None:
            raise ConnectionError("silence")

        async def tail_job_logs(self, job_id: str) -> Any:
            raise ConnectionError("silence")
            yield ""

    target = ray_jobs.RayJobs(server.address, poll_seconds=0.05, lost_seconds=0.3)
    target._client = Silent()
    assert following.follow(target, "job").exit_code == targets.LOST


def test_head_that_comes_back_without_the_job_has_lost_its_driver(server: Server) -> None:
    """Kills "knows no job" as the answer to a job that was followed until then: `--retry` is for this."""

    class Forgetful:
        answers = 0

        def get_job_info(self, job_id: str) -> Any:
            self.answers += 1
            if self.answers > 1:
                raise RuntimeError("Request failed with status code 404: Job job does not exist.")
            return SimpleNamespace(status=SimpleNamespace(is_terminal=lambda: False))

        async def tail_job_logs(self, job_id: str) -> Any:
            yield "training\n"

    target = ray_jobs.RayJobs(server.address, poll_seconds=0.05)
    target._client = Forgetful()
    outcome = following.follow(target, "job")
    assert (outcome.exit_code, outcome.has_died) == (targets.DIED, True)


# --- secrets ----------------------------------------------------------------------------------------------------------------------------


def test_planted_secrets_are_nowhere_to_be_read(
    server: Server, repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The job has them, by a file that only its nodes have; what Ray, the remote and the logs keep has them not. A driver may join the Ray."""
    for name in ("AWS_SECRET_ACCESS_KEY", "MLFLOW_TRACKING_PASSWORD"):
        monkeypatch.setenv(name, f"{SECRET}-here")
    file = tmp_path / "environment"
    file.write_text(f"# of the nodes\nAWS_ACCESS_KEY_ID={SECRET}-$(id) `id`\nnot a line\n1=2\n")
    shared = tmp_path / "shared"
    code = _send(server, repository, shared, "-S", "train.mode=ray", "--credentials", str(file), "--submission-id", "secretive")
    output, errors = capsys.readouterr()
    assert code == 0, output + errors
    assert "workers say hello" in output  # below the token, which nobody sent along
    assert (repository / "samples" / "key.txt").read_text() == f"{SECRET}-$(id) `id`"  # as it stands: nothing in it was run
    client = ray_jobs.RayJobs(server.address)._client
    details = json.dumps([job.model_dump(mode="json") for job in client.list_jobs()])
    assert "secretive" in details
    kept = {"details": details, "log": client.get_job_logs("secretive"), "said": output + errors}
    for path in [
        *(tmp_path / "remote" / "ganpipe").rglob("*"),
        *(server.scratch / "t").rglob("*.log"),
        *(server.scratch / "t").rglob("*.out"),
    ]:
        if path.is_file():
            kept[str(path)] = path.read_text(errors="replace")
    for secret in (SECRET, TOKEN):
        assert [name for name, text in kept.items() if secret in text] == []


def test_credentials_that_a_node_has_not_are_named(
    server: Server, repository: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert _send(server, repository, tmp_path / "shared", "--credentials", "/nowhere/environment") == 1
    assert "GANPIPE_CREDENTIALS=/nowhere/environment cannot be read on node" in capsys.readouterr().out
