"""A real MLflow server, a proxy that harms the way to it, and what its database says in the end. For tests of tracking."""

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from pathlib import Path


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """`mlflow server`; killed and started again, it is the same one.

    Args:
        backend: address of its database; a sqlite file in `folder` without one. What is asked below of a database is asked of that file.
        artifacts: where it puts them; a folder in `folder` without it.
        environment: further variables of its processes.
    """

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        backend: str | None = None,
        artifacts: str | None = None,
        environment: Mapping[str, str] | None = None,
        workers: int = 1,
    ) -> None:
        self.folder = folder
        self.port = port or free_port()
        self.workers, self._environment = workers, dict(environment or {})
        self._backend, self._artifacts = backend or f"sqlite:///{folder / 'mlflow.db'}", artifacts or str(folder / "artifacts")
        self.uri = f"http://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> "Server":
        self.folder.mkdir(exist_ok=True)
        address = ["--host", "127.0.0.1", "--port", str(self.port), "--workers", str(self.workers)]
        command = [sys.executable, "-m", "mlflow", "server", *address]
        places = ["--backend-store-uri", self._backend, "--artifacts-destination", self._artifacts]
        quiet = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        environment = {**os.environ, **quiet, **self._environment}
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *places], env=environment, stdout=log, stderr=log, start_new_session=True)
        wait_for(self._answers, f"mlflow server; see {self.folder / 'log'}")
        return self

    def kill(self) -> None:
        """As `kill -9` of every process of it."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text()[-3000:]
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=5):
                return True
        except OSError:
            return False

    def query(self, text: str, *values: object) -> list[tuple[object, ...]]:
        with closing(sqlite3.connect(self.folder / "mlflow.db", timeout=60)) as database:
            return database.execute(text, values).fetchall()

    def runs(self, experiment: str) -> list[tuple[str, str]]:
        """(run id, status) of an experiment, without deleted ones."""
        found = self.query(
            "select run_uuid, status from runs join experiments using (experiment_id) "
            "where experiments.name = ? and runs.lifecycle_stage = 'active' order by start_time",
            experiment,
        )
        return [(str(run), str(status)) for run, status in found]

    def points(self, run: str) -> Counter[tuple[str, int]]:
        """How often each (metric, step) stands."""
        return Counter((str(key), int(str(step))) for key, step in self.query("select key, step from metrics where run_uuid = ?", run))

    def tags(self, run: str) -> dict[str, str]:
        return {str(key): str(value) for key, value in self.query("select key, value from tags where run_uuid = ?", run)}

    def artifacts(self, run: str) -> list[str]:
        """Names below the run's artifacts, sorted."""
        folders = list((self.folder / "artifacts").glob(f"*/{run}/artifacts"))
        return sorted(str(path.relative_to(folder)) for folder in folders for path in folder.rglob("*") if path.is_file())


class Proxy:
    """Passes bytes on to `target`, unless told to harm.

    Attributes:
        delay_seconds: before each request goes on.
        keeps: given the path of each request, which goes on when it returns.
        loses_answer: asked for each request, by its path; where true, the server does what it was asked, and the client never hears of it.
        is_cut: every connection ends at once.
    """

    def __init__(self, target: int) -> None:
        self.target = target
        self.delay_seconds = 0.0
        self.keeps: Callable[[str], object] = lambda path: None
        self.loses_answer: Callable[[str], bool] = lambda path: False
        self.is_cut = False
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.uri = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        """One connection: a request, its answer, the next request."""
        with client, suppress(OSError):
            if self.is_cut:
                return
            with socket.create_connection(("127.0.0.1", self.target)) as server:
                answering = threading.Event()  # the last bytes were the server's: the next are a new request
                answering.set()
                path = [""]

                def back() -> None:
                    with suppress(OSError):
                        while data := server.recv(65536):
                            if self.is_cut or self.loses_answer(path[0]):
                                break
                            answering.set()
                            client.sendall(data)
                    for end in (client, server):
                        with suppress(OSError):
                            end.shutdown(socket.SHUT_RDWR)

                threading.Thread(target=back, daemon=True).start()
                while data := client.recv(65536):
                    if answering.is_set():
                        answering.clear()
                        path[0] = data.split(b" ", 2)[1].decode().partition("?")[0] if b" " in data else ""
                        time.sleep(self.delay_seconds)
                        self.keeps(path[0])
                    if self.is_cut:
                        return
                    server.sendall(data)


def wait_for(condition: Callable[[], object], what: str, *, seconds: float = 120.0) -> None:
    """Return once `condition` holds; a generous deadline, so that a slow machine is no failure."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s for {what}"
        time.sleep(0.05)
