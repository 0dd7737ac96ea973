"""The choice of what is exported, in a pipeline that has run: by the validation images, again by another judge, never by training again."""

import json

import pytest
from safetensors.torch import load_file

from ganlib.selection import Score, choose
from ganlib.storage import open_storage
from ganlib.training import candidates
from ganlib.training.parent import read_weights

pytestmark = pytest.mark.pipeline


@pytest.fixture(scope="module")
def chosen(finished, tmp_path_factory):
    """A copy of a finished project, its state with it, that may be changed; candidates at each 8,000 images."""
    clone = finished.copy(tmp_path_factory.mktemp("selection") / "clone")
    clone.set(train__select={"interval_images": 8_000, "images": 200})
    clone.repro("train")
    return clone


def state(clone):
    (folder,) = [
        folder
        for folder in (clone.root / "state").iterdir()
        if folder.name == json.loads((clone.root / "models" / "generator.json").read_text())["run_key"][:16]
    ]
    return open_storage(folder)


def said(clone):
    generator = json.loads((clone.root / "models" / "generator.json").read_text())
    return generator, json.loads((clone.root / "reports" / "training" / "selection.json").read_text())


def test_the_exported_weights_are_those_of_the_chosen_candidate(chosen):
    """Kills: choosing and exporting the last all the same; a table that says another one."""
    generator, table = said(chosen)
    storage = state(chosen)
    assert [row["images_seen"] for row in table["candidates"]] == candidates.present(storage) == [8_000, 16_000, 24_000, 32_000]
    folder = f"scores/{generator['selection']['choice'][:16]}"
    scores = [Score.model_validate_json(storage.read(f"{folder}/{name}")) for name in storage.names(folder)]
    best = choose(scores)
    assert [row["images_seen"] for row in table["candidates"] if row["is_chosen"]] == [best.images_seen] == [generator["images_seen"]]
    weights = read_weights(storage, candidates.name(best.images_seen))
    for network in ("generator", "discriminator"):
        for name, value in load_file(chosen.root / "models" / f"{network}.safetensors").items():
            if "running_" not in name:  # measured at the export
                assert value.equal(weights[f"{network}.{name}"]), (network, name)


def test_another_judge_scores_the_candidates_again_and_trains_nothing(chosen):
    """Kills: a run key that names the judge; scores that are kept under the training alone."""
    before, _ = said(chosen)
    storage = state(chosen)
    events = storage.read("events.jsonl")
    chosen.set(reference__seed=1)
    done = chosen.run("dvc", "repro", "train")
    assert "restored from its state" in done.stdout
    after, _ = said(chosen)
    assert after["run_key"] == before["run_key"]
    assert after["selection"]["choice"] != before["selection"]["choice"]
    assert len(storage.names("scores")) == 2
    assert storage.read("events.jsonl") == events


def test_a_score_that_is_damaged_or_of_other_weights_is_computed_again(chosen):
    """Kills: believing a score of weights that a rollback has replaced."""
    generator, table = said(chosen)
    storage = state(chosen)
    folder = f"scores/{generator['selection']['choice'][:16]}"
    first, second = storage.names(folder)[:2]
    good = {name: storage.read(f"{folder}/{name}") for name in (first, second)}
    storage.write(f"{folder}/{first}", good[first][:-20])
    storage.write(
        f"{folder}/{second}",
        Score.model_validate_json(good[second]).model_copy(update={"candidate": "0" * 64, "kid": -9.0}).model_dump_json().encode(),
    )
    chosen.run("python", "-m", "pipeline.stages.train")
    assert {name: storage.read(f"{folder}/{name}") for name in (first, second)} == good
    assert said(chosen) == (generator, table)


def test_a_judge_that_has_learnt_nothing_is_said_before_it_chooses(chosen):
    """Labels that mean nothing: its accuracy on validation images is that of chance. Kills a choice by blind features without a word."""
    path = chosen.root / "data" / "reference" / "reference.json"
    told = json.loads(path.read_text())
    blind = json.loads(path.read_text())
    blind["extractors"][0]["accuracy"]["val"] = 0.11
    path.unlink()  # DVC's cache may be the same file
    path.write_text(json.dumps(blind))
    said = chosen.run("python", "-m", "pipeline.stages.train").stdout
    assert "warning: the extractor classifier has learnt nothing: it is right on 0.110 of the val split, and whoever always" in said
    path.write_text(json.dumps(told))


KEYS = """
import json
from ganlib.train_settings import StopConfig
from pipeline import identity, params, preflight
found, made = preflight.load(), params.ROOT / "data" / "reference" / "reference.json"
told = json.loads(made.read_text())
other = json.loads(made.read_text())
other["extractors"][0]["sha256"] = "0" * 64
keys = []
for reference in (told, other):
    made.unlink()  # DVC's cache may be the same file
    made.write_text(json.dumps(reference))
    for stop in (None, StopConfig(patience_images=8_000), StopConfig(patience_images=9_000)):
        train = found.train.model_copy(update={"stop": stop})
        keys.append(identity.identity(found.model_copy(update={"train": train})).key)
made.write_text(json.dumps(told))
print(json.dumps(keys))
"""


def test_the_ruler_is_in_the_key_where_it_ends_the_training_and_only_there(chosen):
    """Another extractor trains nothing again, unless `train.stop` asks it when to end. Kills: a key with the judge always, or never."""
    alone, eight, nine, alone_again, eight_again, nine_again = json.loads(chosen.run("python", "-c", KEYS).stdout)
    assert alone == alone_again
    assert len({alone, eight, nine, eight_again, nine_again}) == 5


def test_without_validation_images_the_last_is_exported_and_it_is_said(chosen):
    chosen.set(data__val_fraction=0.0, train__total_images=6400)
    done = chosen.run("dvc", "repro", "train")
    assert "the last average is exported, and train.stop is off: the validation split has 0 images" in done.stdout
    generator, table = said(chosen)
    assert generator["images_seen"] == 6400
    assert table["by"] is None
    assert table["candidates"] == []
