"""`ganpipe serve` under load: a process of its own, eight clients at once, for as long as it is asked to last."""

import base64
import http.client
import itertools
import json
import os
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import save_file

from benchmarks.generate_throughput import default
from ganlib.files import sha256_file
from ganlib.sampling import generate
from pipeline import generator, mark, serve
from pipeline.generator import TrainedGenerator

ROOT = Path(__file__).resolve().parents[2]
CLIENTS, BATCH, SEEDS = 8, 64, 24
LONG_SECONDS = float(os.environ.get("SERVED_SECONDS", "600"))
MOST_MEGABYTES = 48  # of growth after the warm-up; from one second to the next it goes up and down by as much, with which thread frees what
SOON = 60  # seconds, before which memory still settles: a heap for each thread
RECONNECT = 50  # requests of a connection
WRONG, AS_JSON = 15, 7  # of each 16 requests, one that is refused and one that is answered in base64


@dataclass
class Seen:
    """By the clients."""

    right: int = 0
    refused: int = 0
    wrong: list[str] = field(default_factory=list)


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the server has it: sums of floats depend on it."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def saved(trained: TrainedGenerator, folder: Path) -> Path:
    facts = {"family": trained.model.name, "model": trained.model.model_dump(mode="json"), "image": trained.image.model_dump(mode="json")}
    folder.mkdir()
    weights = folder / generator.weights_file(facts)
    save_file(trained.network.state_dict(), weights)
    facts["sha256"] = sha256_file(weights)
    (folder / generator.DESCRIPTION).write_text(json.dumps(facts))
    return folder


def client(number: int, port: int, until: float, expected: list[bytes], seen: Seen) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for request in itertools.count():
        if time.monotonic() > until:
            break
        seed, kind = (7 * request + 3 * number) % SEEDS, (request + number) % 16
        params = {"count": BATCH, "seed": seed} | ({"truncation": 0.5} if kind == WRONG else {"format": "bytes"} if kind == AS_JSON else {})
        try:
            accept = {} if kind == AS_JSON else {"Accept": serve.BYTES}
            connection.request("POST", "/invocations", json.dumps({"params": params}), accept)
            answer = connection.getresponse()
            status, data = answer.status, answer.read()
            if kind == AS_JSON:
                data = base64.b64decode(json.loads(data)["predictions"]["data"])
            if kind == WRONG and status == 400 and "no styles to truncate" in json.loads(data)["message"]:
                seen.refused += 1
            elif kind != WRONG and status == 200 and data == expected[seed]:
                seen.right += 1
            else:
                seen.wrong.append(f"client {number}, request {request}, seed {seed}: {status}, {data[:80]!r}")
        except (OSError, http.client.HTTPException, KeyError, ValueError) as error:
            seen.wrong.append(f"client {number}, request {request}: {error!r}")
        if request % RECONNECT == RECONNECT - 1 or len(seen.wrong) > 10:
            connection.close()  # the next request makes it anew
    connection.close()


def observed(
    server: subprocess.Popen[str], seconds: float, expected: list[bytes]
) -> tuple[list[Seen], list[tuple[float, float]], tuple[int, int]]:
    """What the clients saw, (second, megabytes) of the server, and its threads and open files at the end."""
    assert server.stderr is not None
    line = server.stderr.readline()
    address = re.search(r"127\.0\.0\.1:(\d+)/invocations", line)
    assert address, line + server.stderr.read()
    begun, seen, process = time.monotonic(), [Seen() for _ in range(CLIENTS)], psutil.Process(server.pid)
    told = [(i, int(address[1]), begun + seconds, expected, seen[i]) for i in range(CLIENTS)]
    threads = [threading.Thread(target=client, args=each) for each in told]
    for thread in threads:
        thread.start()
    memory = []
    while any(thread.is_alive() for thread in threads):
        time.sleep(seconds / 100)
        memory.append((time.monotonic() - begun, process.memory_info().rss / 2**20))
    return seen, memory, (process.num_threads(), process.num_fds())


@pytest.mark.parametrize(
    "seconds",
    [
        pytest.param(10.0, marks=pytest.mark.heavy, id="short"),
        pytest.param(LONG_SECONDS, marks=[pytest.mark.slow, pytest.mark.timeout(LONG_SECONDS + 120)], id="long"),
    ],
)
def test_eight_clients_for_long_without_an_error_or_growth(seconds: float, tmp_path: Path, one_thread: None) -> None:
    """Every image is that of its seed, marked. Kills: what is kept of a request or a connection, an answer of another's, a thread that dies."""
    trained = default()
    put = mark.pixel_mark(*trained.image.size)
    assert put is not None
    expected = [
        put.on(generate(trained.network, trained.prior.seeded(seed, range(BATCH)), batch_images=BATCH)).tobytes() for seed in range(SEEDS)
    ]
    told = [sys.executable, "-m", "pipeline.serve", "--model", str(saved(trained, tmp_path / "models")), "--port", "0", "--threads", "1"]
    with subprocess.Popen(told, cwd=ROOT, stderr=subprocess.PIPE, text=True) as server:
        try:
            seen, memory, threads_and_files = observed(server, seconds, expected)
        finally:
            server.terminate()
    wrong = [text for each in seen for text in each.wrong]
    requests = sum(each.right + each.refused for each in seen)
    early, late = ([size for when, size in memory if low <= when / seconds <= high] for low, high in ((0.1, 0.3), (0.8, 1.0)))
    warm, end = statistics.median(early), statistics.median(late)
    print(f"{requests} requests, {len(wrong)} errors; {warm:.0f} MB warm, {end:.0f} at the end; {threads_and_files} threads and files")
    assert wrong == []
    assert all(each.right and each.refused for each in seen)
    assert max(threads_and_files) < 100  # eight of each and what the process has anyway
    assert end - warm < MOST_MEGABYTES or seconds < SOON
