"""The numbers and pictures of an evaluation, told to the run of the training, to the model they are about, and to a run of their protocol."""

import json
import re
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ganlib.files import sha256_file
from ganlib.redact import redacted
from pipeline.lineage import digest
from pipeline.params import ROOT
from pipeline.tracking import logged_models
from pipeline.tracking.card import NOTE, Card, source_of
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import Store, Unanswered, answering, open_store, tracking_uri
from pipeline.tracking.training_run import flatten

EVALUATION = "gan.evaluation"
PROTOCOL = "gan.protocol"
SECTIONS = ("sample", "reference", "evaluate")  # of params.yaml, that say how a generator is measured
_REFUSED = re.compile(r"[^\w.\- :/]")  # in a metric's name


def log_evaluation(tracking: TrackingConfig, settings: Mapping[str, Any], root: Path = ROOT) -> str:
    """Put the numbers and pictures of reports/ into the run of the training they are about, unless it has them.

    Each number says which model it is of and on which data. What was set for samples, reference and evaluation can change while the training stays,
    and MLflow refuses a parameter that changes: so each protocol is a run below the training's, with the settings as parameters.

    Args:
        settings: SECTIONS, as plain values.

    Returns:
        where to look at the run.

    Raises:
        Unanswered: the store does not answer.
    """
    reports = root / "reports"
    generator = json.loads((root / "models" / "generator.json").read_text(encoding="utf-8"))
    measured = json.loads((reports / "evaluation.json").read_text(encoding="utf-8"))
    store, told = open_store(tracking, root), sha256_file(reports / "evaluation.json")
    card = Card.of_generator(generator)
    with answering(store.uri):
        run, is_new = store.run(generator["run_key"], name=card.name, tags=card.tags)
        run_id, entities = str(run.info.run_id), store.mlflow.entities
        if run.data.tags.get(EVALUATION) != told:
            protocol = measured.get("protocol", {})
            model = logged_models.of_generator(store, run, sha256=generator["sha256"], truncation=protocol.get("truncation", 1.0))
            metrics = logged_models.measured(
                store,
                {f"evaluation/{metric_name(key)}": value for key, value in measured.items() if isinstance(value, int | float)},
                model=model,
                when=int((reports / "evaluation.json").stat().st_mtime * 1000),  # told again, it is the same point
                step=generator["images_seen"],
                source=source_of(generator),
                data_digest=generator["data_digest"],
            )
            key = protocol_key(settings, protocol)
            child_id = _protocol_run(store, run, generator, settings, key)
            pages = [reports / "evaluation.json", *reports.glob("report.html")]
            for path in pages:
                store.client.log_artifact(child_id, str(path))
            store.client.log_batch(child_id, metrics=metrics)
            _end_with_inputs(store, child_id, model, generator)
            store.client.set_logged_model_tags(model.model_id, {PROTOCOL: key})
            for path in (*pages, *sorted((reports / "plots").glob("*.png"))):
                store.client.log_artifact(run_id, str(path), "evaluation")
            store.client.log_batch(run_id, metrics=metrics, tags=[entities.RunTag(EVALUATION, told)])
        if is_new:  # the training was not tracked here
            store.client.set_terminated(run_id, "FINISHED")
    return store.address(run_id)


def try_to_log(tracking: TrackingConfig, settings: Mapping[str, Any], root: Path = ROOT, *, limit_seconds: float) -> str:
    """`log_evaluation` for whoever does not wait longer: a line for a person, that begins with "warning" where MLflow does not have everything.

    What a slow store has got by then is no harm: telling it again doubles nothing.
    """
    said: list[str | Exception] = []

    def tell() -> None:
        try:
            said.append(f"MLflow: {log_evaluation(tracking, settings, root)}")
        except Unanswered as problem:
            said.append(f"warning: {problem}")
        except Exception as mistake:  # of ours: raised where it can be seen
            said.append(mistake)

    thread = threading.Thread(target=tell, name="tell MLflow of the evaluation", daemon=True)
    thread.start()
    thread.join(limit_seconds)
    if not said:
        return f"warning: MLflow at {redacted(tracking_uri(tracking, root))} is slow: not done after {limit_seconds:g} s"
    if isinstance(said[0], Exception):
        raise said[0]
    return said[0]


def metric_name(key: str) -> str:
    """A key of evaluation.json as MLflow takes it: `fid@rotation` is `fid/rotation`."""
    return _REFUSED.sub("_", key.replace("@", "/"))


def protocol_key(settings: Mapping[str, Any], protocol: Mapping[str, Any]) -> str:
    """The same for generators that were measured alike, so that their numbers can be compared.

    Args:
        settings: as for `log_evaluation`.
        protocol: of evaluation.json.
    """
    return digest({"settings": dict(settings), "protocol": {name: value for name, value in protocol.items() if name != "generator_sha256"}})


def _protocol_run(store: Store, run: Any, generator: Mapping[str, Any], settings: Mapping[str, Any], key: str) -> str:
    """The id of the run of the protocol `key`, below that of the training, with the settings as its parameters."""
    tags = {
        **Card.of_generator(generator).tags,
        NOTE: f"How {run.info.run_name} was measured: the settings of samples, reference and evaluation, and what came of it.",
        "mlflow.source.name": "pipeline/stages/evaluate.py",
    }
    child = store.child(run.info.run_id, PROTOCOL, key, name=f"{run.info.run_name}-evaluation-{key[:8]}", tags=tags)
    params = [store.mlflow.entities.Param(name, redacted(str(value))) for name, value in flatten(settings).items()]
    store.client.log_batch(child.info.run_id, params=params)
    return str(child.info.run_id)


def _end_with_inputs(store: Store, run_id: str, model: Any, generator: Mapping[str, Any]) -> None:
    """Say what the run of a protocol measured, and on which data; it is over."""
    entities, source = store.mlflow.entities, source_of(generator)
    data_digest = generator["data_digest"][: logged_models.DIGEST_CHARACTERS]
    dataset = entities.Dataset(source, data_digest, "local", json.dumps({"source": source}))
    context = entities.InputTag("mlflow.data.context", "evaluation")
    store.client.log_inputs(run_id, [entities.DatasetInput(dataset, [context])], [entities.LoggedModelInput(model.model_id)])
    store.client.set_terminated(run_id, "FINISHED")
