"""What another number of threads per worker changes: the one thing of a machine's settings that the exactness promise cannot cover.

Trains the recipe of params.yaml on the prepared data with one thread, with two, and with two again, and prints how far losses and averaged weights
are apart. Needs `dvc repro prepare`.

    python benchmarks/thread_difference.py --images 6400
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "benchmarks")]

from train_throughput import specification  # noqa: E402  the same recipe as in the other benchmarks


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=6400)
    parser.add_argument("--data", type=Path, default=ROOT / "data" / "prepared" / "train.arrow")
    args = parser.parse_args()

    from ganlib.storage import open_storage
    from ganlib.training.state import Bundle, BundleStore

    def trained(folder: Path, threads: int) -> Bundle:
        folder.mkdir()
        (folder / "spec.json").write_text(specification(folder, args.data.resolve(), args.images, threads))
        command = [sys.executable, "-m", "ganlib.training", str(folder / "spec.json")]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": str(threads)})
        bundle, _ = BundleStore(open_storage(folder), keep=1).newest()
        assert bundle is not None
        return bundle

    def apart(a: Bundle, b: Bundle) -> dict[str, float]:
        last, other = a.history[-1]["scalars"], b.history[-1]["scalars"]
        losses = {name: abs(last[name] - other[name]) for name in last if name.startswith("loss_")}
        squares = [(a.tensors[name] - b.tensors[name]).square().sum() for name in a.tensors if name.startswith("ema.")]
        norms = [a.tensors[name].square().sum() for name in a.tensors if name.startswith("ema.")]
        return {**losses, "average, relative": float((sum(squares) / sum(norms)) ** 0.5)}

    with tempfile.TemporaryDirectory() as scratch:
        one, two, again = (trained(Path(scratch) / name, threads) for name, threads in (("1", 1), ("2", 2), ("2 again", 2)))
    print(json.dumps({"1 thread against 2": apart(one, two), "2 against 2": apart(two, again), "images": args.images}, indent=1))


if __name__ == "__main__":
    main()
