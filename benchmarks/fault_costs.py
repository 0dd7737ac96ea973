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
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

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


@contextmanager
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
    parser.add_argument("--only", choices=["reduction", "checkpoints", "death"])
    parser.add_argument("--spec", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.spec:
        from ganlib.training.loop import TrainingSpec

        spec = TrainingSpec.model_validate_json(args.spec.read_text())
        answer = reduction_turns(spec, turns=args.turns, steps=args.steps)
        if answer is not None:
            print(json.dumps(answer))
        return
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        result: dict[str, Any] = {}
        if args.only in (None, "reduction"):
            result["reduction"] = measure_reduction(scratch, args.data.resolve(), turns=args.turns)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
