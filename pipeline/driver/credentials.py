"""Secrets of a cluster job, by reference: GANPIPE_CREDENTIALS names a file of the node, which Ray never sees the content of."""

import os
import re
from collections.abc import MutableMapping
from pathlib import Path

from pipeline.driver.failures import ClusterError

CREDENTIALS = "GANPIPE_CREDENTIALS"
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def load_credentials(environment: MutableMapping[str, str] = os.environ) -> None:
    """Take the NAME=VALUE lines of the file into the environment, as infra/job.sh does on the node that runs the job; other lines are left out.

    Raises:
        ClusterError: this node has no such file, or it is not ours to read.
    """
    if not (path := environment.get(CREDENTIALS)):
        return
    try:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise ClusterError(
            f"{CREDENTIALS}={path} cannot be read on node {os.uname().nodename}: {reason}; every node needs that file"
        ) from None
    for name, mark, value in (line.partition("=") for line in lines):
        if mark and NAME.fullmatch(name):
            environment[name] = value
