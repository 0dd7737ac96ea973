"""How often the promotion rule is wrong, simulated from a stored bank of trainings of the digits: docs/LOG.md.

    python benchmarks/promotion.py bank                # train and measure what benchmarks/promotion_bank.json lacks; one thread, five minutes of it
    python benchmarks/promotion.py simulate            # 1,000 promotions of equal models, 1,000 of better ones; seconds, nothing is trained

The bank has two recipes of a small dcgan on scikit-learn's digits: `equal`, 24 seeds, and `better`, 12 seeds with twice as many images. Each is
measured as the evaluate stage measures, in every metric that the calibration judges.

A promotion draws a champion and a challenger and, from the other seeds of `equal`, the stored spread of the recipe, all without replacement. It is
decided by `pipeline.promotion.decide`, the rule that `register` uses, at its default settings.
"""

import argparse
import json
import os
import random
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before torch is there

BANK = ROOT / "benchmarks" / "promotion_bank.json"
RECIPES = {"equal": (24, 16_000), "better": (12, 32_000)}  # seeds, images
NOT_IN_BANK = {"two_sample", "discriminator", "path_length", "pairs"}  # costly, of networks that the bank does not keep, or of pairs
SPREAD_SEEDS = 5  # as `ganpipe seeds` makes them
DIGITS = 6  # significant, of a stored number

Row = dict[str, Any]


def settings(images: int, seed: int) -> Any:
    from ganlib.metrics.settings import EvaluateConfig
    from pipeline import edit, preflight

    values = edit.plain(ROOT / "params.yaml")
    never = 1 << 60
    for section, changes in {
        "data": {"source": "digits", "image_size": [8, 8]},
        "model": {"latent_dim": 16, "generator": {"width": 16}, "discriminator": {"width": 16}},
        "train": {"seed": seed, "total_images": images, "select": None, "grid_interval_images": never, "checkpoint_interval_images": never},
        "sample": {"num_images": 1_000},
        "evaluate": {
            "metrics": [name for name in EvaluateConfig().metrics if name not in NOT_IN_BANK],
            "prdc_images": 241,
            "bootstrap": 20,
            "null_draws": 0,
        },
    }.items():
        edit.overlay(values, {section: changes})
    return preflight.parse(values)


def rounded(value: Any) -> Any:
    if isinstance(value, float):
        return float(f"{value:.{DIGITS}g}")
    if isinstance(value, dict):
        return {key: rounded(item) for key, item in value.items()}
    return [rounded(item) for item in value] if isinstance(value, list) else value


def measured(config: Any, root: Path) -> Row:
    """Train without Ray in one process, which gives the same weights; export, sample and evaluate as the stages do."""
    from ganlib.data.arrow import ArrowImages, read_manifest
    from ganlib.storage import open_storage
    from ganlib.training import loop
    from ganlib.training.state import BundleStore
    from pipeline import artifacts
    from pipeline.selection import Selection
    from pipeline.stages.evaluate import evaluate
    from pipeline.stages.sample import sample
    from pipeline.tracking.outbox import TrainingFacts

    prepared = root / "data" / "prepared"
    data = prepared / "train.arrow"
    with tempfile.TemporaryDirectory(prefix="promotion-") as folder:
        spec = loop.TrainingSpec(
            data=str(data),
            held_out=str(prepared / "val.arrow"),
            folder=folder,
            threads=1,
            **{name: getattr(config, name) for name in ("model", "task", "optim", "train")},
        )
        loop.train(spec)
        storage = open_storage(folder)
        bundle, _ = BundleStore(storage, keep=1).newest()
        assert bundle is not None
        facts = TrainingFacts(
            run_key="bank",
            params={},
            tags={"git.commit": "unknown", "params.digest": "bank"},
            data_digest=read_manifest(prepared).data_digest,
            data_source=config.data.source,
        )
        choice = Selection(facts={"by": None, "why": "train.select is null"}).choose(storage, bundle)
        artifacts.write(bundle, choice, spec, ArrowImages(data), storage=storage, root=root, facts=facts)
    sample(config.sample, root)
    found = evaluate(config.evaluate, root=root)
    alarms = json.loads((root / "reports" / "training" / "alarms.json").read_text())
    return {
        **{key: value for key, value in found.items() if key not in ("null", "baseline")},
        "alarms": [alarm["name"] for alarm in alarms],
    }


def bank() -> None:
    from pipeline.stages.calibrate import calibrate
    from pipeline.stages.fetch import fetch
    from pipeline.stages.prepare import prepare
    from pipeline.stages.reference import reference

    rows: list[Row] = json.loads(BANK.read_text()) if BANK.exists() else []
    have = {(row["recipe"], row["seed"]) for row in rows}
    with tempfile.TemporaryDirectory(prefix="promotion-") as folder:
        root, config = Path(folder), settings(1_000, 0)
        fetch(config.data, root)
        prepare(config.data, root, processes=1)
        reference(config.reference, root=root)
        calibrate(config.evaluate, root=root)
        for name, (seeds, images) in RECIPES.items():
            for seed in range(seeds):
                if (name, seed) in have:
                    continue
                start = time.perf_counter()
                found = measured(settings(images, seed), root)
                rows.append({"recipe": name, "seed": seed, "images": images, "evaluation": rounded(found)})
                lines = ",\n".join(json.dumps(row, separators=(",", ":")) for row in rows)
                BANK.write_text(f"[\n{lines}\n]\n")
                print(f"{name} {seed}: FID {found['fid']:.3f} ({time.perf_counter() - start:.0f} s)", flush=True)


def simulate(rounds: int, seeds: int) -> dict[str, Any]:
    """Shares of promotions, and what failed how often, for equal and for better challengers."""
    from pipeline import promotion
    from pipeline.promotion import Entrant, Spread
    from pipeline.tracking.settings import RegisterConfig

    rows, rule, draw = json.loads(BANK.read_text()), RegisterConfig(), random.Random(0)
    by_recipe = {name: [row["evaluation"] for row in rows if row["recipe"] == name] for name in RECIPES}
    told: dict[str, Any] = {"rounds": rounds, "seeds_of_the_spread": seeds, "rule": rule.model_dump(mode="json")}
    for name in RECIPES:
        promoted, failed = 0, dict[str, int]()
        for _ in range(rounds):
            champion, *others = draw.sample(by_recipe["equal"], 2 + seeds)
            challenger = others.pop() if name == "equal" else draw.choice(by_recipe[name])
            found = promotion.decide(
                rule,
                Entrant(name="challenger", evaluation=challenger, recipe=name, alarms=challenger["alarms"]),
                Entrant(name="champion", evaluation=champion, recipe="equal"),
                [Spread(recipe="equal", evaluations=others[:seeds])],
            )
            promoted += found.promotes
            for kind in {check.kind for check in found.checks if not check.passes}:
                failed[kind] = failed.get(kind, 0) + 1
        told[name] = {"promoted": promoted / rounds, "failed": {kind: count / rounds for kind, count in sorted(failed.items())}}
    return told


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["bank", "simulate"])
    parser.add_argument("--rounds", type=int, default=1_000, help="promotions of each kind")
    parser.add_argument("--seeds", type=int, default=SPREAD_SEEDS, help="of the stored spread")
    arguments = parser.parse_args()
    if arguments.what == "bank":
        bank()
    else:
        print(json.dumps(simulate(arguments.rounds, arguments.seeds), indent=1))


if __name__ == "__main__":
    main()
