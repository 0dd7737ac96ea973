"""train: prepared images -> models/ and reports/training/, on as many workers as `cluster` gives, continuing what was interrupted."""

import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ganlib.data.arrow import read_manifest
from ganlib.training.loop import TrainingSpec
from ganlib.training.state import BundleStore
from pipeline import artifacts, cli, identity, lineage, params, ray_backend, tracking
from pipeline.follow import Console, following
from pipeline.params import ROOT, Params


def train(config: Params, root: Path = ROOT) -> None:
    """Train, then export the averaged generator, the discriminator and the curves.

    Raises:
        ray_backend.ClusterError: the cluster or the training failed.
        KeyboardInterrupt: stopped by a signal, after a checkpoint.
    """
    manifest = read_manifest(root / "data" / "prepared")
    key = identity.run_key(config, root)
    folder = identity.state_folder(config, key, root)
    folder.mkdir(parents=True, exist_ok=True)
    spec = TrainingSpec(
        data=str((root / "data" / "prepared" / "train.arrow").resolve()),
        folder=str(folder),
        model=config.model,
        task=config.task,
        optim=config.optim,
        train=config.train,
        threads=max(1, int(config.cluster.cpus_per_worker)),
    )
    facts = tracking.TrainingFacts(
        run_key=key,
        params={**identity.training_settings(config), "data": config.data.model_dump(mode="json")},
        tags={
            "git.commit": lineage.git_commit(root),
            "data.digest": manifest.data_digest,
            "params.digest": lineage.digest(identity.training_settings(config)),
            **{f"cluster.{name}": str(value) for name, value in config.cluster.model_dump().items()},
        },
        data_digest=manifest.data_digest,
        data_source=config.data.source,
        files=(root / "params.yaml",) if (root / "params.yaml").exists() else (),
    )
    run = tracking.TrainingRun(config, facts, root)
    store = BundleStore(folder / "checkpoints", keep=config.train.keep_checkpoints)
    status = "FAILED"
    stop_file = folder / "stop"
    stop_file.unlink(missing_ok=True)
    try:
        with following(folder, [Console(config.train.total_images), run]) as followers, stopping_by(stop_file):
            if not _is_finished(store, config):
                print(f"training {key[:12]}: state in {folder}, {config.cluster.workers} workers", flush=True)
                ray_backend.run(spec, config.cluster, stop_file=stop_file)
        if followers[1].problem is not None:
            print(f"warning: MLflow did not take everything: {followers[1].problem}", file=sys.stderr)
        if not _is_finished(store, config):
            status = "KILLED"
            raise KeyboardInterrupt
        bundle, _ = store.newest()
        assert bundle is not None
        artifacts.write(bundle, spec, manifest.shape, root=root, facts=facts)
        status = "FINISHED"
    finally:
        try:
            run.end(status)
        except Exception as problem:  # the training is done; a tracking server that is away must not undo it
            print(f"warning: MLflow was not told that the training {status.lower()}: {problem}", file=sys.stderr)


def _is_finished(store: BundleStore, config: Params) -> bool:
    bundle, _ = store.newest()
    return bundle is not None and int(bundle.numbers["images_seen"]) >= config.train.total_images


@contextmanager
def stopping_by(stop_file: Path) -> Iterator[None]:
    """SIGTERM and SIGINT ask the workers to save and stop; a second SIGINT stops at once."""

    def ask(number: int, frame: Any) -> None:
        if stop_file.exists() and number == signal.SIGINT:
            raise KeyboardInterrupt
        print("stopping: a checkpoint is written first", file=sys.stderr, flush=True)
        stop_file.touch()

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        stop_file.unlink(missing_ok=True)


def main() -> None:
    train(params.load())
    print("models/generator.safetensors, models/generator.json, reports/training/")


if __name__ == "__main__":
    cli.run(main)
