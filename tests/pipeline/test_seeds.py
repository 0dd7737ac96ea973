"""`ganpipe seeds` for real: trainings under several seeds, their spread, and a promotion that is decided by it."""

import json
import re

import pytest

pytestmark = [pytest.mark.pipeline, pytest.mark.slow, pytest.mark.timeout(4 * 1_500)]


SECONDS = 1_500  # of a command, on a machine that others use too


def repro(clone):
    return re.findall(r"Running stage '(\w+)'", clone.run("dvc", "repro", timeout=SECONDS).stdout)


def registered(clone):
    return json.loads((clone.root / "reports" / "registration.json").read_text())


def test_a_spread_of_seeds_decides_and_a_champion_of_another_protocol_is_measured_again(make_clone):
    """Kills: seeds that register something or leave a state elsewhere; a spread of other settings than those that are registered; a refusal for
    ever where the protocol has changed.
    """
    clone = make_clone()
    clone.set(train__total_images=2_000, train__grid_interval_images=2_000, train__select=None, sample__num_images=300)
    clone.set(evaluate__metrics=["fid", "kid", "prdc", "memorization"], evaluate__prdc_images=241, evaluate__bootstrap=8)
    clone.set(register__limits={}, register__alarms=[])  # two seconds of training are no good
    clone.commit("tiny")
    repro(clone)
    assert registered(clone)["aliases"] == ["challenger", "champion"]
    first = json.loads((clone.root / "models" / "generator.json").read_text())
    before = clone.lock()
    said = clone.run("python", "-m", "pipeline.seeds", "--count", "3", timeout=SECONDS).stdout
    (file,) = (clone.root / "seeds").glob("*.json")
    assert file.name == f"{first['recipe_digest'][:12]}-{first['data_digest'][:12]}.json"
    assert f"seed 1: seeds/{file.name}" in said
    stored = json.loads(file.read_text())
    assert list(stored["seeds"]) == ["0", "1", "2"]
    fids = [found["fid"] for found in stored["seeds"].values()]
    assert len(set(fids)) == 3
    # the seed of the project is one of them: trained once, measured to the same numbers
    assert json.loads((clone.root / "reports" / "evaluation.json").read_text())["fid"] == fids[0]
    assert clone.lock() == before
    assert len(list((clone.root / "state").glob("*/training.json"))) == 3
    # a training of another seed, which is there already, is judged by it
    clone.set(train__seed=1)
    repro(clone)
    second = registered(clone)
    assert second["version"] == 2
    (check,) = [check for check in second["decision"]["checks"] if check["kind"] == "superiority over seeds"]
    assert "the spread over 3 seeds" in check["words"]
    assert check["numbers"]["challenger"] == fids[1]
    assert second["champion"]["numbers"]["fid"] == fids[0]
    page = (clone.root / "reports" / "registration.html").read_text()
    assert "version 1" in page
    assert "the spread over 3 seeds" in page
    # another protocol: the champion is measured again, and nobody trains
    clone.set(evaluate__split="val")
    assert repro(clone)[-2:] == ["evaluate", "register"]
    third = registered(clone)
    assert third["champion"]["note"].startswith("measured again as this generator was, as it was measured otherwise in split")
    assert third["champion"]["protocol"]["split"] == "val"
    assert not [check for check in third["decision"]["checks"] if check["kind"] == "protocol" and not check["passes"]]
