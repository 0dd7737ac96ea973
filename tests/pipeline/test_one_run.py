"""Several who tell MLflow of one thing at the same moment find one run, in whatever order the store hears them. Real threads, a real store."""

import threading
from collections import deque

import pytest
import torch

from ganlib.rng import keyed_rng
from pipeline.tracking import store as stores
from pipeline.tracking.settings import TrackingConfig

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's own
KEY = "gan.protocol"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture
def open_store(database, request, monkeypatch):
    """open_store() -> a store of its own on one database, in an experiment of this test's."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return lambda: stores.open_store(TrackingConfig(uri=f"sqlite:///{database}", experiment=request.node.name))


class Turns:
    """Lets one call through at a time: the next one of `order`, whose names are of tellers; one that is done is passed over."""

    def __init__(self, order):
        self.order, self.done, self.changed = deque(order), set(), threading.Condition()

    def call(self, who, function, *args, **kwargs):
        with self.changed:
            assert self.changed.wait_for(lambda: self.is_on(who), timeout=60), f"{who} was never let through"
            if self.order:
                self.order.popleft()
            try:
                return function(*args, **kwargs)
            finally:
                self.changed.notify_all()

    def is_on(self, who):
        while self.order and self.order[0] in self.done:
            self.order.popleft()
        return not self.order or self.order[0] == who

    def end(self, who):
        with self.changed:
            self.done.add(who)
            self.changed.notify_all()


class Client:
    """A client each of whose calls waits for its turn."""

    def __init__(self, client, turns, who):
        self._client, self._turns, self._who = client, turns, who

    def __getattr__(self, name):
        return lambda *args, **kwargs: self._turns.call(self._who, getattr(self._client, name), *args, **kwargs)


def told(open_stores, key, order, *, started):
    """Each teller of `open_stores` finds the run of `key` and gives it a number; -> teller -> run id."""
    turns, found = Turns(order), {}

    def tell(who, store):
        client = store.client
        store.client = Client(client, turns, who)
        try:
            run, _ = store.run(key, started=started[who])
            store.client.log_metric(run.info.run_id, f"by_{who}", 1.0)
            found[who] = run.info.run_id
        finally:
            store.client = client
            turns.end(who)

    threads = [threading.Thread(target=tell, args=each) for each in open_stores.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def check(store, key, found, tellers):
    """All used one run, it has every number, and no other is left."""
    assert set(found) == set(tellers), "somebody's run was taken away"
    (run,) = store.client.search_runs([store.experiment_id], f"tags.`{stores.RUN_KEY}` = '{key}'")
    assert set(found.values()) == {run.info.run_id} == {store.find_run(key)}
    assert {f"by_{who}" for who in tellers} == set(run.data.metrics)


# a teller who finds nothing: search, create, search, claim, number. B's run says that it began before A's, at the same moment, or after.
WORST = {
    "A uses its own before B makes one": "A B A A A A B B B B",
    "A claims between what B read and what B does": "A B A A B B A A B B B B",
    "B withdraws what A is about to claim": "A B A A B B B A A B A B",
    "both read both": "A B A B A B A B A B A B",
    "A dies of nothing and B comes first": "A A B B B B B A A A A",
}


@pytest.mark.parametrize("began", [-5.0, 0.0, 5.0])
@pytest.mark.parametrize("order", WORST.values(), ids=WORST)
def test_two_who_find_no_run_use_the_same_one(open_store, order, began):
    """Kills: the oldest run is everybody's (A has read before B's older one is there), and whoever has numbers keeps his own."""
    tellers = {who: open_store() for who in "AB"}
    found = told(tellers, f"key {began}", order.split(), started={"A": 1000.0, "B": 1000.0 + began})
    check(tellers["A"], f"key {began}", found, "AB")


@pytest.mark.parametrize("draw", range(30))
def test_three_in_any_order(open_store, draw):
    rng = keyed_rng(draw, "order")
    tellers = {who: open_store() for who in "ABC"}
    order = ["ABC"[i] for i in torch.randint(3, (40,), generator=rng)]
    found = told(tellers, str(draw), order, started={"A": 1000.0, "B": 999.0, "C": 1000.0})
    check(tellers["A"], str(draw), found, "ABC")


def test_many_at_once_and_nobody_waits(open_store):
    """Free threads, children of one run, as evaluations are told."""
    parent, _ = open_store().run("parent")
    tellers, found = [open_store() for _ in range(4)], {}
    barrier = threading.Barrier(len(tellers))

    def tell(number, store):
        for protocol in range(5):
            barrier.wait()
            child = store.child(parent.info.run_id, KEY, str(protocol), name="child", tags={})
            store.client.log_metric(child.info.run_id, f"by_{number}", 1.0)
            found[protocol, number] = child.info.run_id

    threads = [threading.Thread(target=tell, args=each) for each in enumerate(tellers)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert len(found) == 20
    runs = tellers[0].client.search_runs([tellers[0].experiment_id], f"tags.`{stores.PARENT}` = '{parent.info.run_id}'")
    assert {run.info.run_id for run in runs} == set(found.values())
    assert [len(run.data.metrics) for run in runs] == [4] * 5


@pytest.mark.parametrize("claim", [None, stores.WITHDRAWN])
def test_what_a_dead_teller_left_is_taken_away_by_the_next(open_store, claim):
    """An empty run without a claim, made by an answer that got lost, and one that was withdrawn and not deleted. Kills twins that stay RUNNING."""
    store = open_store()
    key = f"left {claim}"
    run, is_new = store.run(key)
    store.client.log_metric(run.info.run_id, "fid", 3.5)
    twin = store.client.create_run(store.experiment_id, tags={stores.RUN_KEY: key}, start_time=1)  # older than the one in use
    if claim is not None:
        store.client.log_param(twin.info.run_id, stores.CLAIM, claim)
    again, is_new_again = store.run(key)
    assert (is_new, is_new_again, again.info.run_id) == (True, False, run.info.run_id)
    (left,) = store.client.search_runs([store.experiment_id], f"tags.`{stores.RUN_KEY}` = '{key}'")
    assert left.info.run_id == run.info.run_id


def test_a_run_of_before_claims_is_taken_as_it_is(open_store):
    """With numbers before the empty ones, and a second one with numbers stays: somebody may want them."""
    store = open_store()
    made = [store.client.create_run(store.experiment_id, tags={stores.RUN_KEY: "old"}, start_time=start) for start in (1, 2, 3)]
    for run in made[1:]:
        store.client.log_metric(run.info.run_id, "fid", 3.5)
    run, is_new = store.run("old")
    assert (run.info.run_id, is_new) == (made[1].info.run_id, False)
    left = store.client.search_runs([store.experiment_id], f"tags.`{stores.RUN_KEY}` = 'old'")
    assert {each.info.run_id for each in left} == {each.info.run_id for each in made[1:]}
