"""register: models and their evaluation -> a version in the MLflow registry, and the decision who is champion."""

import json
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from ganlib.data.arrow import ArrowImages, read_manifest, split_path
from ganlib.data.settings import DataConfig
from ganlib.files import atomic_write, write_json
from ganlib.marks.settings import MarksConfig
from ganlib.metrics import METRICS, needs
from ganlib.metrics.settings import EvaluateConfig
from ganlib.sample_settings import SampleConfig
from ganlib.train_settings import TrainConfig
from pipeline import cli, forms, generator, model_card, names, params, preflight, spread
from pipeline.params import ROOT
from pipeline.provenance import record as provenance
from pipeline.report import decision
from pipeline.stages.evaluate import evaluate
from pipeline.stages.sample import sample
from pipeline.tracking import registration, versions
from pipeline.tracking.card import Card
from pipeline.tracking.delivery import deliver_pending
from pipeline.tracking.evaluation import SECTIONS, log_evaluation
from pipeline.tracking.settings import RegisterConfig, TrackingConfig

DELIVERY_SECONDS = 300.0  # for what the training could not tell MLflow


def register(
    config: RegisterConfig,
    tracking: TrackingConfig,
    root: Path = ROOT,
    *,
    data: DataConfig,
    sampled: SampleConfig,
    evaluated: EvaluateConfig,
    marks: MarksConfig,
) -> registration.Registration:
    """Register the generator when its content is new, and decide who is champion; write reports/registration.json and .html, and model_card.md.

    Args:
        data: names the model, unless params.yaml does.
        sampled, evaluated: how this generator was measured, and a champion is measured again that was measured otherwise.
        marks: how strongly a new version marks images.

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
    interface = forms.interface(trained, truncation, strength=marks.strength)
    with tempfile.TemporaryDirectory(prefix="register-") as scratch:
        beside = [Path(scratch) / "README.md"]
        alarms = [alarm["name"] for alarm in json.loads((root / "reports" / "training" / "alarms.json").read_text())]
        card = model_card.render(trained.facts, interface, report, alarms=alarms, licence=config.data_licence, onnx=config.onnx)
        beside[0].write_text(card, encoding="utf-8")
        if config.onnx:
            beside.append(Path(scratch) / forms.ONNX)
            forms.write_onnx(trained, truncation, beside[-1])
            beside += [] if interface["latents"] is None else [forms.SEEDED]
        outcome = registration.register_generator(
            config.model_copy(update={"model": names.model_name(config.model, source=data.source, path=data.place)}),
            tracking,
            generator=served,
            example=trained.example(lambda: generator.held_out(root)[1]).numpy(),
            words=served.words,
            interface=interface,
            run_key=trained.facts["run_key"],
            card=Card.of_generator(trained.facts),
            sha256=trained.facts["sha256"],
            images_seen=trained.facts["images_seen"],
            truncation=truncation,
            evaluation=report,
            recipe=trained.facts.get("recipe_digest", ""),
            alarms=alarms,
            spreads=spread.stored(root),
            measure_again=partial(measure_again, sampled=sampled, evaluated=evaluated, tracking=tracking, root=root),
            tags=versions.tags(trained.facts, truncation, root / "models"),
            lineage=provenance.of(trained.facts, report, root),
            files=[*versions.files(root / "models"), root / "samples" / "grid.png"],
            beside=beside,
            root=root,
        )
    atomic_write(root / "reports" / "model_card.md", card.encode())
    write_json(root / "reports" / "registration.json", asdict(outcome))
    atomic_write(root / "reports" / "registration.html", decision.render(asdict(outcome), report).encode())
    return outcome


def measure_again(
    source: str, truncation: float, *, sampled: SampleConfig, evaluated: EvaluateConfig, tracking: TrackingConfig, root: Path
) -> dict[str, Any]:
    """The evaluation of a registered generator on the data, the reference and the latents of today, as the stages make it.

    Numbers that compare with training images are left out where it was trained on others.

    Args:
        source: `models:/NAME/VERSION`.
        truncation: that is built into it.

    Raises:
        ValueError: its files are not there, or it makes other images or classes.
    """
    with tempfile.TemporaryDirectory(prefix="register-") as folder:
        copy = Path(folder)
        (copy / "models").mkdir()
        (copy / "data").symlink_to((root / "data").resolve())
        versions.fetch(source, None, copy / "models", tracking, root, named="the champion")
        description = copy / "models" / versions.DESCRIPTION
        facts, manifest = json.loads(description.read_text(encoding="utf-8")), read_manifest(root / "data" / "prepared")
        made, here = (
            [facts["image"]["channels"], *facts["image"]["size"]],
            list(ArrowImages(split_path(root / "data" / "prepared", "train")).shape),
        )
        if made != here:
            raise ValueError(f"{source} makes images of {made} (channels, height, width), the data have {here}")
        if "class_names" in facts and facts["class_names"] != list(manifest.class_names or ()):
            raise ValueError(f"{source} knows the classes {facts['class_names']}, the data have {list(manifest.class_names or ())}")
        if facts["data_digest"] != manifest.data_digest:  # the question is how good it is on these
            write_json(description, facts | {"data_digest": manifest.data_digest})
            others = [name for name in evaluated.metrics if not needs.of(METRICS.get(name)).training]
            evaluated = evaluated.model_copy(update={"metrics": others})
        sample(sampled.model_copy(update={"truncation": truncation}), copy)
        return evaluate(evaluated, root=copy)


def main() -> None:
    tracking, marks = params.section("tracking", TrackingConfig), params.section("marks", MarksConfig)
    for line in deliver_pending(tracking, params.section("train", TrainConfig).state_uri, limit_seconds=DELIVERY_SECONDS):
        print(line)
    outcome = register(
        params.section("register", RegisterConfig),
        tracking,
        data=params.section("data", DataConfig),
        sampled=params.section("sample", SampleConfig),
        evaluated=params.section("evaluate", EvaluateConfig),
        marks=marks,
    )
    print(outcome.in_words())
    if outcome.strength not in (None, marks.strength):
        print(f"version {outcome.version} was registered with marks.strength: {outcome.strength}, and keeps it")
    whole = preflight.load()
    settings = {name: getattr(whole, name).model_dump(mode="json") for name in SECTIONS}
    print(f"MLflow: {log_evaluation(tracking, settings)}")  # unless `evaluate` could do it


if __name__ == "__main__":
    cli.run_stage(main)
