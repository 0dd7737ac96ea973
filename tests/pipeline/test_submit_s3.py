"""The way home over a DVC remote in a real S3 store, from a real Ray job server with tokens on; credentials are a file of the nodes."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.submit import command, ray_jobs
from pipeline.submit.results import Storage
from tests.object_store import SECRETS, object_store
from tests.pipeline.tiny_jobs import NAMES, anything, git, job_server, make_repository

# Ray's client passes ssl=None to aiohttp, which warns. DVC and its packages use what others of them are about to drop.
pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings(
        "ignore:ssl=None is deprecated:DeprecationWarning",
        "ignore:_NoneStep.value:DeprecationWarning",
        "ignore::DeprecationWarning:(aiobotocore|botocore|s3fs|fsspec)",
    ),
]
TOKEN = "0d4c6e8fa1b2c3d4e5f60718293a4b5c"  # of no cluster but this one
SECRET = SECRETS["AWS_SECRET_ACCESS_KEY"]


def _dvc(root: Path, *arguments: str) -> str:
    command = [sys.executable, "-m", "dvc", *arguments]
    done = subprocess.run(command, cwd=root, check=False, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def _files(folder: Path) -> dict[str, str]:
    return {str(path): path.read_text(errors="replace") for path in folder.rglob("*") if path.is_file()}


def test_results_come_home_over_s3_and_no_secret_travels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Kills: a push that leaves the run cache behind, keys that are sent along, a store that is away told as a traceback or as a success."""
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    with object_store() as store, job_server(token=TOKEN) as server:
        for name, value in store.environment.items():
            monkeypatch.setenv(name, value)
        repository = make_repository(tmp_path / "project", remote="s3://state/dvc")
        keys = tmp_path / "keys"  # a file that the nodes have
        keys.write_text("".join(f"{name}={value}\n" for name, value in SECRETS.items()))
        other = tmp_path / "another clone"
        git(tmp_path, "clone", "--quiet", str(repository), str(other))

        def send(seed: int) -> tuple[int, str]:
            options = ["--address", server.address, "--workspace", str(tmp_path / "shared"), "--credentials", str(keys)]
            code = command.main([*options, "-S", f"train.seed={seed}"], root=repository, validate=anything)
            said = capsys.readouterr()
            return code, said.out + said.err

        code, said = send(7)
        assert code == 0, said
        assert "making with seed 7" in said
        (job,) = Storage(repository).names()
        shutil.rmtree(tmp_path / "shared")  # what comes home comes from the store
        for root in (repository, other):
            if root is other:
                assert command.main(["--fetch", job], root=root, validate=anything) == 0  # no job server is needed
            assert "up to date" in _dvc(root, "status")
            for name in ("samples", "reports", ".dvc/cache"):
                shutil.rmtree(root / name)
            _dvc(root, "pull")
            assert "Running stage" not in _dvc(root, "repro")
            assert (root / "reports" / "seed.txt").read_text() == "7"

        client = ray_jobs.RayJobs(server.address)._client
        details = json.dumps([info.model_dump(mode="json") for info in client.list_jobs()])
        kept = {"details, with the tags": details, "log": client.get_job_logs(job), "said": said}
        for folder in (server.scratch / "t", repository / ".dvc", other / ".dvc"):
            kept |= _files(folder)
        kept |= {f"record of {name}": Storage(repository).read(name).model_dump_json() for name in Storage(repository).names()}
        assert job in details
        assert [place for place, text in kept.items() if SECRET in text or TOKEN in text] == []

        store.kill()  # refused at once, where one that is silent would be asked for minutes
        with pytest.raises(OSError, match=r"s3:state/dvc cannot be reached: Could not connect to the endpoint"):
            command.main(["--fetch", job], root=other, validate=anything)
        git(repository, "checkout", "--quiet", "params.yaml")
        (repository / "dvc.lock").unlink()
        code, said = send(8)
        assert (code, "Traceback" in said) == (1, False), said
        assert "Could not connect to the endpoint" in said
