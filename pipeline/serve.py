"""`ganpipe serve`: a model over HTTP that answers with the bytes of its images, where `mlflow models serve` can answer with JSON alone.

POST /invocations takes what MLflow's server takes, {"inputs": [...], "params": {...}}, and answers as `pipeline.tracking.serving` says. With `Accept:
application/octet-stream` the images come as they are: uint8, the shape N,C,H,W in the header X-Shape. GET /ping: 200. What is wrong with a request is
answered with 400, as JSON, with what is right. Images of 8 bits are marked as `marks` of params.yaml asks for; float32, for computing with, are not.
"""

import argparse
import gc
import json
import socket
import tempfile
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import BoundedSemaphore
from typing import Any, Literal

import numpy as np
import torch
from pydantic import Field

from ganlib import config
from ganlib.config import Section
from pipeline import cli, forms, mark
from pipeline.compare import find
from pipeline.generator import TrainedGenerator
from pipeline.params import ROOT
from pipeline.tracking import serving
from pipeline.tracking.serving import Generator

BYTES = "application/octet-stream"
MAX_BODY_BYTES = 1 << 26
IDLE_SECONDS = 60  # of a connection that says nothing
PORT = 5001


class Asked(Section):
    """`params` of a request, as MLflow's schema of a registered version has them."""

    count: int = Field(0, ge=0)
    seed: int = Field(0, ge=0)
    first: int = Field(0, ge=0)
    classes: list[str | int] = Field(default_factory=list)
    truncation: float | None = Field(None, strict=False)
    format: Literal["float32", "uint8", "bytes", "png"] = "float32"


class Body(Section):
    """A request."""

    inputs: Any = None
    params: Asked = Field(default_factory=lambda: Asked.model_validate({}))


def load(trained: TrainedGenerator, truncation: float) -> Generator:
    """What answers: as a registered version does, with the network itself, which is faster than its exported graph."""
    model = Generator()
    model.begin(forms.interface(trained, truncation), trained.served(truncation))
    return model


class Server(ThreadingHTTPServer):
    """A thread a connection; `at_once` of them make images.

    Raises:
        ValueError: nobody can listen there.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, model: Generator, *, host: str, port: int, at_once: int = 1) -> None:
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        try:
            super().__init__((host, port), Handler)
        except OSError as error:
            raise ValueError(
                f"--host {host} --port {port}: {error.strerror or error}; take another port, or end what listens there"
            ) from None
        self.model = model
        self.turn = BoundedSemaphore(at_once)

    def answer(self, data: bytes, *, is_raw: bool) -> tuple[bytes, Mapping[str, str]]:
        """A body, and the headers that say what it is.

        Raises:
            ValueError: what is wrong with the request.
        """
        try:
            body = config.options(Body, _mapping(data), key="body")
            given = None if serving.is_nothing(body.inputs) else body.inputs
            asked = body.params.model_dump(exclude_none=True)
            with self.turn:
                made = self.model.predict(None, given, asked | ({"format": "uint8"} if is_raw else {}))
        except serving.refusal() as error:
            raise ValueError(str(error).removeprefix("INVALID_PARAMETER_VALUE: ")) from None
        if is_raw:
            return made.tobytes(), {"Content-Type": BYTES, "X-Shape": ",".join(map(str, made.shape))}
        plain = made.tolist() if isinstance(made, np.ndarray) else made
        return json.dumps({"predictions": plain}, allow_nan=False).encode(), {"Content-Type": "application/json"}

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away in the middle is no error of ours."""


class Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"
    timeout = IDLE_SECONDS
    disable_nagle_algorithm = True  # else what follows the headers waits for the client's ACK
    wbufsize = 1 << 17  # a head and 64 images go out at once

    def do_GET(self) -> None:
        self._refuse(404, "GET /ping, or POST /invocations") if self.path != "/ping" else self._reply(200, b"\n", {})

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if self.path != "/invocations":
            self._refuse(404, "GET /ping, or POST /invocations")
        elif not length.isdigit():
            self._refuse(411, "a request needs its Content-Length")
        elif int(length) > MAX_BODY_BYTES:
            self._refuse(413, f"a body of {int(length):,} bytes; expected {MAX_BODY_BYTES:,} at most")
        else:
            data = self.rfile.read(int(length))
            try:
                self._reply(200, *self.server.answer(data, is_raw=BYTES in self.headers.get("Accept", "")))
            except ValueError as error:
                self._reply(400, _error("INVALID_PARAMETER_VALUE", str(error)), {"Content-Type": "application/json"})
            except (MemoryError, RuntimeError) as error:
                self._refuse(500, f"{type(error).__name__}: {error}")

    def _refuse(self, status: int, message: str) -> None:
        """What was sent may not have been read, so that no other request can follow."""
        self.close_connection = True
        self._reply(status, _error("BAD_REQUEST" if status < 500 else "INTERNAL_ERROR", message), {"Content-Type": "application/json"})

    def _reply(self, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing a request."""


def _mapping(data: bytes) -> dict[str, Any]:
    try:
        body = json.loads(data)
    except ValueError as error:
        raise ValueError(f"the body is no JSON: {error}") from None
    if not isinstance(body, dict):
        raise ValueError('the body is no mapping; expected {"inputs": [...], "params": {"count": 16}}')
    return body


def _error(code: str, message: str) -> bytes:
    return json.dumps({"error_code": code, "message": message}).encode()


def keep_what_is_loaded() -> None:
    """For a process that does nothing but serve: what it has loaded stays, so the collector of cycles need not go through it again and again."""
    gc.collect()
    gc.freeze()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.serve", description=__doc__)
    parser.add_argument("--model", required=True, help="models:/NAME@ALIAS, models:/NAME/VERSION, a run key, or a folder like models/")
    parser.add_argument(
        "--host", default="127.0.0.1", help="nobody is asked who they are: leave it, or stand it behind something that asks"
    )
    parser.add_argument("--port", type=int, default=PORT)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="of torch")
    options = parser.parse_args()
    torch.set_num_threads(max(1, options.threads))
    with tempfile.TemporaryDirectory(prefix="serve-") as scratch:
        found = find(options.model, Path(scratch) / "model", ROOT)
        truncation = 1.0 if found.evaluation is None else found.evaluation["protocol"].get("truncation", 1.0)
        model = load(found.trained, truncation)
        pixel_mark = mark.pixel_mark(*found.trained.image.size)
        model.mark = None if pixel_mark is None else pixel_mark.on
        with Server(model, host=options.host, port=options.port) as server:
            cli.say(f"{found.name} at http://{options.host}:{server.server_address[1]}/invocations")
            keep_what_is_loaded()
            server.serve_forever()


if __name__ == "__main__":
    cli.run(main)
