"""A real S3 server (SeaweedFS) on free loopback ports, for the tests of `train.state_uri: s3://...`."""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

SECRETS = {"AWS_ACCESS_KEY_ID": "admin", "AWS_SECRET_ACCESS_KEY": "of-this-test"}


class ObjectStore:
    """A server of one bucket; `environment` is what a client needs, `uri` a place in the bucket.

    Args:
        folder: of its data: killed and started again, it is the same one.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port, master, volume, filer, admin = free_ports(5)
        ports = [
            f"-s3.port={self.port}",
            f"-master.port={master}",
            f"-volume.port={volume}",
            f"-filer.port={filer}",
            f"-admin.port={admin}",
        ]
        quiet = ["-admin.ui=false", "-master.telemetry=false", "-webdav=false", "-debug.port=0"]
        weed = str(Path(sys.executable).with_name("weed"))
        self._command = [weed, "mini", f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-bucket=state", *ports, *quiet]

    @property
    def environment(self) -> dict[str, str]:
        return {**SECRETS, "AWS_ENDPOINT_URL": f"http://127.0.0.1:{self.port}", "AWS_REGION": "us-east-1"}

    @property
    def uri(self) -> str:
        return "s3://state/trainings"

    def start(self) -> None:
        """Start it, and wait until it takes an object."""
        with (self.folder / "log").open("a") as log:
            self.process = subprocess.Popen(
                self._command, cwd=self.folder, env={**os.environ, **SECRETS}, stdout=log, stderr=log, start_new_session=True
            )
        from obstore.exceptions import BaseError
        from obstore.store import S3Store

        client = S3Store(
            "state",
            endpoint=f"http://127.0.0.1:{self.port}",
            region="us-east-1",
            access_key_id=SECRETS["AWS_ACCESS_KEY_ID"],
            secret_access_key=SECRETS["AWS_SECRET_ACCESS_KEY"],
            client_options={"allow_http": True, "read_timeout": "5s"},
            retry_config={"max_retries": 0},
        )
        deadline = time.monotonic() + 90
        while True:
            try:
                client.list_with_delimiter()
                client.put("probe", b"1")
                return
            except (OSError, BaseError):
                assert self.process.poll() is None, (self.folder / "log").read_text()[-3000:]
                assert time.monotonic() < deadline, (self.folder / "log").read_text()[-3000:]
                time.sleep(0.5)

    def kill(self) -> None:
        """As a power cut: nobody listens any more."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()

    def stop(self) -> None:
        """As `kill -STOP`: the server is there and answers nothing. Waited for: its threads answer on until each has heard of it."""
        os.kill(self.process.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, self.process.pid, os.WSTOPPED)

    def resume(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)


def free_ports(count: int) -> list[int]:
    """Free TCP ports whose +10000 neighbours (gRPC) are free too."""
    found: list[int] = []
    while len(found) < count:
        with socket.socket() as probe, socket.socket() as neighbour:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
            if port >= 50_000 or port in found:
                continue
            try:
                neighbour.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
            found.append(port)
    return found


@contextmanager
def object_store() -> Iterator[ObjectStore]:
    """SeaweedFS with one bucket, its data in a temporary folder; ends with the block."""
    with tempfile.TemporaryDirectory(prefix="weed", ignore_cleanup_errors=True) as folder:
        store = ObjectStore(Path(folder))
        try:
            store.start()
            yield store
        finally:
            with suppress(ProcessLookupError):  # killed by the test
                store.kill()
