"""register: models and their evaluation -> a version in the MLflow registry, and the decision who is champion."""

import json
from dataclasses import asdict
from pathlib import Path

from ganlib.data.settings import DataConfig
from ganlib.files import write_json
from ganlib.metrics import needs
from ganlib.train_settings import TrainConfig
from pipeline import cli, generator, names, params, preflight, spread
from pipeline.params import ROOT
from pipeline.tracking import registration, versions
from pipeline.tracking.card import Card, source_of
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.evaluation import SECTIONS, log_evaluation
from pipeline.tracking.settings import RegisterConfig, TrackingConfig

EXAMPLE_SEED = 0
DELIVERY_SECONDS = 300.0  # for what the training could not tell MLflow


def register(config: RegisterConfig, tracking: TrackingConfig, root: Path = ROOT, *, data_path: str = "") -> registration.Registration:
    """Register the generator when its content is new, and decide who is champion; write reports/registration.json.

    Args:
        data_path: `data.path`, which may name the model.

    Raises:
        ValueError: the evaluation lacks the metric that decides, or nobody has declared which way it is better.
    """
    trained = generator.load(root / "models")
    report = json.loads((root / "reports" / "evaluation.json").read_text())
    metric, value = config.metric, needs.value_of(config.metric)
    if metric not in report or value is None:
        legal = ", ".join(key for key, number in report.items() if isinstance(number, int | float) and needs.value_of(key) is not None)
        why = "has no direction that its metric declares" if metric in report else "is not in reports/evaluation.json"
        raise ValueError(f"register.metric={metric!r} {why}; legal: {legal}")
    truncation = report["protocol"].get("truncation", 1.0)  # what was measured is what is registered
    served = trained.served(truncation)
    alarms = root / "reports" / "training" / "alarms.json"
    outcome = registration.register_generator(
        config.model_copy(update={"model": names.model_name(config.model, source=source_of(trained.facts), path=data_path)}),
        tracking,
        generator=served,
        example=served.array(trained.inputs(EXAMPLE_SEED, range(4))).numpy(),
        words=served.words,
        run_key=trained.facts["run_key"],
        card=Card.of_generator(trained.facts),
        sha256=trained.facts["sha256"],
        truncation=truncation,
        evaluation=report,
        recipe=trained.facts.get("recipe_digest", ""),
        alarms=[alarm["name"] for alarm in json.loads(alarms.read_text())],
        spreads=spread.stored(root),
        tags={
            "git.commit": trained.facts["git_commit"],
            **({"git.changed": ", ".join(trained.facts["git_changed"])} if "git_changed" in trained.facts else {}),
            "data.digest": trained.facts["data_digest"],
            "params.digest": trained.facts["params_digest"],
            **({"truncation": repr(truncation)} if truncation != 1.0 else {}),
            "gan.run_key": trained.facts["run_key"],
            **versions.parent_tags(trained.facts.get("parent")),
            **versions.weights_tags(root / "models"),
        },
        files=[*versions.files(root / "models"), root / "samples" / "grid.png"],
        root=root,
    )
    write_json(root / "reports" / "registration.json", asdict(outcome))
    return outcome


def told(outcome: registration.Registration) -> str:
    """Where the version is, and what the rule said of it, a line a question that was answered with no."""
    if outcome.is_dry_run:
        return f"{outcome.model}: {outcome.reason}"
    new = "new" if outcome.is_new else "known already"
    first = f"models:/{outcome.model}/{outcome.version} ({', '.join([new, *outcome.aliases])}): {outcome.reason}"
    failed = [check for check in (outcome.decision or {}).get("checks", ()) if not check["passes"]]
    return "\n".join([first, *(f"  not {check['kind']} of {check['key']}: {check['words']}" for check in failed[1:])])


def main() -> None:
    tracking = params.section("tracking", TrackingConfig)
    for line in deliver_pending(tracking, params.section("train", TrainConfig).state_uri, limit_seconds=DELIVERY_SECONDS):
        print(line)
    data_path = params.section("data", DataConfig).path
    outcome = register(params.section("register", RegisterConfig), tracking, data_path=data_path)
    print(told(outcome))
    whole = preflight.load()
    settings = {name: getattr(whole, name).model_dump(mode="json") for name in SECTIONS}
    print(f"MLflow: {log_evaluation(tracking, settings)}")  # unless `evaluate` could do it


if __name__ == "__main__":
    cli.run_stage(main)
