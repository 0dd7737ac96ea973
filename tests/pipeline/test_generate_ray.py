"""`ganpipe generate` as a person calls it: by the workers of a real Ray, into a real object store, killed on the way; and of mistakes."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ganlib.storage import open_storage
from pipeline import bulk, generate
from tests.pipeline.test_compare import make

ROOT = Path(__file__).resolve().parents[2]
COUNT, PART = 6000, 500


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return make(tmp_path, "one", seed=1, conditional=True)


def command(*arguments: object, home: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "pipeline.generate", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "HOME": str(home), "RAY_AUTH_MODE": "disabled"} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


@pytest.mark.heavy
def test_killed_on_two_workers_and_again_is_one_process_s_bytes(model: Path, tmp_path: Path, s3, monkeypatch) -> None:
    """SIGKILL to the driver while parts are made. Kills: images that depend on who makes them, a part.json before its files, parts made twice."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    address = f"{s3.uri.removesuffix('trainings')}bulk"
    asked = ("--model", model, "--count", COUNT, "--part", PART, "--format", "webdataset")
    storage = open_storage(address)
    first = command(*asked, "--out", address, "--workers", 2, home=tmp_path)
    deadline = time.monotonic() + 300
    while not (there := [name for name in storage.names("") if bulk.part(storage, name)]):
        assert first.poll() is None, ended(first)[2]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    first.send_signal(signal.SIGKILL)
    ended(first)
    assert generate.MANIFEST not in storage.names("")
    code, _, err = ended(command(*asked, "--out", address, "--workers", 2, home=tmp_path))
    assert code == 0, err
    made = re.findall(r"^(part-\d+): images", err, re.MULTILINE)
    assert len(made) == len(set(made)) <= COUNT // PART - len(there)
    assert not set(made) & set(there)
    code, out, err = ended(command(*asked, "--out", tmp_path / "here", home=tmp_path))
    assert code == 0, err
    assert out == f"{tmp_path / 'here'}: 6,000 images (webdataset) in 12 parts, manifest.json\n"
    assert json.loads(storage.read(generate.MANIFEST)) == json.loads((tmp_path / "here" / generate.MANIFEST).read_text())
    assert generate.verify(address) == []
    code, out, err = ended(command("--check", "--out", address, home=tmp_path))
    assert (code, out) == (0, f"{address}: every file is what manifest.json says\n"), err


@pytest.mark.heavy
def test_single_files_are_the_same_in_a_store_and_in_a_folder(model: Path, tmp_path: Path, s3, monkeypatch) -> None:
    """Kills: a format that only a folder holds, hashes of files that were not sent, JSON in another order."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    address = f"{s3.uri.removesuffix('trainings')}single"
    for out in (address, str(tmp_path / "here")):
        code, _, err = ended(
            command("--model", model, "--count", 30, "--batch", 10, "--part", 20, "--format", "png", "--out", out, home=tmp_path)
        )
        assert code == 0, err
    assert generate.verify(address) == []
    there = open_storage(address)
    for file in (generate.MANIFEST, f"part-00001/{bulk.PART}"):
        assert there.read(file) == (tmp_path / "here" / file).read_bytes()
    manifest = json.loads(there.read(generate.MANIFEST))
    assert len([name for part in manifest["parts"].values() for name in part["sha256"] if name.endswith(".png")]) == 30


def test_mistakes_are_one_line_before_anything_is_written(model: Path, tmp_path: Path) -> None:
    """Kills: a traceback, and words that name a key of params.yaml where an option is meant."""
    out = tmp_path / "out"
    for arguments, line in (
        (("--count", 0), r"--count 0: expected a whole number, 1 or more"),
        ((), r"--count None: expected how many images"),
        (("--count", 5, "--truncation", 2), r"--truncation 2: expected more than 0, and 1 at most"),
        (("--count", 5, "--classes", "dog"), r".*'dog', which is no class of the data; legal: 0 0, 1 1, 2 2"),
        (("--count", 5, "--out", "ftp://there"), r"--out='ftp://there' is no place that files can be written to; legal: a folder, s3://.*"),
        (("--check",), r"--out \S+/out holds no manifest.json: no export, or one that was broken off; run its command again"),
    ):
        code, _, err = ended(command("--model", model, "--out", out, *arguments, home=tmp_path))
        assert code == 1
        assert re.fullmatch(f"error: {line}\n", err), err
    assert not out.exists()
