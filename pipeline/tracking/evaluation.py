"""The numbers and pictures of an evaluation, told to the run of the training they are about."""

import json
from pathlib import Path

from ganlib.files import sha256_file
from pipeline.params import ROOT
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import answering, open_store

EVALUATION = "gan.evaluation"


def log_evaluation(tracking: TrackingConfig, root: Path = ROOT) -> str:
    """Put the numbers and pictures of reports/ into the run of the training they are about, unless it has them.

    Returns:
        where to look at the run.

    Raises:
        Unanswered: the store does not answer.
    """
    reports = root / "reports"
    generator = json.loads((root / "models" / "generator.json").read_text(encoding="utf-8"))
    measured = json.loads((reports / "evaluation.json").read_text(encoding="utf-8"))
    store, digest = open_store(tracking, root), sha256_file(reports / "evaluation.json")
    with answering(store.uri):
        run, is_new = store.run(generator["run_key"])
        run_id, entities = str(run.info.run_id), store.mlflow.entities
        if run.data.tags.get(EVALUATION) != digest:
            for path in (*reports.glob("report.html"), *sorted((reports / "plots").glob("*.png"))):
                store.client.log_artifact(run_id, str(path), "evaluation")
            when = int((reports / "evaluation.json").stat().st_mtime * 1000)  # told again, it is the same point
            metrics = [
                entities.Metric(f"evaluation/{key}", float(value), when, generator["images_seen"])
                for key, value in measured.items()
                if isinstance(value, int | float)
            ]
            store.client.log_batch(run_id, metrics=metrics, tags=[entities.RunTag(EVALUATION, digest)])
        if is_new:  # the training was not tracked here
            store.client.set_terminated(run_id, "FINISHED")
    return store.address(run_id)
