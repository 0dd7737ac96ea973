"""Generators as MLflow's LoggedModels: what a number was measured of, so that `mlflow.search_logged_models` finds the best one.

A LoggedModel is made when its generator is first measured, and is "external" until `register` gives it its artifacts. It is found again by what it
holds, so that an evaluation, a registration and their repeats all speak of the same one.
"""

from collections.abc import Mapping
from typing import Any

from pipeline.lineage import digest
from pipeline.tracking.card import NOTE, RESERVED, plain
from pipeline.tracking.store import CLAIM, RUN_KEY, Store

CONTENT = "gan.content"
GENERATOR, CHECKPOINT = "gan-generator", "gan-checkpoint"  # model types
EXTERNAL = "mlflow.model.isExternal"  # its files are not in MLflow; goes when they are
DIGEST_CHARACTERS = 32  # of a data set: MLflow takes 36


def content(sha256: str, truncation: float = 1.0) -> str:
    """What tells one generator from another: its weights, and the truncation that is built in."""
    return sha256 if truncation == 1.0 else digest([sha256, truncation])


def of_generator(store: Store, run: Any, *, sha256: str, truncation: float) -> Any:
    """The LoggedModel of the generator that a training exported, as it is served.

    Args:
        run: of the training.
        sha256: of its weights.
    """
    built_in = truncation != 1.0
    return logged_model(
        store,
        run,
        holds=content(sha256, truncation),
        kind=GENERATOR,
        name=run.info.run_name if not built_in else f"{run.info.run_name}-truncated",
        tags={"sha256": sha256, **({"truncation": repr(truncation)} if built_in else {})},
    )


def logged_model(store: Store, run: Any, *, holds: str, kind: str, name: str, tags: Mapping[str, str]) -> Any:
    """The LoggedModel of this content, made when there is none, in the experiment of the store.

    An answer that got lost may have left a second one behind, of which nothing was measured: it is deleted.

    Args:
        run: of the training; its parameters become the model's.
        holds: `content`, or the sha256 of a checkpoint.
        kind: GENERATOR or CHECKPOINT.
    """
    found = _found(store, holds, kind)
    if not found:
        own = {
            key: value for key, value in run.data.tags.items() if key.startswith(f"{RESERVED}source.") or key in (f"{RESERVED}user", NOTE)
        }
        store.client.create_logged_model(
            store.experiment_id,
            name=plain(name),
            source_run_id=run.info.run_id,
            tags={**own, RUN_KEY: run.data.tags[RUN_KEY], CONTENT: holds, EXTERNAL: "true", **tags},
            params={key: value for key, value in run.data.params.items() if key != CLAIM},
            model_type=kind,
        )
        found = _found(store, holds, kind)
    if str(found[0].status) != "READY":  # whoever made it may have died before it said so
        store.client.finalize_logged_model(found[0].model_id, "READY")
    for twin in found[1:]:
        if not twin.metrics and EXTERNAL in twin.tags:
            store.client.delete_logged_model(twin.model_id)
    return found[0]


def link(store: Store, run_id: str, model: Any, *, step: int) -> None:
    """Name the model as an output of the run, unless it is: MLflow takes that only once.

    Args:
        step: real images seen.
    """
    outputs = store.client.get_run(run_id).outputs
    if outputs is None or all(output.model_id != model.model_id for output in outputs.model_outputs):
        store.client.log_outputs(run_id, [store.mlflow.entities.LoggedModelOutput(model.model_id, step)])


def _found(store: Store, holds: str, kind: str) -> list[Any]:
    """Those that have something first, then the oldest, so that everybody takes the same one."""
    filters = f"tags.`{CONTENT}` = '{holds}' AND model_type = '{kind}'"
    models = store.client.search_logged_models([store.experiment_id], filter_string=filters)
    return sorted(models, key=lambda model: (EXTERNAL in model.tags, not model.metrics, model.creation_timestamp, model.model_id))


def measured(store: Store, values: Mapping[str, float], *, model: Any, when: int, step: int, source: str, data_digest: str) -> list[Any]:
    """Numbers as MLflow's metrics: of which model, on which data.

    Args:
        values: by the metric's name.
        when: milliseconds since 1970; told again with the same, it is the same point.
        step: real images seen.
        source, data_digest: of the prepared data set, as the training's run names its input.
    """
    metric = store.mlflow.entities.Metric
    on = {"dataset_name": source, "dataset_digest": data_digest[:DIGEST_CHARACTERS]}
    return [metric(name, float(value), when, step, model_id=model.model_id, **on) for name, value in values.items()]
