"""A real PostgreSQL on a free loopback port, its data in a temporary folder, for the tests of MLflow over one."""

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.tracking_server import free_port

USER, WORD = "mlflow", "of-this-test"
NOT_ROOT = "postgres"  # PostgreSQL refuses to run as root; Debian's package makes this account


def _tool(name: str) -> str | None:
    """Where it is: Debian keeps a folder a version, which is not in PATH."""
    installed = sorted(Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    return str(installed[-1]) if installed else shutil.which(name)


def missing() -> str:
    """Why there is no PostgreSQL here; empty where there is one."""
    lacking = [name for name in ("initdb", "postgres") if _tool(name) is None]
    return f"no PostgreSQL here ({', '.join(lacking)}): apt-get install postgresql" if lacking else ""


class Postgres:
    """A server with one database; crashed and started again, it is the same one.

    Args:
        folder: empty; its data, its log.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.port = folder, free_port()
        self.uri = f"postgresql+psycopg2://{USER}:{WORD}@127.0.0.1:{self.port}/postgres"
        self._account = NOT_ROOT if os.geteuid() == 0 else None
        self._process: subprocess.Popen[bytes] | None = None
        if self._account is not None:
            shutil.chown(folder, self._account, self._account)
        secret = folder / "word"
        secret.write_text(f"{WORD}\n")
        secret.chmod(0o644)  # initdb reads it as another account; the folder is closed to everybody else
        asked = [f"--pgdata={folder / 'data'}", f"--username={USER}", f"--pwfile={secret}", "--auth=scram-sha-256"]
        with (folder / "log").open("wb") as log:
            made = self._popen("initdb", *asked, "--locale=C.UTF-8", "--encoding=UTF8", log=log).wait(120)
        assert made == 0, self._said()

    def start(self) -> "Postgres":
        options = ["-c", "listen_addresses=127.0.0.1", "-c", f"port={self.port}", "-c", "unix_socket_directories="]
        with (self.folder / "log").open("ab") as log:
            begun = log.tell()
            self._process = self._popen("postgres", "-D", str(self.folder / "data"), *options, log=log)
        deadline = time.monotonic() + 120
        while b"ready to accept connections" not in (self.folder / "log").read_bytes()[begun:]:
            assert self._process.poll() is None, self._said()
            assert time.monotonic() < deadline, self._said()
            time.sleep(0.1)
        return self

    def crash(self) -> None:
        """End at once, with every connection: what was committed is recovered from the log of the database at the next start."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait(60)

    def _popen(self, name: str, *words: str, log: object) -> subprocess.Popen[bytes]:
        tool = _tool(name)
        assert tool is not None, missing()
        return subprocess.Popen(
            [tool, *words],
            cwd=self.folder,
            user=self._account,
            group=self._account,
            extra_groups=None if self._account is None else [],
            stdout=log,  # type: ignore[arg-type]
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _said(self) -> str:
        return (self.folder / "log").read_text()[-3000:]


@contextmanager
def postgres() -> Iterator[Postgres]:
    """Runs within the block; skip where `missing` says why."""
    with tempfile.TemporaryDirectory(prefix="postgres", ignore_cleanup_errors=True) as folder:
        server = Postgres(Path(folder))
        try:
            yield server.start()
        finally:
            server.crash()
