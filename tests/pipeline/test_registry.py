"""Who is champion, and how that moves: registrations in a real MLflow store, and what people do to it by hand."""

import argparse
import html
import json
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from ganlib.data.sources import SOURCES
from ganlib.metrics.measure import compared
from pipeline import names, promotion, registry, spread
from pipeline.promotion import Spread
from pipeline.report import decision
from pipeline.tracking import deciding, model_registry, registration, registry_lock, versions
from tests.registrations import NAME, ROOT, lineage_of, measured, register, settings, standing, store_of

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's own


@pytest.fixture
def root(registry_root):
    return registry_root


def test_the_first_within_its_limits_then_who_is_better_and_nobody_else(root):
    """Kills: a worse or an equal one crowned, a rejected one crowned by being registered again, and a history without a reason."""
    first = register(root, "a", 5.0)
    assert (first.version, first.is_new, first.aliases) == (1, True, ["challenger", "champion"])
    assert "there is no champion to compare with" in first.reason
    again = register(root, "a", 5.0)
    assert (again.version, again.is_new, again.reason) == (1, False, "it is the champion already")
    worse = register(root, "b", 6.0)
    assert (worse.aliases, standing(root).state(2)) == (["challenger"], "rejected")
    assert "fid 6 against 5 of version 1: worse by 1" in worse.reason
    better = register(root, "c", 4.0)
    assert (better.version, better.aliases) == (3, ["challenger", "champion"])
    assert "version 1: better by 1" in better.reason
    found = standing(root)
    assert (found.aliases, found.state(1), found.state(3)) == ({"champion": 3, "challenger": 3}, "replaced", "champion")
    assert [(event.what, event.version, event.champion, event.before) for event in found.history] == [
        ("promoted", 1, 1, None),
        ("promoted", 3, 3, 1),
    ]
    tags = found.versions[3]
    assert json.loads(tags["promotion.rule"])["error_rate"] == 0.05
    summary = json.loads(tags["promotion.numbers"])
    assert (summary["challenger"], summary["champion"], summary["failed"], summary["whole"]) == (4.0, 5.0, [], "promotion.json")
    assert summary["p_over_seeds"] < 0.05
    assert tags["promotion.reason"] == better.reason
    # what was measured, and the whole of what was decided, lie beside the model
    store = store_of(root)

    def beside(file):
        got = store.mlflow.artifacts.download_artifacts(f"models:/{NAME}/3/{file}", dst_path=str(root / "got"))
        return json.loads(Path(got).read_text())

    assert beside("evaluation.json") == measured(4.0)
    assert beside("promotion.json")["decision"] == json.loads(json.dumps(better.decision))
    assert {check["kind"] for check in better.decision["checks"]} >= {"superiority over samples", "superiority over seeds"}
    assert (better.champion["name"], better.champion["numbers"]["fid"]) == ("version 1", 5.0)
    assert store.client.get_model_version(NAME, "3").description == (
        f"three numbers\n\nWhen it was registered: {better.reason}\n\nModel card: README.md, beside the model."
    )
    # what was rejected stays so, whoever is champion now, until it is measured anew
    store.client.set_registered_model_alias(NAME, "champion", "1")
    assert "rejected by these very measurements" in register(root, "b", 6.0).reason
    assert "worse by" in register(root, "b", 5.9).reason


def test_a_rollback_is_not_undone_by_the_next_run_by_hand_or_by_command(root):
    """Kills: a version that was rolled back in MLflow's page, crowned again because its score is the best."""
    register(root, "a", 5.0)
    register(root, "b", 4.0)
    store = store_of(root)
    store.client.set_registered_model_alias(NAME, "champion", "1")  # by hand
    again = register(root, "b", 4.0)
    assert again.aliases == ["challenger"]
    assert "it was rolled back, and registering it again does not undo that" in again.reason
    assert [event.what for event in standing(root).history] == ["promoted", "promoted", "moved by hand"]
    assert register(root, "c", 3.0).aliases == ["challenger", "champion"]
    with registry_lock.held(store, NAME) as held:
        assert model_registry.rollback(store, held, standing(root), why="odd colours") == (3, 1)  # version 2 was rolled back before
    assert standing(root).champion == 1
    assert "odd colours" in register(root, "c", 3.0).reason
    with registry_lock.held(store, NAME) as held:
        model_registry.promote(store, held, standing(root), 3, why="they were right")
        with pytest.raises(ValueError, match=r"nobody was champion before version 1"):
            model_registry.rollback(store, held, model_registry.Standing(name=NAME, aliases={"champion": 1}, versions={1: {}}), why="?")
    assert (standing(root).champion, standing(root).state(1)) == (3, "replaced")


def test_a_missing_alias_crowns_nobody_without_a_word(root):
    """Kills: the worst of nineteen versions, crowned because somebody had deleted the alias."""
    register(root, "a", 5.0)
    store = store_of(root)
    store.client.delete_registered_model_alias(NAME, "champion")
    for content in ("a", "b"):
        lost = register(root, content, 4.0)
        assert lost.aliases == ["challenger"]
        assert "the alias champion is gone, and version 1 had it last; nobody is crowned because it is missing" in lost.reason
    assert f"ganpipe registry promote {NAME} 1 --reason" in lost.reason
    # versions of which nothing is known, as they were registered before there was a history
    for key in store.client.get_registered_model(NAME).tags:
        store.client.delete_registered_model_tag(NAME, key)
    for key in (model_registry.STATE, deciding.RECIPE):
        store.client.delete_model_version_tag(NAME, "1", key)
    assert "1 earlier version of which nobody knows whether one had it (1)" in register(root, "b", 4.0).reason
    assert standing(root).champion is None


def test_a_version_that_is_being_registered_beside_it_keeps_nobody_from_the_first_place(root, monkeypatch):
    """Two first registrations at once saw each other's version, and neither was crowned: whoever decides last sees one that was not decided of."""
    with monkeypatch.context() as before_the_lock:
        before_the_lock.setattr(deciding, "settle", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            register(root, "a", 5.0)
    assert standing(root).aliases == {}
    assert register(root, "b", 6.0).aliases == ["challenger", "champion"]
    assert register(root, "a", 5.0).aliases == ["challenger", "champion"]  # and goes on where it stopped


def test_retired_is_for_good_and_says_so(root):
    register(root, "a", 5.0)
    store = store_of(root)
    with registry_lock.held(store, NAME) as held:
        assert model_registry.retire(store, held, standing(root), 1, why="a person withdrew her pictures") == ["challenger", "champion"]
        with pytest.raises(ValueError, match=r"version 1 was retired .*withdrew.*is not promoted"):
            model_registry.promote(store, held, standing(root), 1, why="?")
    assert "it was retired: a person withdrew her pictures" in register(root, "a", 5.0).reason
    assert "it was retired" in register(root, "a", 5.0, force="we need it anyway").reason
    after = register(root, "b", 6.0)  # another one may be, and is told what was before
    assert (after.version, after.aliases) == (2, ["challenger", "champion"])
    assert "version 1 retired by" in after.reason


def test_force_dry_run_and_approval(root):
    """Kills: a force that crowns all that is registered after it, and a dry run that leaves a version."""
    dry = register(root, "a", 5.0, dry_run=True)
    assert (dry.version, dry.aliases, dry.is_dry_run) == (None, [], True)
    assert model_registry.look(store_of(root), NAME) is None
    register(root, "a", 5.0)
    dry = register(root, "b", 4.0, dry_run=True)
    assert dry.decision["promotes"]
    assert dry.reason.startswith("dry run, nothing was registered: fid 4 against 5 of version 1")
    assert len(standing(root).versions) == 1
    waits = register(root, "b", 4.0, approval="manual")
    assert (waits.aliases, standing(root).champion, standing(root).state(2)) == (["awaiting", "challenger"], 1, "awaiting")
    store = store_of(root)
    with registry_lock.held(store, NAME) as held:
        model_registry.promote(store, held, standing(root), 2, why="looked at")
    assert standing(root).aliases == {"champion": 2, "challenger": 2}
    forced = register(root, "c", 9.0, force="demo on Friday, the old style")
    assert (forced.aliases, forced.reason) == (["challenger", "champion"], "forced by register.force: demo on Friday, the old style")
    assert standing(root).history[-1].what == "forced"
    with pytest.raises(ValueError, match=r"was the reason for another version of gan-digits already; set register.force: null"):
        register(root, "d", 9.5, force="demo on Friday, the old style")
    with pytest.raises(ValueError, match=r"register\.force"):
        settings(force="")
    # two that began before either had used it
    register(root, "e", 9.5)
    rule = settings(force="demo on Monday, in a new style").register_
    one, other = (
        deciding.Case(
            store=store,
            register=rule,
            entrant=promotion.Entrant(name="x", evaluation={}),
            content=standing(root).versions[number][deciding.CONTENT],
            words="",
        )
        for number in (4, 2)
    )
    assert deciding.settle(one, 4).outcome == "champion"
    with pytest.raises(ValueError, match="was the reason for another version"):
        deciding.settle(other, 2)
    assert standing(root).champion == 4


def test_other_protocols_are_refused_by_key_and_a_stored_spread_is_read(root):
    register(root, "a", 5.0)
    other = register(root, "b", 4.0, protocol={"split": "val"})
    assert "split is val here and test there" in other.reason
    assert register(root, "c", 4.0, protocol={"bootstrap": 30}, spread=None).reason.count("run `ganpipe seeds`") == 1
    seeds = [measured(fid) for fid in (5.0, 5.05, 4.95, 5.02)]
    assert "champion" in register(root, "c", 4.0, spread=None, spreads=[Spread(recipe="r", evaluations=seeds)]).aliases  # judged anew
    assert "mode_collapse" in register(root, "d", 1.0, alarms=["mode_collapse"]).reason


def test_a_champion_of_another_protocol_is_measured_again(root):
    """Kills: a refusal for ever; a decision about somebody who is champion no more; words about measuring that do not say what differs."""
    register(root, "a", 5.0)
    asked = []

    def again(source, truncation):
        asked.append((source, truncation))
        return measured(5.5, split="val")

    other = register(root, "b", 4.0, protocol={"split": "val"}, measure_again=again)
    assert (asked, other.aliases) == ([(f"models:/{NAME}/1", 1.0)], ["challenger", "champion"])
    assert "fid 4 against 5.5 of version 1" in other.reason
    assert other.champion["note"] == "measured again as this generator was, as it was measured otherwise in split"
    assert versions.kept_evaluation(store_of(root), NAME, 1) == measured(5.0)  # what was registered stays

    def cannot(source, truncation):
        raise ValueError("its files are gone")

    dry = register(root, "c", 3.0, measure_again=again, dry_run=True)  # measured as `val`, which is no help
    assert "split is test here and val there (measured again" in dry.reason
    refused = register(root, "c", 3.0, measure_again=cannot)
    assert refused.aliases == ["challenger"]
    assert "split is test here and val there (it could not be measured again here: its files are gone)" in refused.reason

    def meanwhile(source, truncation):
        store_of(root).client.set_registered_model_alias(NAME, "champion", "1")
        return measured(2.0)

    told = lineage_of("w", measured(3.0))
    late = register(root, "d", 3.0, measure_again=meanwhile, lineage=told)  # version 1 was measured alike
    assert late.aliases == ["challenger", "champion"]
    assert "fid 3 against 5 of version 1" in late.reason
    kept = versions.kept(store_of(root), NAME, late.version, versions.LINEAGE, "")
    assert kept["parent_champion"]["version"] == f"models:/{NAME}/1"  # not whoever was when it was registered


def test_what_a_tag_holds_is_never_cut_json():
    """Kills: 4,000 characters of a JSON that nobody can read."""
    checks = [
        promotion.Check(kind="non-inferiority", key=f"a_long_name_of_a_number_{number}@efficientnet_lite0", passes=False, words="w" * 200)
        for number in range(300)
    ]
    told = json.dumps(deciding.summary(promotion.Decision(promotes=False, reason="", checks=checks, not_judged={}, rule={})))
    assert len(told) < model_registry.MOST_CHARACTERS
    assert json.loads(told)["failed"][-1] == "and 290 more"
    assert len(deciding.described("a, " * 3_000, "r" * 9_000)) <= deciding.DESCRIPTION_CHARACTERS


def with_rotation(at: float) -> dict[str, float]:
    return {"fid@rotation": at, "fid@rotation_low": at - 0.01, "fid@rotation_high": at + 0.01}


def test_the_page_sets_each_number_beside_the_champions():
    """Kills: a page without the champion's values, and an interval or a name that is taken for markup."""
    evaluation, theirs = measured(4.0), measured(5.0)
    rule = settings().register_
    one, other = (
        promotion.Entrant(name="version 2", evaluation=evaluation),
        promotion.Entrant(name="version 1", evaluation=theirs, note="a < b"),
    )
    found = promotion.decide(rule, one, other)
    outcome = registration.Registration.of(
        deciding.Verdict(reason=found.reason, outcome="champion", decision=found, champion=other),
        model=NAME,
        version=2,
        is_new=True,
        aliases=["champion"],
        run_id="r",
    )
    page = decision.render(json.loads(json.dumps(asdict(outcome))), evaluation)
    row = next(line for line in page.splitlines() if line.startswith("<tr><th>FID"))
    assert re.findall(r"<td>(.*?)</td>", row)[:4] == ["4", "3.99 to 4.01", "5", "4.99 to 5.01"]
    assert "version 1: a &lt; b" in page
    for check in found.checks:
        assert html.escape(check.words) in page or check.words in page
    assert "The extractors disagree" not in page
    ours, champion = ({**numbers, **with_rotation(at)} for numbers, at in ((evaluation, 9.0), (theirs, 8.0)))
    told = json.loads(json.dumps(asdict(outcome)))
    told["champion"]["numbers"] |= champion
    assert "The extractors disagree: this generator is better than version 1 in FID by" in decision.render(told, ours)
    nobody = decision.render(json.loads(json.dumps(asdict(replace(outcome, decision=None, champion=None)))), evaluation)
    assert "The rule was not asked." in nobody


def test_a_persons_word_is_given_and_read_on_the_command_line(root):
    """Kills: a verb that needs no reason, and data whose withdrawal leaves a version behind."""
    register(root, "a", 5.0)
    register(root, "b", 4.0)
    store = store_of(root)

    def verb(*words):
        values = {"name": NAME, "version": None, "data": None, "reason": "seen by eye", "verb": words[0]}
        return registry.run(store, argparse.Namespace(**values | dict(zip(("name", "version"), words[1:], strict=False))))

    assert verb("rollback") == [f"{NAME} version 1 is champion again, version 2 is rolled back"]
    assert verb("promote", NAME, 2) == [f"{NAME} version 2 is champion"]
    first, second = verb("list")
    assert first.startswith(f"models:/{NAME}/1  replaced; fid 5.0")
    assert second.startswith(f"models:/{NAME}/2 @challenger @champion  champion; fid 4.0; seen by eye")
    assert [line.partition(" by ")[0][22:] for line in verb("history")] == [
        "version 1 promoted",
        "version 2 promoted",
        "version 1 rolled back to",
        "version 2 promoted",
    ]
    with pytest.raises(ValueError, match=r"has no version 7; there are: 1, 2"):
        verb("promote", NAME, 7)
    with pytest.raises(ValueError, match=r"no model 'gan'; it has: gan-digits"):
        verb("promote", "gan", 1)
    with pytest.raises(ValueError, match=r"--data eeeeeeee: no version"):
        registry.retire_data(store, "e" * 8, why="withdrawn")
    assert len(registry.retire_data(store, "d" * 8, why="withdrawn")) == 2
    assert standing(root).aliases == {}
    done = subprocess.run([sys.executable, "-m", "pipeline.registry", "promote", NAME, "1"], cwd=ROOT, capture_output=True, text=True)
    assert "--reason" in done.stderr


@pytest.mark.parametrize(
    ("setting", "source", "path", "name"),
    [
        ("auto", "fashion-mnist", "data/incoming", "gan-fashion-mnist"),
        ("auto", "image_folder", "data/My Cats.zip", "gan-my-cats"),
        ("auto", "idx", "data/incoming/", "gan-incoming"),
        ("gan-generator", "digits", "x", "gan-generator"),
    ],
)
def test_a_model_is_called_by_its_data_unless_it_has_a_name(setting, source, path, name):
    """Kills: one's own images registered as Fashion-MNIST's next version."""
    assert names.model_name(setting, source=source, path=path) == name


def test_names_that_no_address_can_hold_are_refused():
    for bad in ("a/b", "a@b", "gan.lock"):
        with pytest.raises(ValueError, match=r"register\.model"):
            names.model_name(bad, source="digits", path="x")
    with pytest.raises(ValueError, match=r"say no name; set register\.model"):
        names.model_name("auto", source="idx", path="///")
    assert set(SOURCES.names()) >= names.OWN_FILES


def test_a_spread_is_kept_seed_by_seed_and_read_back(tmp_path):
    """Kills: a second run of `ganpipe seeds` that forgets the first, and a damaged file that is taken for none."""
    for seed, fid in ((1, 5.0), (0, 5.1), (2, 4.9), (1, 5.05)):
        file = spread.keep(tmp_path, recipe="r" * 64, data_digest="d" * 64, settings={}, seed=seed, evaluation=measured(fid) | {"null": {}})
    assert file.name == f"{'r' * 12}-{'d' * 12}.json"
    (found,) = spread.stored(tmp_path)
    assert (found.recipe, found.of("fid", compared("fid", measured(1.0)))) == ("r" * 64, [5.1, 5.05, 4.9])
    file.write_text("{}")
    with pytest.raises(ValueError, match=r"is no spread of `ganpipe seeds`"):
        spread.stored(tmp_path)
