"""register: models and their evaluation -> a version in the MLflow registry, and the decision who is champion."""

import json
from dataclasses import asdict
from pathlib import Path

from ganlib.metrics import calibration, needs
from ganlib.metrics.measure import protocol_of
from ganlib.samples import Samples
from ganlib.train_settings import TrainConfig
from pipeline import cli, generator, params, preflight
from pipeline.params import ROOT
from pipeline.tracking import registration, versions
from pipeline.tracking.card import Card
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.evaluation import SECTIONS, log_evaluation
from pipeline.tracking.settings import RegisterConfig, TrackingConfig

EXAMPLE_SEED = 0
MEASURED = frozenset({"generator_sha256", "truncation"})  # in a protocol, what was measured; the rest is how
DELIVERY_SECONDS = 300.0  # for what the training could not tell MLflow


def register(config: RegisterConfig, tracking: TrackingConfig, root: Path = ROOT) -> registration.Registration:
    """Register the generator when its content is new; write reports/registration.json.

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
    example = trained.product.source(Samples(root / "samples")).seeded(EXAMPLE_SEED, range(4))
    outcome = registration.register_generator(
        config,
        tracking,
        generator=served,
        example=served.array(example).numpy(),
        words=served.words,
        run_key=trained.facts["run_key"],
        card=Card.of_generator(trained.facts),
        sha256=trained.facts["sha256"],
        truncation=truncation,
        score=float(report[metric]),
        value=value,
        veto=calibration.veto(report.get("ruler", {}), metric),
        protocol={key: told for key, told in protocol_of(metric, report["protocol"]).items() if key not in MEASURED},
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
    (root / "reports" / "registration.json").write_text(json.dumps(asdict(outcome), indent=1) + "\n")
    return outcome


def main() -> None:
    tracking = params.section("tracking", TrackingConfig)
    for line in deliver_pending(tracking, params.section("train", TrainConfig).state_uri, limit_seconds=DELIVERY_SECONDS):
        print(line)
    outcome = register(params.section("register", RegisterConfig), tracking)
    new = "new" if outcome.is_new else "known already"
    print(f"models:/{outcome.model}/{outcome.version} ({new}; {', '.join(outcome.aliases)}): {outcome.reason}")
    whole = preflight.load()
    settings = {name: getattr(whole, name).model_dump(mode="json") for name in SECTIONS}
    print(f"MLflow: {log_evaluation(tracking, settings)}")  # unless `evaluate` could do it


if __name__ == "__main__":
    cli.run_stage(main)
