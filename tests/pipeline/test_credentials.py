"""Secrets come from a file of the node, the same in the driver (infra/job.sh) and in a worker."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.driver.credentials import load_credentials
from pipeline.driver.failures import ClusterError
from tests.pipeline.tiny_jobs import ROOT

FILE = "# ours\nAWS_ACCESS_KEY_ID=a b=c\nMLFLOW_TRACKING_PASSWORD=$(id) `id` \\ \"'\n1X=no\nA-B=no\n=no\nno line\n EMPTY=no\nLAST="
EXPECTED = {"AWS_ACCESS_KEY_ID": "a b=c", "MLFLOW_TRACKING_PASSWORD": "$(id) `id` \\ \"'", "LAST": ""}


def test_worker_and_job_script_read_a_file_alike(tmp_path: Path) -> None:
    """Kills a script that runs what stands in the file, and a worker that reads it otherwise."""
    file = tmp_path / "credentials"
    file.write_text(FILE)
    environment = {"GANPIPE_CREDENTIALS": str(file)}
    load_credentials(environment)
    assert environment == EXPECTED | {"GANPIPE_CREDENTIALS": str(file)}

    script = (ROOT / "infra" / "job.sh").read_text()
    part = script[script.index('if [ -n "${GANPIPE_CREDENTIALS:-}"') : script.index("# Ray unpacks")]
    show = f"{sys.executable} -c 'import os, json; print(json.dumps(dict(os.environ)))'"
    done = subprocess.run(
        ["sh", "-euc", f"{part}\n{show}"], env={"GANPIPE_CREDENTIALS": str(file)}, check=True, capture_output=True, text=True
    )

    assert EXPECTED.items() <= json.loads(done.stdout).items()
    assert set(json.loads(done.stdout)) - set(EXPECTED) <= {"GANPIPE_CREDENTIALS", "PWD", "_", "SHLVL", "OLDPWD", "LC_CTYPE"}


def test_node_without_the_file_is_named(tmp_path: Path) -> None:
    load_credentials({})
    with pytest.raises(ClusterError, match="GANPIPE_CREDENTIALS=/nowhere cannot be read on node"):
        load_credentials({"GANPIPE_CREDENTIALS": "/nowhere"})
