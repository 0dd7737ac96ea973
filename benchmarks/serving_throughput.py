"""Images a second of a generator that is served against its network alone, 64 at once. Prints one JSON object for each.

    python -m benchmarks.serving_throughput [--model FOLDER] [--seconds 20] [--clients 1] [--batch 64] [--format raw marked bytes png float32]

The server is a process of its own, one thread of torch: `marked` is `ganpipe serve`, `raw` the same without the mark in the
pixels (as `ganpipe serve` is where marks.pixels is off), the others are uvicorn and MLflow's `/invocations`, as
`mlflow models serve` has them, with that `format`. A client asks for images of a seed of its own and reads them as an array. The network alone: the
same weights, latents that are drawn already, images as uint8. In turns of a few seconds. A ratio by wall needs a machine that is idle; that by CPU
is the server's CPU seconds an image against the network's.
`--clients 8 --seconds 600`: errors, and how the server's memory grows from the first tenth of the time on.
"""

import argparse
import base64
import http.client
import json
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import torch

from benchmarks.generate_throughput import default
from ganlib import sampling
from pipeline import forms, generator
from pipeline.generator import TrainedGenerator
from pipeline.tracking.flavor import Flavor

SERVER = """
import sys, warnings
warnings.simplefilter("ignore")
import mlflow, torch, uvicorn
from mlflow.pyfunc import scoring_server
torch.set_num_threads(1)
server = uvicorn.Server(uvicorn.Config(scoring_server.init(mlflow.pyfunc.load_model(sys.argv[1])), port=0, log_level="error", access_log=False))
import asyncio
async def main():
    task = asyncio.create_task(server.serve())
    while not server.started:
        await asyncio.sleep(0.05)
    print(server.servers[0].sockets[0].getsockname()[1], flush=True)
    await task
asyncio.run(main())
"""
OURS = """
import sys, torch
from pathlib import Path
from benchmarks.generate_throughput import MARK, default
from pipeline import generator, serve
torch.set_num_threads(1)
form, kind, name = sys.argv[1:]
model = serve.load(default(name) if kind == "family" else generator.load(Path(name)), 1.0)
model.mark = MARK.on if form == "marked" else None
server = serve.Server(model, host="127.0.0.1", port=0)
print(server.server_address[1], flush=True)
serve.keep_what_is_loaded()
server.serve_forever()
"""
OWN = ("raw", "marked")
TURN_SECONDS = 5.0


@dataclass
class Tally:
    """What the clients saw."""

    images: int = 0
    errors: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each request


def saved(trained: TrainedGenerator, folder: Path) -> Path:
    import mlflow

    example, served = forms.example(trained, 4), trained.served(1.0)
    with torch.no_grad():
        output = served(example).numpy()
    told = forms.interface(trained, 1.0)
    flavor = Flavor(store=SimpleNamespace(mlflow=mlflow), generator=served, example=example.numpy(), output=output, interface=told)
    flavor.save_model(path=str(folder), mlflow_model=mlflow.models.Model(), pip_requirements=["torch"])
    return folder


def ask(port: int, until: float, body: Callable[[int], bytes], form: str, batch: int, first: int, tally: Tally) -> None:
    connection, seed = http.client.HTTPConnection("127.0.0.1", port, timeout=120), first
    while (begun := time.perf_counter()) < until:
        try:
            accept = {"Accept": "application/octet-stream"} if form in OWN else {}
            connection.request("POST", "/invocations", body(seed), {"Content-Type": "application/json", **accept})
            answer = connection.getresponse()
            text, seed = answer.read(), seed + 1
            if answer.status != 200:
                raise ValueError(f"{answer.status}: {text[:200]!r}")
            shape = tuple(map(int, answer.headers["X-Shape"].split(","))) if form in OWN else ()
            got = len(np.frombuffer(text, np.uint8).reshape(shape)) if form in OWN else count_of(json.loads(text)["predictions"], form)
            if got != batch:
                raise ValueError(f"{got} images, expected {batch}")
            tally.images += batch
            tally.seconds.append(time.perf_counter() - begun)
        except (OSError, ValueError, http.client.HTTPException) as error:
            tally.errors.append(repr(error))
            connection.close()


def count_of(told: dict | list, form: str) -> int:
    if form == "bytes":
        return len(np.frombuffer(base64.b64decode(told["data"]), np.uint8).reshape(told["shape"]))
    return len([base64.b64decode(text) for text in told] if form == "png" else np.array(told, np.float32))


def clients(port: int, seconds: float, number: int, batch: int, form: str) -> Tally:
    def body(seed: int) -> bytes:
        told = {} if form in OWN else {"format": form}
        return json.dumps({"inputs": [], "params": {"count": batch, "seed": seed, **told}}).encode()

    until, tallies = time.perf_counter() + seconds, [Tally() for _ in range(number)]
    threads = [threading.Thread(target=ask, args=(port, until, body, form, batch, 1_000_000 * i, tally)) for i, tally in enumerate(tallies)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Tally(
        images=sum(tally.images for tally in tallies),
        errors=[error for tally in tallies for error in tally.errors],
        seconds=[value for tally in tallies for value in tally.seconds],
    )


def alone(trained: TrainedGenerator, seconds: float, batch: int) -> int:
    inputs, until, images = trained.prior.seeded(0, range(batch)), time.perf_counter() + seconds, 0
    while time.perf_counter() < until:
        images += len(sampling.generate(trained.network, inputs, batch_images=batch))
    return images


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", type=Path)
    parser.add_argument("--family", default="dcgan", help="without a model: mlp has the fastest network, so the rest shows most")
    parser.add_argument("--seconds", type=float, default=20, help="of each format")
    parser.add_argument("--clients", type=int, default=1)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--format", nargs="+", default=["raw", "marked", "bytes"], choices=["raw", "marked", "bytes", "png", "float32"])
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    trained = default(options.family) if options.model is None else generator.load(options.model)
    with tempfile.TemporaryDirectory(prefix="serving-throughput-") as scratch:
        ours = ["family", options.family] if options.model is None else ["folder", str(options.model)]
        mlflows = [str(saved(trained, Path(scratch) / "model"))]
        for form in options.format:
            code, told = (OURS, [form, *ours]) if form in OWN else (SERVER, mlflows)
            server = subprocess.Popen([sys.executable, "-c", code, *told], stdout=subprocess.PIPE, text=True)
            try:
                assert server.stdout is not None
                port, process = int(server.stdout.readline()), psutil.Process(server.pid)
                print(json.dumps({form: measured(trained, port, process, options, form)}, indent=1), flush=True)
            finally:
                server.terminate()
                server.wait()


def measured(trained: TrainedGenerator, port: int, process: psutil.Process, options: argparse.Namespace, form: str) -> dict[str, object]:
    clients(port, 1.0, options.clients, options.batch, form)  # what is done once
    alone(trained, 0.5, options.batch)
    turns = max(1, round(options.seconds / TURN_SECONDS))
    wall_ratios, cpu_ratios, rates, own_rates, memory = [], [], [], [], []
    whole = Tally()
    for _ in range(turns):
        begun, cpu = time.perf_counter(), time.process_time()
        own = alone(trained, TURN_SECONDS / 5, options.batch)
        own_wall, own_cpu = time.perf_counter() - begun, time.process_time() - cpu
        begun, cpu = time.perf_counter(), sum(process.cpu_times()[:2])
        tally = clients(port, options.seconds / turns, options.clients, options.batch, form)
        wall, cpu = time.perf_counter() - begun, sum(process.cpu_times()[:2]) - cpu
        memory.append(process.memory_info().rss)
        whole.errors += tally.errors
        whole.seconds += tally.seconds
        whole.images += tally.images
        rates.append(tally.images / wall)
        own_rates.append(own / own_wall)
        wall_ratios.append(rates[-1] / own_rates[-1])
        cpu_ratios.append((tally.images / cpu) / (own / own_cpu))
    return {
        "clients": options.clients,
        "batch": options.batch,
        "images": whole.images,
        "errors": len(whole.errors),
        "first_errors": whole.errors[:3],
        "images_per_second": round(statistics.median(rates)),
        "network_alone_images_per_second": round(statistics.median(own_rates)),
        "of_alone_by_wall": round(statistics.median(wall_ratios), 3),
        "of_alone_by_cpu": round(statistics.median(cpu_ratios), 3),
        "milliseconds_a_request": {
            "median": round(1000 * statistics.median(whole.seconds), 1),
            "p99": round(1000 * float(np.quantile(whole.seconds, 0.99)), 1),
        },
        "server_megabytes": [round(value / 2**20) for value in (memory[len(memory) // 10], memory[-1], max(memory))],
    }


if __name__ == "__main__":
    main()
