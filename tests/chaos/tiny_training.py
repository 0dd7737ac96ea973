"""A small training on a real Ray, in a process of its own that can be disturbed; pytest itself keeps no Ray.

As a program: tiny_training.py SPEC CLUSTER NODES PLAN...: train on a Ray of its own (NODES 0) or on a cluster of so many nodes of one CPU each.
PLAN is a list of `remove` (kill a raylet) and `add`, each done once a new worker group has written a checkpoint.
"""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil

from ganlib.data.arrow import ArrowWriter
from ganlib.storage import open_storage
from ganlib.training.fingerprint import fingerprint
from ganlib.training.loop import TrainingSpec, train
from ganlib.training.state import BundleStore

ROOT = Path(__file__).resolve().parents[2]


def tiny_spec(folder: Path, *, total_images: int, state: str | None = None) -> TrainingSpec:
    """Four logical workers, 32 images a step, a checkpoint every 20 steps; data and state below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    data = folder / "train.arrow"
    if not data.exists():
        draw = np.random.default_rng(0)
        with ArrowWriter(data, shape=(1, 8, 8), class_names=["any"]) as writer:
            writer.append(draw.integers(0, 255, (200, 1, 8, 8), dtype=np.uint8), np.zeros(200, dtype=np.int64))
    adam = {"name": "adam", "lr": 1e-3, "options": {"betas": [0.5, 0.99]}}
    values = {
        "data": str(data),
        "folder": state or str(folder / "state"),
        "model": {"name": "dcgan", "latent_dim": 8, "generator": {"width": 8}, "discriminator": {"width": 8}},
        "task": {},
        "optim": {"generator": adam, "discriminator": adam},
        "train": {
            "total_images": total_images,
            "batch_images": 32,
            "logical_workers": 4,
            "history_interval_images": 320,
            "grid_interval_images": 16_000,
            "checkpoint_interval_images": 640,
            "augment": {"hflip": {}},
            "ema_halflife_images": 200,
        },
    }
    if state is None:
        (folder / "state").mkdir(exist_ok=True)
    return TrainingSpec.model_validate_json(json.dumps(values))


def newest_hashes(spec: TrainingSpec) -> dict[str, str]:
    bundle, problems = BundleStore(open_storage(spec.folder), keep=spec.train.keep_checkpoints).newest()
    assert bundle is not None
    assert problems == []
    assert bundle.numbers["images_seen"] == spec.train.total_images
    return fingerprint(bundle)


def undisturbed_hashes(spec: TrainingSpec, folder: Path) -> dict[str, str]:
    """The same training in this one process, undisturbed, its state in `folder`."""
    folder.mkdir()
    alone = spec.model_copy(update={"folder": str(folder)})
    train(alone)
    return newest_hashes(alone)


def journal(spec: TrainingSpec, name: str) -> list[dict]:
    """Lines of `events.jsonl`, `driver.jsonl` or `history.jsonl`."""
    try:
        text = open_storage(spec.folder).read(name).decode()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def groups_at_work(spec: TrainingSpec) -> int:
    """How many worker groups have begun so far."""
    return sum(line["kind"] in ("start", "resumed") for line in journal(spec, "events.jsonl"))


def newest_step(spec: TrainingSpec) -> int:
    return max(BundleStore(open_storage(spec.folder), keep=spec.train.keep_checkpoints).steps(), default=0)


def wait_for_a_checkpoint_of_group(number: int, spec: TrainingSpec, *, is_alive: Callable[[], bool]) -> None:
    """Return once worker group `number` (from 1) has written a checkpoint."""
    before = None
    deadline = time.monotonic() + 240
    while before is None or newest_step(spec) <= before:
        assert is_alive(), f"the training ended before worker group {number} wrote a checkpoint"
        assert time.monotonic() < deadline, f"no checkpoint of worker group {number}"
        if before is None and groups_at_work(spec) >= number:
            before = newest_step(spec)
        time.sleep(0.1)


@dataclass
class Started:
    """A training in a process of its own."""

    process: subprocess.Popen
    spec: TrainingSpec
    log: Path

    def processes(self, name: str) -> list[psutil.Process]:
        """Those of its Ray whose command line has `name` in it."""
        found = []
        for process in psutil.Process(self.process.pid).children(recursive=True):
            try:
                if name in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
            except psutil.Error:
                continue
        return found

    def wait_for_a_checkpoint_of_group(self, number: int) -> None:
        try:
            wait_for_a_checkpoint_of_group(number, self.spec, is_alive=lambda: self.process.poll() is None)
        except AssertionError as problem:
            raise AssertionError(f"{problem}; it said: {self.log.read_text()[-4000:]}") from None

    def finish(self, *, timeout: float = 500) -> str:
        """Wait for its end; returns what it printed."""
        self.process.wait(timeout)
        return self.log.read_text()


@contextmanager
def started(
    spec: TrainingSpec, folder: Path, *, nodes: int = 0, cpus_per_node: int = 1, plan: tuple[str, ...] = (), **cluster: object
) -> Iterator[Started]:
    """Run this file as a program; whatever is left of it dies with the block."""
    (folder / "spec.json").write_text(spec.model_dump_json())
    (folder / "cluster.json").write_text(json.dumps(cluster))
    log = folder / "output.txt"
    keep = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    with log.open("w") as output:
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder / "spec.json"), str(folder / "cluster.json"), str(nodes), *plan],
            cwd=ROOT,
            env={**keep, "RAY_AUTH_MODE": "disabled", "PYTHONPATH": str(ROOT), "CPUS_PER_NODE": str(cpus_per_node)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    try:
        yield Started(process, spec, log)
    finally:
        left = []
        if process.poll() is None:
            left = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            process.wait()
        for each in left:
            if each.is_running():
                each.kill()


def main() -> None:
    spec = TrainingSpec.model_validate_json(Path(sys.argv[1]).read_text())
    nodes, plan = int(sys.argv[3]), sys.argv[4:]
    from pipeline.driver import ray_driver
    from pipeline.driver.settings import ClusterConfig

    config = ClusterConfig.model_validate_json(Path(sys.argv[2]).read_text())

    def run(config: ClusterConfig) -> None:
        try:
            ray_driver.run(spec, config)
            print("returned")
        except ray_driver.ClusterError as error:
            print(f"ClusterError: {error}")

    if not nodes:
        run(config)
        return
    from ray.cluster_utils import Cluster

    ray_driver.GROW_SECONDS = 2.0
    node = {"num_cpus": int(os.environ["CPUS_PER_NODE"]), "object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node)
    others = [cluster.add_node(**node) for _ in range(nodes - 1)]
    training = threading.Thread(target=run, args=(config.model_copy(update={"address": cluster.address}),))
    training.start()  # nodes come and go in the main thread: Ray sets signal handlers there
    for number, act in enumerate(plan, start=1):
        wait_for_a_checkpoint_of_group(number, spec, is_alive=training.is_alive)
        print(f"{act} at step {newest_step(spec)}", flush=True)
        if act == "remove":
            cluster.remove_node(others.pop(), allow_graceful=False)
        else:
            others.append(cluster.add_node(**node))
    training.join()
    cluster.shutdown()


if __name__ == "__main__":
    main()
