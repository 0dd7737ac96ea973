"""Quality at equal training seconds: the default recipe against a plain DCGAN script, both on this machine, one after the other.

FID in the features of the `reference` stage, 10,000 samples against the test split. Needs a finished `dvc repro`; the plain script is given
as a path and is no part of this project: it must take `SECONDS --width 32 --out FILE.npy` and save uint8 [N, 28, 28].

    python benchmarks/time_to_quality.py --peer PATH/plain_dcgan.py --seeds 0 1

Ours runs for the budget of `train.total_images`, and its seconds are measured, start of the workers left out, as the peer leaves out its own.
The peer gets exactly the seconds that ours took.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


def fid(images: np.ndarray) -> float:
    """[N, 1, H, W] uint8 against the test split, as the evaluate stage measures it."""
    from ganlib.data.arrow import read_manifest
    from ganlib.metrics import interface
    from ganlib.metrics.fid import frechet_distance, moments
    from ganlib.metrics.reference_store import Reference

    reference = Reference.read(ROOT / "data" / "reference", data_digest=read_manifest(ROOT / "data" / "prepared").data_digest)
    fake = interface.extract(reference.extractor, interface.ArrayImages(images))["last"]
    return float(frechet_distance(moments(reference.features("test")), moments(fake)))


def ours(seed: int, total_images: int, num_images: int) -> tuple[float, float]:
    """(FID, training seconds) of the default recipe on the default workers."""
    from ganlib import sampling
    from ganlib.data.arrow import ArrowImages
    from ganlib.models import build_generator
    from ganlib.storage import open_storage
    from ganlib.training.hooks import calibrate_generator
    from ganlib.training.loop import TrainingSpec, image_of
    from ganlib.training.state import BundleStore
    from pipeline import preflight
    from pipeline.driver import ray_driver

    config = preflight.load()
    with tempfile.TemporaryDirectory() as folder:
        spec = TrainingSpec(
            data=str(ROOT / "data" / "prepared" / "train.arrow"),
            folder=folder,
            model=config.model,
            task=config.task,
            optim=config.optim,
            train=config.train.model_copy(update={"seed": seed, "total_images": total_images}),
        )
        ray_driver.run(spec, config.cluster)
        bundle, _ = BundleStore(open_storage(folder), keep=1).newest()
        assert bundle is not None
    interval, done, seconds = 0, 0, 0.0
    for line in bundle.history:
        interval, done = line["images_seen"] - done, line["images_seen"]
        seconds += interval / line["images_per_second"]
    image = image_of(ArrowImages(Path(spec.data)))
    prior = sampling.Prior.of(spec.model, image)
    network = build_generator(spec.model, image, seed=0)
    network.load_state_dict({k.removeprefix("ema."): v for k, v in bundle.tensors.items() if k.startswith("ema.")})
    calibrate_generator(network, prior, spec.train)
    inputs = prior.seeded(config.sample.seed, range(num_images))
    return fid(sampling.generate(network, inputs, batch_images=config.sample.batch_images)), seconds


def peer(script: Path, seconds: float) -> tuple[float, dict[str, object]]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "samples.npy"
        command = [sys.executable, str(script), str(seconds), "--width", "32", "--out", str(out)]
        printed = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        return fid(np.load(out)[:, None]), json.loads(printed)


def main() -> None:
    from pipeline import preflight

    config = preflight.load()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", type=Path, required=True)
    parser.add_argument("--total-images", type=int, default=config.train.total_images)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    args = parser.parse_args()
    rows = []
    for seed in args.seeds:
        score, seconds = ours(seed, args.total_images, 10_000)
        peer_score, facts = peer(args.peer, seconds)
        rows.append(
            {
                "seed": seed,
                "seconds": round(seconds, 1),
                "fid": round(score, 3),
                "peer_fid": round(peer_score, 3),
                "ratio": round(score / peer_score, 3),
            }
        )
        print(json.dumps(rows[-1] | {"images_per_second": round(args.total_images / seconds, 1), "peer": facts}), flush=True)
    print(json.dumps({"ratio": statistics.median(row["ratio"] for row in rows), "images": args.total_images}))


if __name__ == "__main__":
    main()
