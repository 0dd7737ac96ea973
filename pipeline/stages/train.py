"""train: prepared images -> models/ and reports/training/, on as many workers as `cluster` gives, continuing what was interrupted."""

from pathlib import Path

from ganlib import tasks
from ganlib.data.arrow import ArrowImages, split_path
from ganlib.storage import open_storage
from ganlib.training.loop import TrainingSpec, image_of
from ganlib.training.state import Bundle, BundleStore
from pipeline import artifacts, cached_outs, cli, identity, lineage, names, params, parents
from pipeline.driver import leftovers, ray_driver
from pipeline.driver.failures import ClusterError
from pipeline.driver.lock import LockedError, StateLock
from pipeline.identity import TrainingParams
from pipeline.params import ROOT
from pipeline.parents import Inheritance
from pipeline.selection import Selection
from pipeline.state_address import state_uri
from pipeline.states import known, record
from pipeline.states.record import Record
from pipeline.tracking import rooms
from pipeline.tracking.console import Console
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.follow import telling
from pipeline.tracking.outbox import TrainingFacts
from pipeline.tracking.settings import RegisterConfig
from pipeline.tracking.training_run import TrainingRun


def train(config: TrainingParams, root: Path = ROOT) -> None:
    """Train, then export the networks and the curves. A training that is finished already is restored: from its state, else from DVC's cache.

    Raises:
        ValueError: settings that do not fit the data.
        LockedError: another process runs this training.
        ClusterError: the cluster or the training failed.
        KeyboardInterrupt, SystemExit: stopped by a signal, after a checkpoint.
    """
    images = ArrowImages(split_path(root / "data" / "prepared", "train"))
    # what params.yaml alone cannot tell
    tasks.of(config.task).check(config.model, config.task, config.train, image_of(images))
    this = identity.identity(config, root)
    parent = parents.resolve(config, this.key, image=image_of(images), data_digest=this.data_digest, root=root)
    if parent is not None:
        this = this.child_of(parent.record.identity)
        print("\n".join(parent.lines), flush=True)
    storage = open_storage(state_uri(config.train.state_uri, this.key, root))
    selection = Selection.of(config, run_key=this.key, image=image_of(images), root=root)
    print(selection.in_words(), flush=True)
    if known.images_seen(storage) < config.train.total_images and cached_outs.restore(this.key, selection.digest, root):
        print(f"training {this.key[:16]} is finished: restored from DVC's cache ({cached_outs.OFF}=0 trains anew)", flush=True)
        return
    spec = _spec(config, storage.uri, parent, root, is_judged=selection.judge is not None)
    store = BundleStore(storage, keep=config.train.keep_checkpoints, keep_best=config.train.keep_best)
    # a holder that stops: the last checkpoint, the workers' end, what MLflow still gets
    patience_seconds = config.cluster.stop_grace_seconds + 3 * config.tracking.patience_seconds
    with StateLock(storage, patience_seconds=patience_seconds).held() as lock:
        leftovers.end_orphans()
        if parent is not None:
            parent.pin(storage)
        for line in deliver_pending(config.tracking, config.train.state_uri, root):
            print(line, flush=True)
        if record.read(storage) is None:
            for line in known.told(config.train.state_uri, this, root):
                print(line, flush=True)
        begun = record.keep(storage, this, data_source=config.data.source, root=root)
        print(lineage.in_words(begun.git_commit, begun.git_changed), flush=True)
        facts = _facts(config, begun, parent, root)
        run = TrainingRun(config.tracking, facts, storage, root)
        console = Console(config.train.total_images, config.train.log_interval_images)
        with telling(storage, [console, run], patience_seconds=config.tracking.patience_seconds):
            bundle = _finished(store, config)
            if bundle is not None:
                print(f"training {this.key[:16]} is finished: restored from its state ({storage.uri})", flush=True)
            else:
                bundle = _work(spec, config, store, lock, selection)
            choice = selection.choose(storage, bundle)
            artifacts.write(bundle, choice, spec, images, storage=storage, root=root, facts=facts)
            run.note_checkpoints(choice.candidates)
        print(f"exported: the average after {choice.images_seen:,} of {bundle.images_seen:,} images", flush=True)


def _work(spec: TrainingSpec, config: TrainingParams, store: BundleStore, lock: StateLock, selection: Selection) -> Bundle:
    """Run the workers to the end, or until a signal, or until another driver has taken the lock."""
    print(f"training on {config.cluster.workers} workers, state in {spec.folder}", flush=True)
    with cli.stopping_softly(lock.mark_stopping) as request, selection.following(store.storage):
        try:
            ray_driver.run(spec, config.cluster, owner=lock.token, stopping=request.asked)
        except ClusterError as error:
            if lock.lost.is_set():
                raise LockedError("another process has taken over this training while this one gave no sign of life") from error
            raise
    bundle = _finished(store, config)
    if bundle is None:
        cli.say("run the same command again to continue")
        raise request.interruption()
    return bundle


def _finished(store: BundleStore, config: TrainingParams) -> Bundle | None:
    """The last checkpoint, where it is the end of the training."""
    bundle, _ = store.newest()
    return bundle if bundle is not None and bundle.is_end_of(config.train.total_images) else None


def _spec(config: TrainingParams, folder: str, parent: Inheritance | None, root: Path, *, is_judged: bool) -> TrainingSpec:
    prepared = (root / "data" / "prepared").resolve()
    return TrainingSpec(
        data=str(split_path(prepared, "train")),
        held_out=str(split_path(prepared, "val")),
        folder=folder,
        model=config.model,
        task=config.task,
        optim=config.optim,
        train=config.train if is_judged else config.train.model_copy(update={"stop": None}),
        threads=max(1, int(config.cluster.cpus_per_worker)),
        parent=parent.spec if parent is not None else None,
    )


def _facts(config: TrainingParams, begun: Record, parent: Inheritance | None, root: Path) -> TrainingFacts:
    return TrainingFacts(
        run_key=begun.run_key,
        family=config.model.name,
        total_images=config.train.total_images,
        params={**begun.settings, "data": config.data.model_dump(mode="json")},
        tags={
            "git.commit": begun.git_commit,
            **({"git.changed": ", ".join(begun.git_changed)} if begun.git_changed else {}),
            "data.digest": begun.data_digest,
            "params.digest": lineage.digest(begun.settings),
            "recipe.digest": identity.recipe(begun.settings, parent.record.identity if parent is not None else None),
            **{f"cluster.{name}": str(value) for name, value in config.cluster.model_dump().items()},
            **(parent.record.tags if parent is not None else {}),
        },
        data_digest=begun.data_digest,
        data_source=begun.data_source,
        interval_images=config.train.log_interval_images,
        files=(root / "params.yaml",) if (root / "params.yaml").exists() else (),
        parent=parent.record.lineage if parent is not None else None,
    )


def main() -> None:
    config = params.sections(TrainingParams)
    register = params.section("register", RegisterConfig)  # no result depends on it
    if warning := rooms.check(config.tracking, names.model_name(register.model, source=config.data.source, path=config.data.place)):
        cli.say(f"warning: {warning}")
    train(config)
    print("models/, reports/training/")


if __name__ == "__main__":
    cli.run_stage(main, is_prepared=True)
