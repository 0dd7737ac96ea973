"""Which candidate of a training is exported, as the train stage sees it: who judges, what was said so far, and the choice.

Scores lie in the state of the training, below a digest of the judge (run key, features of the validation images, extractor, settings, code): another
judge scores the candidates again, and trains nothing. While the workers train, the driver scores the candidates as they appear; what is then missing
is scored at the end, so the choice depends on nothing that happened on the way.
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ganlib.data.arrow import ArrowImages, read_manifest, split_path
from ganlib.metrics.reference_store import Reference
from ganlib.models import ImageSpec
from ganlib.selection import Judge, Score, choose, table, verdicts
from ganlib.storage import Storage
from ganlib.training import candidates
from ganlib.training.parent import read_weights, weights_of
from ganlib.training.state import Bundle, BundleError
from pipeline import identity, lineage, processes
from pipeline.identity import TrainingParams
from pipeline.tracking.outbox import Checkpoint

SCORES = "scores"
LOG = "scores.jsonl"  # for people: `pipeline.tracking.follow`
NICENESS = 10  # of the thread that scores while the workers train


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What is exported.

    Attributes:
        weights: `NETWORK.NAME` -> tensor, the network that makes the products as its moving average.
        facts: how it was chosen, for generator.json.
        rows, candidates: a row for each candidate; the same for MLflow.
    """

    weights: dict[str, Tensor]
    images_seen: int
    facts: dict[str, Any]
    rows: list[dict[str, Any]]
    candidates: tuple[Checkpoint, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The judge of one training, or the reason why there is none."""

    judge: Judge | None = None
    digest: str | None = None  # of everything that the choice depends on besides the candidates
    facts: dict[str, Any]
    doubt: str = ""  # why the judge is not to be trusted

    @classmethod
    def of(cls, config: TrainingParams, *, run_key: str, image: ImageSpec, root: Path) -> "Selection":
        """As settings and data allow; without a judge the last average is exported."""
        facts = identity.judge(config, root)
        if facts["by"] is None:
            return cls(facts=facts)
        prepared = root / "data" / "prepared"
        reference = Reference.read(root / "data" / "reference", data_digest=read_manifest(prepared).data_digest)
        judge = Judge.of(reference, prepared, model=config.model, image=image, train=config.train, task=config.task)
        digest = lineage.digest({"run_key": run_key, **facts})
        doubt = reference.main.doubt("val", ArrowImages(split_path(prepared, "val")))
        return cls(judge=judge, digest=digest, facts={**facts, "choice": digest}, doubt=doubt)

    def in_words(self) -> str:
        if self.judge is None:
            return f"the last average is exported, and train.stop is off: {self.facts['why']}"
        told = f"candidates for export are compared with {len(self.judge.real):,} validation images by {self.judge.extractor.name} (train.select)"
        return f"{told}; warning: {self.doubt}, so which one is exported is left to chance" if self.doubt else told

    def scores(self, storage: Storage, *, should_stop: Callable[[], bool] = lambda: False) -> list[Score]:
        """Of every candidate that is there, those computed that nobody has computed yet.

        Raises:
            BundleError: a candidate is damaged. OSError: the state cannot be read or written.
        """
        assert self.judge is not None
        assert self.digest is not None
        found = []
        for images_seen in candidates.present(storage):
            if should_stop():
                break
            folder = candidates.name(images_seen)
            sha256 = candidates.sha256(storage, images_seen)
            name = f"{SCORES}/{self.digest[:16]}/images-{images_seen:012d}.json"
            score = _read(storage, name)
            if score is None or score.candidate != sha256:  # a training that was rolled back comes by again with other weights
                score = self.judge.score(read_weights(storage, folder), images_seen=images_seen, candidate=sha256)
                storage.write(name, score.model_dump_json().encode())
                low, high = score.interval
                text = f"candidate after {images_seen:,} images: KID {score.kid:.4g} ({low:.4g} to {high:.4g}) from the validation images"
                with suppress(OSError):  # the score itself is there
                    storage.append(LOG, json.dumps({"time": time.time(), "kind": "score", "text": text, "images_seen": images_seen}) + "\n")
            found.append(score)
        return found

    def choose(self, storage: Storage, bundle: Bundle) -> Choice:
        """Of a finished training; raises as `scores`."""
        if self.judge is None:
            return Choice(weights=weights_of(bundle), images_seen=bundle.images_seen, facts=self.facts, rows=[])
        scores = [score for score in self.scores(storage) if score.images_seen <= bundle.images_seen]
        if not scores:  # a training that was finished before there were candidates
            facts = {**self.facts, "by": None, "why": "its state holds no candidates"}
            return Choice(weights=weights_of(bundle), images_seen=bundle.images_seen, facts=facts, rows=[])
        chosen = choose(scores)
        return Choice(
            weights=read_weights(storage, candidates.name(chosen.images_seen)),
            images_seen=chosen.images_seen,
            facts={**self.facts, "candidates": len(scores), "of_images": bundle.images_seen},
            rows=table(scores, chosen),
            candidates=tuple(
                Checkpoint(
                    folder=candidates.name(score.images_seen), images_seen=score.images_seen, sha256=score.candidate, score=score.kid
                )
                for score in scores
            ),
        )

    @contextmanager
    def following(self, storage: Storage) -> Iterator[None]:
        """Score candidates as they appear while the block runs. What fails here is done, or told, by `choose`."""
        if self.judge is None:
            yield
            return
        is_over = threading.Event()

        def follow() -> None:
            processes.yield_to_others(NICENESS)
            while not is_over.wait(max(1.0, storage.poll_seconds)):
                with suppress(OSError, BundleError, ValueError):  # half there, or a store that is away for a moment
                    self._give_verdicts(storage, self.scores(storage, should_stop=is_over.is_set))

        thread = threading.Thread(target=follow, name="score candidates", daemon=True)
        thread.start()
        try:
            yield
        finally:
            is_over.set()
            thread.join()

    def _give_verdicts(self, storage: Storage, scores: Sequence[Score]) -> None:
        """What the workers wait for, where `train.stop` asks for it."""
        assert self.judge is not None
        stop = self.judge.train.stop
        if stop is None or not scores:
            return
        for score, is_end in zip(scores, verdicts(scores, patience_images=stop.patience_images), strict=True):
            if candidates.read_verdict(storage, score.images_seen) is None:
                candidates.write_verdict(storage, score.images_seen, candidate=score.candidate, stop=is_end)


def _read(storage: Storage, name: str) -> Score | None:
    try:
        return Score.model_validate_json(storage.read(name))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
