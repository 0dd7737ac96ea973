"""What is sent, what is refused before it is sent, and what the command makes of an answer: without a Ray (test_submit_server.py has one).

Long because each setting, file and address that can be wrong is refused by its own words.
"""

import json
import os
import re
import shutil
import socket
import threading
import time
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from pipeline import params, preflight
from pipeline.edit import override
from pipeline.submit import command, following, ray_jobs, sending, targets
from pipeline.submit.package import package_commit
from pipeline.submit.targets import Job, Outcome
from pipeline.submit.token import find_token
from tests.pipeline.tiny_jobs import BEFORE, MAKE, NAMES, ROOT, Recorder, anything, git, make_repository


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # a token there is not ours


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    return make_repository(tmp_path / "project")


def _submit(repository: Path, target: Recorder, **options: Any) -> list[str]:
    """Lines that were said."""
    said: list[str] = []
    options = {"workspace": "/shared", "validate": anything} | options
    sending.submit(sending.Request(root=repository, **options), target, say=said.append)
    return said


# --- the export -------------------------------------------------------------------------------------------------------------------------


def test_package_is_the_commit_and_nothing_else(repository: Path, tmp_path: Path) -> None:
    (repository / "untracked.py").write_text("")
    (repository / "make.py").write_text("changed, not committed")
    package = package_commit(repository, tmp_path, validate=anything)
    held = zipfile.ZipFile(package.path)
    assert sorted(held.namelist()) == sorted(git(repository, "ls-files").splitlines())
    assert {"ignored.txt", "untracked.py"}.isdisjoint(held.namelist())
    assert "tracked.log" in held.namelist()
    assert held.read("make.py").decode() == MAKE
    assert package.commit == git(repository, "rev-parse", "HEAD")
    assert package.size_bytes == package.path.stat().st_size


def test_same_commit_and_overrides_give_the_same_bytes(repository: Path, tmp_path: Path) -> None:
    def packed(name: str, *overrides: str) -> bytes:
        (tmp_path / name).mkdir()
        return package_commit(repository, tmp_path / name, overrides=overrides, validate=anything).path.read_bytes()

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
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "large")
    target = Recorder()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(package_commit.__kwdefaults__ or {}, "max_bytes", 2 * 2**20)
        with pytest.raises(ValueError, match=r"(?s)must be smaller than 2.00 MiB.*3.00 MiB  weights.bin"):
            _submit(repository, target)
    assert not target.sent


def test_params_that_do_not_fit_are_refused_before_they_are_sent(repository: Path) -> None:
    target = Recorder()
    with pytest.raises(params.ParamsError, match=r"params\.yaml cannot be used"):
        _submit(repository, target, validate=preflight.parse)  # the real schema, which the tiny params.yaml does not meet
    assert not target.sent


def test_limit_is_the_one_of_ray() -> None:
    from ray._private import ray_constants

    from pipeline.submit.package import MAX_PACKAGE_BYTES

    assert MAX_PACKAGE_BYTES == ray_constants.DASHBOARD_CLIENT_MAX_SIZE


@pytest.mark.parametrize("name", ["infra/job.sh", "dvc.yaml", "params.yaml"])
def test_commit_without_what_the_job_needs_is_refused(repository: Path, tmp_path: Path, name: str) -> None:
    git(repository, "rm", "--quiet", name)
    git(repository, "commit", "--quiet", "-m", "less")
    with pytest.raises(ValueError, match=f"holds no {name}"):
        package_commit(repository, tmp_path, validate=anything)


def test_link_to_a_folder_is_refused(repository: Path, tmp_path: Path) -> None:
    (repository / "link").symlink_to("infra")
    git(repository, "add", ".")
    git(repository, "commit", "--quiet", "-m", "link")
    with pytest.raises(ValueError, match="link is a link to a folder"):
        package_commit(repository, tmp_path, validate=anything)


def test_folder_without_git_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not a git repository"):
        _submit(tmp_path, Recorder(), allow_dirty=True)


# --- the submission ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["make.py", "new.py"])
def test_dirty_tree_is_refused(repository: Path, name: str) -> None:
    (repository / name).write_text("changed")
    target = Recorder()
    with pytest.raises(ValueError, match=rf"(?s)not in it:.*{name}.*--allow-dirty"):
        _submit(repository, target)
    assert not target.sent
    said = _submit(repository, target, allow_dirty=True)
    assert "not sent: 1 uncommitted changes" in said
    assert "new.py" not in target.names


def test_job_carries_the_listed_environment_and_no_credentials(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills a forwarded secret: Ray shows a job's environment to whoever asks."""
    for name in ("MLFLOW_TRACKING_URI", "AWS_SECRET_ACCESS_KEY", "SOMETHING_ELSE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, f"value of {name}")
    target = Recorder()
    said = _submit(repository, target, job_id="one", stages=["make"], credentials="/etc/ganpipe/environment")
    commit = git(repository, "rev-parse", "HEAD")
    key = target.sent[0].labels["key"]
    assert target.sent[0] == Job(
        id="one",
        stages=("make",),
        environment={
            "MLFLOW_TRACKING_URI": "value of MLFLOW_TRACKING_URI",
            "GANPIPE_JOB": "one",
            "GANPIPE_GIT_COMMIT": commit,
            "GANPIPE_STATE": "state",
            "GANPIPE_WORKSPACE": "/shared",
            "GANPIPE_CREDENTIALS": "/etc/ganpipe/environment",
        },
        labels={"commit": commit, "overrides": "", "stages": "make", "key": key, "workspace": "/shared"},
    )
    assert not any("value of" in line for line in said)
    said = _submit(repository, target)
    assert target.sent[1].id == f"gan-{commit[:8]}-{target.sent[1].labels['key'][:12]}"
    assert any("AWS_SECRET_ACCESS_KEY stays here" in line for line in said)


@pytest.mark.parametrize(
    ("variables", "options", "expected"),
    [
        ({"MLFLOW_TRACKING_URI": "http://me:hunter22@mlflow:5000"}, {}, "MLFLOW_TRACKING_URI=http://***@mlflow:5000 has a password"),
        ({}, {"overrides": ["train.state_uri=s3://key:hunter22@bucket"]}, "-S train.state_uri=s3://***@bucket has a password"),
        ({}, {"job_id": "../../x"}, "'../../x' is no name of a job"),
        ({}, {"job_id": "a b"}, "is no name of a job"),
        ({}, {"workspace": "shared"}, "--workspace shared: expected an absolute path"),
        ({}, {"credentials": "keys"}, "--credentials keys: expected an absolute path"),
        ({}, {"workspace": None}, "no way home"),
    ],
)
def test_what_would_leak_or_be_lost_is_refused(
    repository: Path, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], options: dict[str, Any], expected: str
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    target = Recorder()
    with pytest.raises(ValueError, match=re.escape(expected)) as refused:
        _submit(repository, target, **options)
    assert not target.sent
    assert "hunter22" not in str(refused.value)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "params.yaml",
            BEFORE.replace("state_uri: state", "state_uri: s3://me:hunter22@b/k"),
            "train.state_uri=s3://***@b/k has a password",
        ),
        (".dvc/config", "['remote \"a\"']\n    url = s3://b\n    secret_access_key = hunter22\n", "holds a secret"),
        (".dvc/config", "[core]\n    remote = a\n['remote \"a\"']\n    url = ../store\n", "a folder relative to the clone"),
        (".dvc/config", "[core]\n    remote = a\n", "names the remote a, but has no url"),
    ],
)
def test_commit_that_leaks_or_cannot_bring_results_home_is_refused(repository: Path, name: str, text: str, expected: str) -> None:
    (repository / name).write_text(text)
    git(repository, "commit", "--quiet", "-a", "-m", "change")
    with pytest.raises(ValueError, match=re.escape(expected)) as refused:
        _submit(repository, Recorder())
    assert "hunter22" not in str(refused.value)


# --- one job for one commit -------------------------------------------------------------------------------------------------------------


def test_same_commit_and_settings_is_one_job_until_it_failed(repository: Path) -> None:
    """Kills a second job beside one that runs or is done; a change of commit, override, stage or folder is another job."""
    running, done, failed = Recorder(), Recorder(Outcome(status="SUCCEEDED", exit_code=0)), Recorder(Outcome(status="FAILED", exit_code=1))
    for target in (running, done, failed):
        _submit(repository, target)
        first = target.sent[0].id
        said = " ".join(_submit(repository, target))
        assert first in said
        if target is failed:
            assert [job.id for job in target.sent] == [first, f"{first}-2"]
        else:
            assert len(target.sent) == 1
            assert ("attached to it" in said) == (target is running)
    _submit(repository, done, again=True)
    assert done.sent[1].id == f"{done.sent[0].id}-2"
    for options in ({"overrides": ["train.seed=2"]}, {"stages": ["make"]}, {"workspace": "/other"}):
        _submit(repository, running, **options)
    (repository / "make.py").write_text("changed")
    git(repository, "commit", "--quiet", "-a", "-m", "change")
    _submit(repository, running)
    assert len({job.id for job in running.sent}) == 5


def test_name_that_another_job_has_is_refused(repository: Path) -> None:
    target = Recorder()
    _submit(repository, target, job_id="mine")
    with pytest.raises(ValueError, match="another job mine already"):
        _submit(repository, target, job_id="mine", overrides=["train.seed=2"])


def test_driver_that_died_is_sent_again_as_often_as_asked(repository: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills a retry of a job that failed by itself, and a retry too many."""
    for ending, jobs in (
        (Outcome(status="FAILED", exit_code=targets.DIED, has_died=True), 3),
        (Outcome(status="FAILED", exit_code=1), 1),
    ):
        target = Recorder(ending)
        monkeypatch.setattr(command, "target_at", lambda address, target=target: target)
        arguments = ["--address", "http://head:8265", "--workspace", "/shared", "--retry", "2"]
        assert command.main(arguments, root=repository, validate=anything) == ending.exit_code
        assert len(target.sent) == jobs


def test_what_cannot_be_seen_from_here_is_warned_of(repository: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "seen" / "cache").mkdir(parents=True)
    seen = {"workspace": str(tmp_path / "seen")}

    def warnings(**options: Any) -> str:
        return "\n".join(line for line in _submit(repository, Recorder(), **options) if line.startswith("warning"))

    alone = {"workspace": None, "results": "/kept"}
    assert "no --workspace" in warnings(**alone)
    assert "`ganpipe submit fetch` cannot apply" in warnings(**alone)
    assert "train.state_uri=state is relative" in warnings(**alone)
    assert "train.state_uri" not in warnings(overrides=["train.state_uri=/shared/state"], **alone)
    assert "the results can be fetched only where it is" in warnings()
    assert "MLFLOW_TRACKING_URI" in warnings(**seen)
    for uri in ("sqlite:///mlflow.db", "http://localhost:5000"):
        monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
        assert "another one on the cluster" in warnings(**seen)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    assert warnings(**seen) == ""


class _Server:
    """Stands for Ray's client: keeps what it is asked to start."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def list_jobs(self) -> list[object]:
        return []

    def submit_job(self, **asked: Any) -> None:
        self.asked.append(asked | {"files": sorted(zipfile.ZipFile(asked["runtime_env"]["working_dir"]).namelist())})


def test_a_dry_run_prints_what_a_submission_hands_to_ray_and_sends_nothing(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: a dry run that sends, that prints a request of its own making, or that skips a check."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://mlflow:5000")
    target, server = ray_jobs.RayJobs.__new__(ray_jobs.RayJobs), _Server()
    target._client = server
    monkeypatch.setattr(command, "target_at", lambda address: target)

    def run(*more: str) -> int:
        given = ["--workspace", "/shared", "-S", "train.seed=5", "--target", "make", "--keep-days", "3", "--detach", *more]
        return command.main(given, root=repository, validate=anything)

    assert run("--dry-run") == 0
    shown = capsys.readouterr()
    assert not server.asked
    assert "dry run: nothing was sent" in shown.err
    assert run() == 0
    (sent,) = server.asked
    sent["runtime_env"]["working_dir"] = Path(sent["runtime_env"]["working_dir"]).name
    printed = json.loads(shown.out)
    assert {**printed["request"], "files": printed["package"]["files"]} == sent
    for wrong in (["--credentials", "keys"], ["-S", "trian.seed=1"], ["--submission-id", "../../x"]):
        with pytest.raises(ValueError, match=r".") as real:
            run(*wrong)
        with pytest.raises(ValueError, match=r".") as dry:
            run(*wrong, "--dry-run")
        assert str(dry.value) == str(real.value)


def test_a_head_that_has_only_just_started_is_waited_for(repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kills a job that is refused for good because its node is not ready yet, and a refusal that is tried again for ever."""

    class Client:
        def __init__(self, *said: str) -> None:
            self.said = list(said)

        def submit_job(self, **_: object) -> None:
            if self.said:
                raise RuntimeError(f"Request failed with status code 500: {self.said.pop(0)}")

    target = ray_jobs.RayJobs.__new__(ray_jobs.RayJobs)
    target._poll_seconds = 0.01
    target._client = Client(
        "No available agent to submit job, please try again later.", "No available agent to submit job.", "Job one exists"
    )
    package = package_commit(repository, tmp_path, validate=anything)
    with pytest.raises(ValueError, match=r"the job server refused job one: .*Job one exists"):
        target.submit(package, Job(id="one"))
    target.submit(package, Job(id="one"))
    monkeypatch.setattr(ray_jobs, "AGENT_SECONDS", 0.0)
    target._client = Client(*["No available agent to submit job"] * 2)
    with pytest.raises(ValueError, match="No available agent"):
        target.submit(package, Job(id="one"))


# --- the address and the token ----------------------------------------------------------------------------------------------------------


def test_unreachable_head_is_told_before_any_work(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        assert command.main(["--address", address], root=tmp_path / "nothing") == targets.UNREACHABLE
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
            code = command.main(["--address", f"http://127.0.0.1:{server.server_port}"], root=tmp_path)
        finally:
            server.shutdown()
            thread.join()
    assert code == targets.UNREACHABLE
    assert "not as a Ray job server" in capsys.readouterr().err


@pytest.mark.parametrize("address", ["ray://head:10001", "head:8265", "http://"])
def test_address_of_another_kind_is_refused(tmp_path: Path, address: str) -> None:
    with pytest.raises(ValueError, match="expected the job server"):
        command.main(["--address", address], root=tmp_path)


def test_address_comes_from_the_environment_when_it_is_http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    with pytest.raises(ValueError, match="where to"):
        command.main([], root=tmp_path)
    asked: list[str | None] = []

    def unreachable(address: str | None) -> targets.Target:
        asked.append(address)
        raise targets.Unreachable("no")

    monkeypatch.setattr(command, "target_at", unreachable)
    monkeypatch.setenv("RAY_ADDRESS", "http://head:8265")
    assert command.main([], root=tmp_path) == targets.UNREACHABLE
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", "https://other:8265")
    assert command.main([], root=tmp_path) == targets.UNREACHABLE
    assert asked == ["http://head:8265", "https://other:8265"]


def test_token_is_found_where_ray_finds_it(tmp_path: Path) -> None:
    """Kills another order than Ray's own, which a real `ray` is asked for in test_submit_server.py."""
    home, file = tmp_path / "somebody", tmp_path / "file"
    assert find_token({}, home=home)[0] == ""
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text("of home\n")
    file.write_text("of file\n")
    assert find_token({}, home=home) == ("of home", str(home / ".ray" / "auth_token"))
    path = {"RAY_AUTH_TOKEN_PATH": str(file)}
    assert find_token(path, home=home)[0] == "of file"
    assert find_token(path | {"RAY_AUTH_TOKEN": "of variable"}, home=home) == ("of variable", "RAY_AUTH_TOKEN")
    assert find_token({"RAY_AUTH_MODE": "disabled", "RAY_AUTH_TOKEN": "x"}, home=home) == ("", "RAY_AUTH_MODE=disabled sends none")
    for path in ({"RAY_AUTH_TOKEN_PATH": str(tmp_path / "none")}, {"RAY_AUTH_TOKEN_PATH": str(tmp_path)}):
        with pytest.raises(ValueError, match=r"RAY_AUTH_TOKEN_PATH=.* cannot be read"):
            find_token(path, home=home)


@pytest.mark.parametrize(
    ("status", "driver", "error_type", "code", "has_died"),
    [
        ("SUCCEEDED", 0, None, 0, False),
        ("STOPPED", None, None, targets.STOPPED, False),
        ("FAILED", 5, "JOB_ENTRYPOINT_COMMAND_ERROR", 5, False),
        ("FAILED", 1, "JOB_ENTRYPOINT_COMMAND_ERROR", 1, False),
        ("FAILED", 0, None, 1, False),
        ("FAILED", -9, "JOB_ENTRYPOINT_COMMAND_ERROR", 137, True),
        ("FAILED", 137, "JOB_ENTRYPOINT_COMMAND_ERROR", 137, True),
        ("FAILED", None, "JOB_SUPERVISOR_ACTOR_DIED", targets.DIED, True),
        ("FAILED", None, "RUNTIME_ENV_SETUP_FAILURE", 1, False),
    ],
)
def test_exit_code_of_each_ending(status: str, driver: int | None, error_type: str | None, code: int, has_died: bool) -> None:
    outcome = ray_jobs._outcome(status, driver, "", error_type)
    assert (outcome.exit_code, outcome.has_died) == (code, has_died)


def test_of_a_failure_the_last_lines_are_told_once() -> None:
    """Kills the first five lines of a traceback, and a message that repeats the log above it."""
    text = "\n".join(["Traceback (most recent call last):", *(f"  frame {n}" for n in range(50)), "ValueError: the reason"])
    outcome = ray_jobs._outcome("FAILED", 1, text)
    assert outcome.message.splitlines()[-1] == "ValueError: the reason"
    assert len(outcome.message.splitlines()) == ray_jobs.LAST_LINES
    assert "the reason" in following.ending("job", outcome)
    assert following.ending("job", outcome, printed=text) == "job job: FAILED (exit code 1)"


@pytest.mark.parametrize(
    ("ending", "code", "stopped"),
    [
        (KeyboardInterrupt(), targets.INTERRUPTED, ["job"]),
        (targets.TimedOut(), targets.TIMED_OUT, ["job"]),
        (targets.Lost("silence"), targets.LOST, []),
        (Outcome(status="FAILED", exit_code=9), 9, []),
    ],
)
def test_follow_turns_each_ending_into_a_code(ending: BaseException | Outcome, code: int, stopped: list[str]) -> None:
    target = Recorder(ending)
    assert following.follow(target, "job", timeout_minutes=1).exit_code == code
    assert target.stopped == stopped


@pytest.mark.parametrize(
    "arguments",
    [
        ["status"],
        ["list", "job"],
        ["fetch"],
        ["--retry", "2", "--detach"],
        ["nothing"],
        ["--retry", "-1"],
        ["--detach", "--timeout-minutes", "5"],
        ["list", "--dry-run"],
    ],
)
def test_verbs_ask_for_what_they_need(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        command.main(["--address", "http://head:8265", *arguments])
    assert left.value.code == 2
    assert "usage" in capsys.readouterr().err
