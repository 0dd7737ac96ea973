"""Registrations of several at once: they decide one after the other, whoever dies or is slow."""

import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing

import pytest
import sqlalchemy.orm

from pipeline.tracking import model_registry, registry_lock
from pipeline.tracking import store as stores
from tests.registrations import ROOT, register, standing

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's and torch.export's own


@pytest.fixture
def root(registry_root):
    return registry_root


RACE = """
import sys, time
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from tests.registrations import register
root, who, start = Path(sys.argv[2]), sys.argv[3], float(sys.argv[4])
time.sleep(max(0, start - time.time()))
print("|".join(register(root, who, 4.0, spread=0.001).aliases))
"""


def race(root, rounds):
    """Two threads at a time that try to become champion, each sure to be better than whoever was before: nobody's decision is of a stale champion."""
    uri = stores.sqlite_uri(root / "mlflow.db")
    open_stores = [stores.Store(uri, "gan") for _ in range(2)]
    client = open_stores[0].client
    client.create_registered_model("m")
    for number in range(2 * rounds):
        client.create_model_version("m", source=f"file:///{number}")
    decisions, failed = [], []

    def compete(store, version, barrier):
        barrier.wait()
        try:
            with registry_lock.held(store, "m") as held:
                found = model_registry.require(store, "m")
                model_registry.crown(store, held, found, version, what="promoted", why="")
                decisions.append((version, found.champion))
        except Exception as error:
            failed.append(error)

    for number in range(rounds):
        barrier = threading.Barrier(2)
        threads = [threading.Thread(target=compete, args=(store, 2 * number + i + 1, barrier)) for i, store in enumerate(open_stores)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert (len(decisions), failed) == (2 * number + 2, [])
    # each decided against the one that was crowned just before it: a chain, in which nobody has two successors
    assert [before for _, before in decisions] == [None, *(version for version, _ in decisions[:-1])]
    found = model_registry.require(open_stores[0], "m")
    assert [event.version for event in found.history] == [version for version, _ in decisions]
    assert [version for version in found.versions if found.state(version) == "champion"] == [decisions[-1][0]] == [found.champion]
    assert model_registry.names(open_stores[0]) == ["m"]


def test_two_at_once_are_one_after_the_other(root):
    """Kills: both told that they are champion, against the same old one."""
    race(root, 5)


@pytest.mark.slow
def test_two_at_once_fifty_times(root):
    race(root, 50)


@pytest.mark.slow
def test_two_processes_register_at_once_and_one_is_champion(root):
    """Whole registrations, model and all, of processes of their own; the second one meets the first. Kills: a lock that threads alone see."""
    register(root, "z", 5.0)
    start = time.time() + 15
    command = [sys.executable, "-W", "ignore", "-c", RACE, str(ROOT), str(root)]
    both = [subprocess.Popen([*command, who, str(start)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for who in ("x", "y")]
    said = [process.communicate(timeout=300)[0].strip().splitlines()[-1] for process in both]
    found = standing(root)
    states = sorted(found.state(version) for version in found.versions)
    assert states == ["champion", "rejected", "replaced"], said
    assert [event.version for event in found.history][-1] == found.champion


@pytest.fixture
def after_rollback():
    """Give what is done once, as soon as a session of MLflow's has been refused by its database."""
    done = []

    def act(session):
        if done:
            done.pop()()

    sqlalchemy.event.listen(sqlalchemy.orm.Session, "after_rollback", act)
    yield done.append
    sqlalchemy.event.remove(sqlalchemy.orm.Session, "after_rollback", act)


def test_a_lock_that_goes_while_mlflow_looks_who_has_it_is_asked_for_again(root, after_rollback):
    """Who was refused because the lock was there is told that it is not there. Kills: an error in one of 200 races on a busy machine."""
    store = stores.Store(stores.sqlite_uri(root / "mlflow.db"), "gan")
    store.client.create_registered_model("m.lock")

    def release():
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            database.execute("delete from registered_models where name = 'm.lock'")
        released.append(True)

    released = []
    after_rollback(release)
    with registry_lock.held(store, "m"):
        pass
    assert released == [True]


def test_a_lock_whose_holder_died_is_taken_over_once(root):
    """Two wait for it; one renames it, the other waits for that one. Kills: a lock for ever, a breaker who takes the next holder's."""
    uri = stores.sqlite_uri(root / "mlflow.db")
    one, two = (stores.Store(uri, "gan") for _ in range(2))
    one.client.create_registered_model("m.lock", tags={registry_lock.OWNER: "dead" * 8, registry_lock.HOLDER: "process 1 on there"})
    with (
        pytest.raises(registry_lock.LockedError, match=r"process 1 on there has been deciding for 0\.3 s"),
        registry_lock.held(one, "m", wait_seconds=0.3),
    ):
        pass
    inside, most, order = [], [], []

    def hold(store, who):
        with registry_lock.held(store, "m", expiry_seconds=1.0):
            inside.append(who)
            most.append(len(inside))
            order.append(who)
            time.sleep(0.2)
            inside.remove(who)

    threads = [threading.Thread(target=hold, args=(store, who)) for store, who in ((one, "one"), (two, "two"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), sorted(order)) == (1, ["one", "two"])
    left = [model.name for model in one.client.search_registered_models()]
    assert len(left) == 1
    assert left[0].startswith("m.lock.expired-")
    assert model_registry.names(one) == []


def test_a_holder_that_is_too_slow_moves_nothing(root):
    store = stores.Store(stores.sqlite_uri(root / "mlflow.db"), "gan")
    store.client.create_registered_model("m")
    store.client.create_model_version("m", source="file:///0")
    with registry_lock.held(store, "m", expiry_seconds=0.2) as held:
        time.sleep(0.15)
        with pytest.raises(registry_lock.LockedError, match="no alias was moved"):
            model_registry.crown(store, held, model_registry.require(store, "m"), 1, what="promoted", why="")
    assert model_registry.require(store, "m").aliases == {}
