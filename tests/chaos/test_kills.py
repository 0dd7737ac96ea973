"""kill -9 in the middle of `dvc repro train`, and the same bytes in the end: a seeded few of what `make chaos` does by the hundred."""

import itertools

import pytest

from tests.chaos import chaos
from tests.object_store import object_store

pytestmark = pytest.mark.chaos
SHORT = {"train__total_images": 12_000}


def test_the_seed_chooses_and_every_victim_gets_its_turn():
    first, again, other = (list(itertools.islice(chaos.kills(seed), 70)) for seed in (3, 3, 4))
    assert first == again
    assert first != other
    for start in range(0, 70, 7):
        assert {kill.victim for kill in first[start : start + 7]} == set(chaos.VICTIMS)
    assert {kill.moment for kill in first} == {"starting", "training", "writing", "ending"}


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_a_few_kills(make_prepared):
    clone = make_prepared()
    clone.set(**{**chaos.RECIPE, **SHORT})
    with chaos.short_folder() as scratch:
        summary = chaos.Chaos(clone, scratch).run(4, seed=192366)
    assert summary["by_victim"] == {"worker": 1, "group": 1, "dvc": 1, "driver": 1}
    assert summary["resumes"] >= 2
    assert summary["hashes_equal"]
    assert summary["processes_left"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_every_victim_once(make_prepared):
    clone = make_prepared()
    clone.set(**chaos.RECIPE)
    with chaos.short_folder() as scratch:
        summary = chaos.Chaos(clone, scratch).run(len(chaos.VICTIMS), seed=1)
    assert summary["by_victim"] == dict.fromkeys(sorted(chaos.VICTIMS), 1)
    assert summary["hashes_equal"]
    assert summary["processes_left"] == 0


@pytest.mark.slow
@pytest.mark.timeout(3000)
def test_a_few_kills_with_the_state_in_an_object_store(make_prepared, monkeypatch):
    clone = make_prepared()
    clone.set(**{**chaos.RECIPE, **SHORT})
    with object_store() as store, chaos.short_folder() as scratch:
        for key, value in store.environment.items():
            monkeypatch.setenv(key, value)
        clone.environment |= store.environment
        summary = chaos.Chaos(clone, scratch, state=store.uri).run(4, seed=192366)
        assert not any((folder / "clone" / "state").exists() for folder in scratch.iterdir())
    assert summary["kills"] == 4
    assert summary["resumes"] >= 2
    assert summary["hashes_equal"]
    assert summary["processes_left"] == 0
