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
from tests.tracking_server import Proxy, Server

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
def refused():
    """What is done, one by one, whenever a session of MLflow's has been refused by its database."""
    todo = []

    def act(session):
        if todo:
            todo.pop(0)()

    sqlalchemy.event.listen(sqlalchemy.orm.Session, "after_rollback", act)
    yield todo
    sqlalchemy.event.remove(sqlalchemy.orm.Session, "after_rollback", act)


@pytest.fixture
def impatient():
    """MLflow waits 20 s for a sqlite file that others write to; here it does not."""

    def act(connection, cursor, statement, parameters, context, executemany):
        return statement.replace("busy_timeout = 20000", "busy_timeout = 0"), parameters

    sqlalchemy.event.listen(sqlalchemy.Engine, "before_cursor_execute", act, retval=True)
    yield
    sqlalchemy.event.remove(sqlalchemy.Engine, "before_cursor_execute", act)


def model_of(store, versions):
    store.client.create_registered_model("m")
    for number in range(versions):
        store.client.create_model_version("m", source=f"s3://bucket/{number}")


def crown(store, held, version):
    model_registry.crown(store, held, model_registry.require(store, "m"), version, what="promoted", why="")


def test_a_lock_that_goes_while_mlflow_looks_who_has_it_is_asked_for_again(root, refused):
    """Who was refused because the lock was there is told that it is not there. Kills: an error in one of 200 races on a busy machine."""
    store = stores.Store(stores.sqlite_uri(root / "mlflow.db"), "gan")
    store.client.create_registered_model("m.lock")

    def release():
        with closing(sqlite3.connect(root / "mlflow.db")) as database, database:
            database.execute("delete from registered_models where name = 'm.lock'")

    refused.append(release)
    with registry_lock.held(store, "m"):
        assert refused == []


def test_a_file_that_others_write_to_is_asked_again(root, refused, impatient):
    """Kills: no lock, an alias without its line of history, or a lock for minutes, where a sqlite file has no time for one request."""
    store = stores.Store(stores.sqlite_uri(root / "mlflow.db"), "gan")
    model_of(store, 1)
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:

        def busy_for(requests):
            other.execute("begin exclusive")
            refused.extend([*[lambda: None] * (requests - 1), lambda: other.execute("rollback")])

        busy_for(2)
        with registry_lock.held(store, "m") as held:
            found = model_registry.require(store, "m")
            busy_for(3)
            model_registry.crown(store, held, found, 1, what="promoted", why="")
            busy_for(2)
    assert refused == []
    found = model_registry.require(store, "m")
    assert (found.champion, found.noted, [model.name for model in store.client.search_registered_models()]) == (1, 1, ["m"])


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "server").start()
    yield server
    server.kill()


@pytest.fixture
def proxy(server):
    proxy = Proxy(server.port)
    yield proxy
    proxy.close()


@pytest.fixture
def far(server, proxy, monkeypatch):
    """A store behind the proxy, one that is not, and a model of three versions whose champion is the first."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    here, there = stores.Store(server.uri, "gan"), stores.Store(proxy.uri, "gan")
    for name in [model.name for model in here.client.search_registered_models()]:
        here.client.delete_registered_model(name)
    model_of(here, 3)
    with registry_lock.held(here, "m") as held:
        crown(here, held, 1)
    return there, here


def test_an_alias_that_moves_after_somebody_else_has_decided_is_put_back(far, proxy):
    """The request lies on its way while the lock expires. Kills: two told that they are champion, and the one that was not compared has the alias."""
    there, here = far
    sent, go, said = threading.Event(), threading.Event(), []

    def keep(path):
        if path.endswith("registered-models/alias"):
            sent.set()
            go.wait(25)

    proxy.keeps = keep

    def late():
        try:
            with registry_lock.held(there, "m") as held:
                crown(there, held, 2)
        except registry_lock.LockedError as error:
            said.append(str(error))

    thread = threading.Thread(target=late)
    thread.start()
    assert sent.wait(60)
    here.client.rename_registered_model("m.lock", "m.lock.expired-1")  # as whoever has waited does
    with registry_lock.held(here, "m") as held:
        crown(here, held, 3)
    assert model_registry.require(here, "m").champion == 3
    proxy.keeps = lambda path: None
    go.set()
    thread.join()
    assert ["that decision stands" in line for line in said] == [True]
    found = model_registry.require(here, "m")
    assert (found.champion, [(event.version, event.what, event.champion) for event in found.history]) == (
        3,
        [(1, "promoted", 1), (3, "promoted", 3), (2, "was too late", 3)],
    )
    assert [found.state(version) for version in (1, 2, 3)] == ["replaced", "", "champion"]


def test_a_lock_is_kept_while_a_move_without_an_answer_may_be_on_its_way(far, proxy):
    """Kills: somebody else decides, and then the request arrives that its sender has given up."""
    there, here = far
    proxy.loses_answer = lambda path: path.endswith("registered-models/alias")
    with pytest.raises(there.mlflow.exceptions.MlflowException, match="API request"), registry_lock.held(there, "m") as held:
        crown(there, held, 2)
    with pytest.raises(registry_lock.LockedError, match="has been deciding"), registry_lock.held(here, "m", wait_seconds=1):
        pass
    with pytest.raises(here.mlflow.exceptions.MlflowException, match="not found"), registry_lock.held(here, "other") as held:
        model_registry.crown(here, held, model_registry.Standing(name="other", aliases={}, versions={}), 1, what="promoted", why="")
    with registry_lock.held(here, "other", wait_seconds=1):  # that was an answer
        pass


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


def test_a_release_that_is_not_answered_undoes_nothing(far, proxy):
    """Kills: told that the registry does not answer, while the alias has moved and all is said."""
    there, here = far
    with registry_lock.held(there, "m") as held:
        crown(there, held, 2)
        proxy.loses_answer = lambda path: path.endswith("registered-models/delete")
    found = model_registry.require(here, "m")
    assert (found.champion, found.noted, found.state(1)) == (2, 2, "replaced")


def test_who_was_refused_by_a_busy_file_hears_what_to_do(root, impatient):
    store = stores.Store(stores.sqlite_uri(root / "mlflow.db"), "gan")
    with closing(sqlite3.connect(root / "mlflow.db", isolation_level=None)) as other:
        other.execute("begin exclusive")
        with pytest.raises(stores.Unanswered, match="others have been writing to its sqlite file") as caught, stores.answering(store.uri):
            model_registry.require(store, "m")
    assert "\n" not in str(caught.value)
