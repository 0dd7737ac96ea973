"""The registry as a team has it: an MLflow server over PostgreSQL, its artifacts in an object store, and what dies of that.

Whole registrations, network and all. What the rule says is the same as over a file (test_registry.py); here it is who hears it.
"""

import contextlib
import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file

from ganlib.files import sha256_file
from pipeline.provenance import record
from pipeline.tracking import model_registry, registry_lock, versions
from pipeline.tracking.store import RUN_KEY, Unanswered
from tests.object_store import object_store
from tests.postgres import missing, postgres
from tests.registrations import NETWORK, ROOT, lineage_of, measured, register, settings, store_of
from tests.tracking_server import Server

pytestmark = [
    pytest.mark.heavy,
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing()), reason=missing()),
    pytest.mark.filterwarnings("ignore"),  # MLflow's and torch.export's own
]
ROUNDS = 3
RACE = """
import sys, time
from pathlib import Path
from tests.registrations import register
folder, name, who, rounds = Path(sys.argv[1]), sys.argv[2], sys.argv[3], int(sys.argv[4])
for number in range(rounds):
    (folder / f"{number}-{who}").touch()
    while len(list(folder.glob(f"{number}-*"))) < 2:
        time.sleep(0.01)
    done = register(folder, f"{who}{number}", 4.0 - number, run_key=f"key-{number}", model=name, spread=0.001)
    print(done.version, "champion" in done.aliases, done.champion and done.champion["name"].split()[-1], sep=",")
"""


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    """(PostgreSQL, MLflow's server), as infra/server/mlflow.sh starts the latter: two workers, artifacts in a bucket."""
    with contextlib.ExitStack() as stack:
        database, store = stack.enter_context(postgres()), stack.enter_context(object_store())
        server = Server(
            tmp_path_factory.mktemp("server"),
            backend=database.uri,
            artifacts="s3://state/mlflow",
            environment={**store.environment, "MLFLOW_S3_ENDPOINT_URL": store.environment["AWS_ENDPOINT_URL"]},
            workers=2,
        )
        stack.callback(server.kill)
        yield database, server.start()


@pytest.fixture
def root(services, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", services[1].uri)
    return tmp_path


def history(name, root):
    return [(event.what, event.version, event.before) for event in model_registry.require(store_of(root), name).history]


def test_first_then_better_then_a_rollback_that_stays_and_every_file_comes_back(root):
    """Kills: an alias, a tag or a file that PostgreSQL or the object store keeps otherwise than sqlite and a folder do."""
    name, files = "decided", [root / "generator.json", root / "generator.safetensors"]
    files[0].write_text("{}")
    save_file(NETWORK.state_dict(), files[1])
    weights, evaluation = sha256_file(files[1]), measured(4.0)
    lineage = lineage_of(weights, evaluation)
    first = register(root, "a", 5.0, model=name)
    assert (first.version, first.aliases) == (1, ["challenger", "champion"])
    assert register(root, "b", 6.0, model=name).aliases == ["challenger"]
    better = register(root, weights, 4.0, evaluation=evaluation, model=name, files=files, lineage=lineage)
    assert (better.version, better.aliases) == (3, ["challenger", "champion"])
    assert "fid 4 against 5 of version 1: better by 1" in better.reason

    store = store_of(root)
    assert store.uri.startswith("http://127.0.0.1:")
    assert versions.kept_evaluation(store, name, 3) == evaluation
    assert versions.kept(store, name, 3, versions.PROMOTION, "")["decision"] == json.loads(json.dumps(better.decision))
    kept = record.Lineage.model_validate_json(json.dumps(versions.kept(store, name, 3, versions.LINEAGE, "")))
    assert kept.parent_champion == record.Version(version=f"models:/{name}/1", content="a")
    assert kept.served
    assert kept.served == versions.served(store, name, 3)
    ours = {"run_id": better.run_id, "evaluation": kept.evaluation, "served": kept.served, "parent_champion": kept.parent_champion}
    assert kept == lineage.model_copy(update=ours)
    assert versions.fetch(f"models:/{name}@champion", None, root / "got", settings().tracking, root) == f"models:/{name}/3"
    assert torch.equal(load_file(root / "got" / "generator.safetensors")["0.weight"], NETWORK[0].weight)
    noise = torch.ones(2, 3)
    images = store.mlflow.pyfunc.load_model(f"models:/{name}@champion").predict(noise.numpy())
    assert torch.allclose(torch.as_tensor(images), NETWORK(noise).detach(), atol=1e-6)

    with registry_lock.held(store, name) as held:
        assert model_registry.rollback(store, held, model_registry.require(store, name), why="odd colours") == (3, 1)
    again = register(root, weights, 4.0, evaluation=evaluation, model=name, files=files, lineage=lineage)
    assert (again.version, again.is_new, again.aliases) == (3, False, ["challenger"])
    assert "odd colours" in again.reason
    assert model_registry.require(store, name).champion == 1
    assert history(name, root) == [("promoted", 1, None), ("promoted", 3, 1), ("rolled back to", 1, 3)]


def test_two_processes_at_once_have_one_winner_a_round(root):
    """Both are better than whoever was before, and as good as each other: the second is compared with the first, and neither makes a second run.

    Kills: a lock that two workers over one database both give away; a decision against a champion of before.
    """
    name = "raced"
    register(root, "z", 5.0, model=name)
    command = [sys.executable, "-W", "ignore", "-c", RACE, str(root), name]
    both = [subprocess.Popen([*command, who, str(ROUNDS)], stdout=subprocess.PIPE, text=True, cwd=ROOT) for who in ("x", "y")]
    try:
        said = [process.communicate(timeout=600)[0].split() for process in both]
    finally:
        for process in both:
            process.kill()
    assert [process.returncode for process in both] == [0, 0]
    store = store_of(root)
    found = model_registry.require(store, name)
    crowned = [event.version for event in found.history]
    assert [event.before for event in found.history] == [None, *crowned[:-1]]  # a chain, in which nobody has two successors
    assert len(crowned) == 1 + ROUNDS
    for number, lines in enumerate(zip(*said, strict=True)):
        winner = crowned[1 + number]
        answers = [line.split(",") for line in lines]
        assert winner in {int(answer[0]) for answer in answers}
        loser = next(answer for answer in answers if int(answer[0]) != winner)
        assert loser[1:] == ["False", str(winner)], answers
        runs = store.client.search_runs([store.experiment_id], f"tags.`{RUN_KEY}` = 'key-{number}'")
        assert len(runs) == 1
    states = [found.state(version) for version in found.versions]
    assert {state: states.count(state) for state in set(states)} == {"champion": 1, "replaced": ROUNDS, "rejected": ROUNDS}
    assert found.champion == crowned[-1]
    assert not [model for model in model_registry.names(store) if registry_lock.is_lock(model)]


def test_the_server_is_killed_and_started_again_in_the_middle_of_a_registration(root, services):
    """It goes on with the server that is there again; where none is, the next one ends what it began.

    Kills: a second version of what was half registered; a champion lost with the server; a connection of before that ends a registration.
    """
    name, (_, server) = "restarted", services
    register(root, "a", 5.0, model=name)

    def restarted(source, truncation):
        server.kill()
        server.start()
        return measured(5.0, split="val")

    def killed(source, truncation):
        server.kill()
        return measured(4.0, split="test")

    over = register(root, "b", 4.0, model=name, protocol={"split": "val"}, measure_again=restarted)
    assert (over.version, over.aliases) == (2, ["challenger", "champion"])
    try:
        with pytest.raises(Unanswered, match=f"MLflow at {server.uri} does not answer"):
            register(root, "c", 3.0, model=name, measure_again=killed)
    finally:
        server.start()
    found = model_registry.require(store_of(root), name)
    assert (found.champion, sorted(found.versions)) == (2, [1, 2, 3])
    after = register(root, "c", 3.0, model=name, measure_again=lambda source, truncation: measured(4.0))
    assert (after.version, after.is_new, after.aliases) == (3, False, ["challenger", "champion"])
    assert history(name, root) == [("promoted", 1, None), ("promoted", 2, 1), ("promoted", 3, 2)]


def test_the_database_crashes_and_comes_back_in_the_middle_of_a_registration(root, services):
    """Kills: a decision that was told and never committed; a server whose connections of before are dead."""
    name, (database, _) = "recovered", services
    register(root, "a", 5.0, model=name)

    def crashed(source, truncation):
        database.crash()
        database.start()
        return measured(5.0, split="val")

    over = register(root, "b", 4.0, model=name, protocol={"split": "val"}, measure_again=crashed)
    assert (over.version, over.aliases) == (2, ["challenger", "champion"])
    database.crash()
    database.start()
    assert model_registry.require(store_of(root), name).champion == 2
    assert history(name, root) == [("promoted", 1, None), ("promoted", 2, 1)]
