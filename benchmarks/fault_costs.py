"""What it costs that nothing can disturb a training, as ratios inside one run, so that they mean something on a noisy machine.

(a) reduction: the step with our fixed-order gradient sum against the same step with DDP's own all-reduce, for 2 and 4 gloo workers of one thread
    under torchrun; images per worker stay the same. Both live in the same processes and take turns; a ratio is made of two turns side by side.
(b) checkpoints: trainings with and without them in turns, at an interval short enough to see, scaled to train.checkpoint_interval_images: the
    seconds a checkpoint adds to the whole training (what it steals in the background included) over the seconds between two of them. Beside it
    the part of them that holds up the loop: the time inside the hook.
(c) death: kill -9 of one of two Ray workers, and the seconds until the first step that is computed anew, cut where the state folder and the
    processes show a boundary.

    python benchmarks/fault_costs.py --turns 9
    python benchmarks/fault_costs.py --only reduction
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

if TYPE_CHECKING:
    from ganlib.training.loop import TrainingSpec

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from train_throughput import specification  # noqa: E402  the same recipe as in the other benchmark


def changed(spec_json: str, **train: Any) -> str:
    """A specification with other keys of `train`, and one thread."""
    spec = json.loads(spec_json)
    spec["train"] |= train
    return json.dumps(spec | {"threads": 1})


# ---------------------------------------------------------------- (a) reduction


@contextlib.contextmanager
def plain_ddp() -> Iterator[None]:
    """Replicas built inside keep DDP's own all-reduce."""
    from ganlib import dist

    hooked = dist.DistributedDataParallel.register_comm_hook
    dist.DistributedDataParallel.register_comm_hook = lambda *_: None  # type: ignore[method-assign]
    try:
        yield
    finally:
        dist.DistributedDataParallel.register_comm_hook = hooked  # type: ignore[method-assign]


def reduction_turns(spec: "TrainingSpec", *, turns: int, steps: int) -> dict[str, Any] | None:
    """In every worker: both kinds of step in turns. The main one answers."""
    from ganlib import dist
    from ganlib.training.loop import Running

    dist.open_from_environment()
    try:
        ours = Running.start(spec)
        with plain_ddp():
            ddp = Running.start(spec)
        both = {"ours": ours, "ddp": ddp}
        seconds: dict[str, list[float]] = {name: [] for name in both}
        cpu_seconds: dict[str, list[float]] = {name: [] for name in both}
        for turn in range(turns + 1):
            for name in sorted(both, reverse=turn % 2 == 1):  # neither always goes first
                dist.barrier()
                start, cpu_start = time.perf_counter(), time.process_time()
                for _ in range(steps):
                    both[name].step()
                if turn:  # the first turn warms up
                    seconds[name].append(time.perf_counter() - start)
                    cpu_seconds[name].append(time.process_time() - cpu_start)
        if not dist.is_main():
            return None
        shares = [x / y - 1 for x, y in zip(seconds["ours"], seconds["ddp"], strict=True)]
        return {
            "milliseconds a step": {name: round(1000 * statistics.median(values) / steps, 2) for name, values in seconds.items()},
            "ours/ddp - 1": round(statistics.median(shares), 4),
            "quartiles": [round(value, 4) for value in statistics.quantiles(shares, n=4)[::2]],
            "CPU, ours/ddp - 1": round(sum(cpu_seconds["ours"]) / sum(cpu_seconds["ddp"]) - 1, 4),
        }
    finally:
        dist.close()


def measure_reduction(scratch: Path, data: Path, *, turns: int) -> dict[str, Any]:
    result = {}
    for workers in (2, 4):
        base = specification(scratch / f"reduction{workers}", data, 10**9, 1)
        train = json.loads(base)["train"]
        shard = train["batch_images"] // train["logical_workers"]
        spec = scratch / f"reduction{workers}.json"
        spec.write_text(changed(base, logical_workers=workers, batch_images=shard * workers))
        command = ["--only", "reduction", "--spec", str(spec), "--turns", str(6 * turns)]
        result[f"{workers} workers"] = last_json(run_child(command, workers=workers))
    return result


# ---------------------------------------------------------------- (b) checkpoints


CHECKPOINTS_A_TURN = 8  # and one more at the end, which the clock of the history does not see


def checkpoint_turns(spec: "TrainingSpec", *, turns: int, every_images: int) -> dict[str, Any] | None:
    """In every worker: short trainings with and without checkpoints in turns. The main one answers."""
    from ganlib import dist
    from ganlib.training.hooks import CheckpointHook
    from ganlib.training.loop import train

    held: list[float] = []
    call = CheckpointHook.__call__

    def timed_call(self: CheckpointHook, state: Any, *, is_last: bool) -> None:
        start = time.perf_counter()
        call(self, state, is_last=is_last)
        if not is_last and time.perf_counter() - start > 1e-4:  # it was due
            held.append(time.perf_counter() - start)

    CheckpointHook.__call__ = timed_call  # type: ignore[method-assign]
    dist.open_from_environment()
    try:
        total = every_images * (CHECKPOINTS_A_TURN + 1)
        seconds: dict[str, list[float]] = {"with": [], "without": []}
        for turn in range(turns + 1):
            for name in sorted(seconds, reverse=turn % 2 == 1):
                interval = every_images if name == "with" else 10**12
                folder = Path(spec.folder) / f"{turn}-{name}"
                times = {"total_images": total, "checkpoint_interval_images": interval, "history_interval_images": every_images}
                train(spec.model_copy(update={"folder": str(folder), "train": spec.train.model_copy(update=times)}))
                if turn and dist.is_main():  # the first turn warms up
                    lines = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()][1:]
                    seconds[name].append(sum(every_images / line["images_per_second"] for line in lines))
        if not dist.is_main():
            return None
        speed = total * CHECKPOINTS_A_TURN / (CHECKPOINTS_A_TURN + 1) / statistics.median(seconds["without"])
        added = [(x - y) / CHECKPOINTS_A_TURN for x, y in zip(seconds["with"], seconds["without"], strict=True)]
        interval_seconds = spec.train.checkpoint_interval_images / speed
        return {
            "images_per_second without": round(speed, 1),
            "seconds a checkpoint holds up the loop": round(statistics.median(held), 4),
            "seconds a checkpoint adds": round(statistics.median(added), 4),
            "quartiles": [round(value, 4) for value in statistics.quantiles(added, n=4)[::2]],
            "seconds between checkpoints at the default interval": round(interval_seconds, 1),
            "share of training time": round(statistics.median(added) / interval_seconds, 5),
            "share that holds up the loop": round(statistics.median(held) / interval_seconds, 5),
        }
    finally:
        dist.close()


def measure_checkpoints(scratch: Path, data: Path, *, turns: int, every_images: int) -> dict[str, Any]:
    from pipeline import preflight

    train = preflight.load().train
    interval = train.checkpoint_interval_images  # what the answer is scaled to
    spec = scratch / "checkpoints.json"
    spec.write_text(changed(specification(scratch / "checkpoints", data, 10**9, 1), checkpoint_interval_images=interval))
    command = ["--only", "checkpoints", "--spec", str(spec), "--turns", str(turns), "--every-images", str(every_images)]
    answer: dict[str, Any] = last_json(run_child(command, workers=train.logical_workers))
    return answer


# ---------------------------------------------------------------- (c) death


def train_on_ray(spec: "TrainingSpec") -> None:
    """The training that loses workers; SIGTERM ends it."""
    from pipeline.driver import ray_driver
    from pipeline.driver.settings import ClusterConfig

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    cluster = ClusterConfig.model_validate({"workers": spec.train.logical_workers, "max_failures": 100})
    ray_driver.run(spec, cluster, stopping=stopping)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Complete lines of a growing file."""
    text = path.read_text() if path.exists() else ""
    return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines() if line]


def ray_workers(parent: psutil.Process) -> dict[int, psutil.Process]:
    found = {}
    for process in parent.children(recursive=True):
        with contextlib.suppress(psutil.Error):
            if "TrainWorker" in (process.cmdline() or [""])[0]:
                found[process.pid] = process
    return found


def measure_death(scratch: Path, data: Path, *, deaths: int) -> dict[str, Any]:
    """Medians over `deaths` kills of one training; every step is logged, so that the first new one is seen."""
    folder = scratch / "death"
    folder.mkdir()
    spec = changed(specification(folder, data, 10**9, 1), history_interval_images=1, checkpoint_interval_images=2000)
    (folder / "spec.json").write_text(spec)
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    command = [sys.executable, str(Path(__file__).resolve()), "--only", "death", "--spec", str(folder / "spec.json")]
    parts: dict[str, list[float]] = {}
    with (folder / "output").open("w") as output:
        child = subprocess.Popen(
            command, cwd=ROOT, env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}, stdout=output, stderr=output
        )
    parent, events, history = psutil.Process(child.pid), folder / "events.jsonl", folder / "history.jsonl"

    def until(look: Callable[[], Any]) -> Any:
        deadline = time.monotonic() + 300
        while not (seen := look()):
            if child.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the training did not get there:\n{(folder / 'output').read_text()[-3000:]}")
            time.sleep(0.02)
        return seen

    def begun() -> list[dict[str, Any]]:
        return [event for event in read_lines(events) if event["kind"] in ("start", "resumed")]

    try:
        for number in range(deaths):
            until(lambda number=number: len(begun()) > number)
            so_far = len(read_lines(history))
            until(lambda so_far=so_far: len(read_lines(history)) > so_far + 100)  # past a checkpoint, and warm
            before = ray_workers(parent)
            checkpoint = read_lines(history)[-1]["images_seen"] % 2000
            killed = time.time()
            next(iter(before.values())).kill()
            until(lambda before=before: ray_workers(parent).keys() - before.keys())
            placed = time.time()
            resumed = until(lambda number=number: begun()[number + 1 :])[0]["time"]
            step = until(lambda resumed=resumed: [line for line in read_lines(history) if line["time"] > resumed])[0]["time"]
            for name, value in {
                "Ray sees it, ends the group, places new workers": placed - killed,
                "imports, process group, networks, checkpoint read": resumed - placed,
                "first step": step - resumed,
                "from death to the first new step": step - killed,
            }.items():
                parts.setdefault(name, []).append(value)
            parts.setdefault("images computed again, at a checkpoint each 2,000", []).append(checkpoint)
    finally:
        if child.poll() is None:
            child.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(timeout=90)
        family = parent.children(recursive=True) if child.poll() is None else []
        for process in [*family, *([parent] if family else [])]:
            with contextlib.suppress(psutil.Error):
                process.kill()
        child.wait()
    return {name: round(statistics.median(values), 2) for name, values in parts.items()} | {"deaths": deaths}


# ---------------------------------------------------------------- starting measurements in processes of their own


def run_child(arguments: list[str], *, workers: int = 0) -> str:
    """This file again, alone or under torchrun; one thread each."""
    launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={workers}"] if workers else []
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, *launcher, str(Path(__file__).resolve()), *arguments],
        cwd=ROOT,
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(arguments)} failed:\n{done.stderr[-3000:]}")
    return done.stdout


def last_json(text: str) -> Any:
    return json.loads([line for line in text.splitlines() if line.startswith("{")][-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=15, help="at least 2")
    parser.add_argument("--steps", type=int, default=4, help="steps a turn in (a), where turns are short and six times as many")
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared" / "train.arrow")
    parser.add_argument("--every-images", type=int, default=2000, help="images between checkpoints in (b)")
    parser.add_argument("--deaths", type=int, default=3)
    parser.add_argument("--only", choices=["reduction", "checkpoints", "death"])
    parser.add_argument("--spec", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.spec:
        from ganlib.training.loop import TrainingSpec

        spec = TrainingSpec.model_validate_json(args.spec.read_text())
        answer: dict[str, Any] | None = None
        if args.only == "reduction":
            answer = reduction_turns(spec, turns=args.turns, steps=args.steps)
        elif args.only == "checkpoints":
            answer = checkpoint_turns(spec, turns=args.turns, every_images=args.every_images)
        else:
            train_on_ray(spec)
        if answer is not None:
            print(json.dumps(answer))
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        result: dict[str, Any] = {}
        if args.only in (None, "reduction"):
            result["reduction"] = measure_reduction(scratch, args.data.resolve(), turns=args.turns)
        if args.only in (None, "checkpoints"):
            result["checkpoints"] = measure_checkpoints(scratch, args.data.resolve(), turns=args.turns, every_images=args.every_images)
        if args.only in (None, "death"):
            result["death"] = measure_death(scratch, args.data.resolve(), deaths=args.deaths)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
