"""MLflow that is away, dies, is slow, loses answers: the training never waits, and in the end one run has each point once and the right status.

The server is a real one; between it and us, where that is the fault, stands a proxy. What the training leaves is written as a training writes it.
"""

import csv
import json
import os
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest
from ruamel.yaml import YAML

from ganlib.storage import open_storage
from pipeline import preflight
from pipeline.driver.lock import StateLock
from pipeline.state_address import state_uri
from pipeline.tracking import delivery, evaluation, outbox, training_run
from pipeline.tracking import store as stores
from pipeline.tracking.follow import following
from tests.clones import ROOT
from tests.tracking_server import Proxy, Server, free_port, wait_for

pytestmark = [pytest.mark.chaos, pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's own
IMAGES = 100  # a log line every so many
PORT = free_port()
GENERATOR = {
    "run_key": "k" * 20,
    "images_seen": 700,
    "family": "dcgan",
    "data": {"source": "digits"},
    "data_digest": "d" * 64,
    "git_commit": "c",
    "sha256": "s" * 64,
}
SETTINGS = {"sample": {"num_images": 9}, "reference": {"seed": 0}, "evaluate": {"seed": 0}}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server"), PORT).start()
    yield server
    server.kill()


@pytest.fixture
def proxy():
    proxy = Proxy(PORT)
    yield proxy
    proxy.close()


@pytest.fixture
def make_config(tmp_path, request, monkeypatch):
    """make_config(uri) -> settings whose tracking goes there, into an experiment of this test's own."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def make(uri, patience_seconds=60.0):
        values = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
        values["train"]["state_uri"] = str(tmp_path / "state")
        values["tracking"] = {"uri": uri, "experiment": request.node.name, "patience_seconds": patience_seconds}
        return preflight.parse(values)

    return make


class Training:
    """Writes its state as a training does."""

    def __init__(self, config, root, key="0123456789abcdef0123"):
        self.config, self.root, self.key = config, root, key
        self.storage = open_storage(state_uri(config.train.state_uri, key, root))
        self.experiment = config.tracking.experiment

    def run(self):
        (self.root / "params.yaml").write_text("train: {}\n")
        facts = outbox.TrainingFacts(
            run_key=self.key,
            params={"train": {"seed": 0}},
            tags={"git.commit": "c"},
            data_digest="d" * 64,
            data_source="digits",
            files=(self.root / "params.yaml",),
        )
        return training_run.TrainingRun(self.config.tracking, facts, self.storage, self.root)

    @contextmanager
    def followed(self, patience_seconds=60.0):
        with following(self.storage, [self.run()], patience_seconds=patience_seconds) as followers:
            yield followers

    def log(self, ticks, *, factor=1.0):
        """Lines of log ticks; the numbers depend on the tick, the clock does not stand still."""
        for tick in ticks:
            line = {
                "step": tick,
                "images_seen": IMAGES * tick,
                "scalars": {"loss_generator": factor / tick, "loss_discriminator": factor / (3 * tick)},
                "time": time.time(),
                "images_per_second": 1000 * time.time() % 97,
            }
            self.storage.append("history.jsonl", json.dumps(line) + "\n")
        self.storage.append("events.jsonl", json.dumps({"time": time.time(), "kind": "start", "text": f"tick {ticks[-1]}"}) + "\n")
        self.storage.write(f"grids/images-{IMAGES * ticks[-1]:012d}.png", b"png")

    def resume_after(self, tick):
        """As the training loop does: what comes after its checkpoint is computed again."""
        lines = self.storage.read("history.jsonl").splitlines(keepends=True)
        self.storage.write("history.jsonl", b"".join(lines[:tick]))

    def deliver(self, **options):
        return delivery.deliver_pending(self.config.tracking, self.config.train.state_uri, self.root, limit_seconds=120, **options)

    def wait_for_points(self, server):
        wait_for(lambda: any(server.points(run) for run, _ in server.runs(self.experiment)), "the first points")

    def check(self, server, *, ticks, status):
        """One run, each point once, the right status, all grids; returns the run's id."""
        ((run, found),) = server.runs(self.experiment)
        points = server.points(run)
        assert set(points.values()) == {1}, [point for point, count in points.items() if count != 1]
        points = {point: count for point, count in points.items() if not point[0].startswith("system/")}  # as often as there was time
        names = ("images_per_second", "loss_discriminator", "loss_generator")
        assert set(points) == {(f"train/{name}", IMAGES * tick) for name in names for tick in ticks}
        assert found == status
        uploaded = {
            name for name in server.artifacts(run) if name.startswith("grids/") and "/.artifact.uploading." not in name
        }  # a killed server's
        assert uploaded == {f"grids/{name}" for name in self.storage.names("grids")}
        assert outbox.read(self.storage).delivered
        return run


def test_down_at_the_start_and_back_later(make_config, tmp_path, request):
    training = Training(make_config(f"http://127.0.0.1:{PORT}"), tmp_path)
    began = time.time()
    with training.followed() as followers:
        training.log(range(1, 5))
        followers.status = "FINISHED"
    (problem,) = followers.problems()
    assert f"MLflow has not taken everything: MLflow at http://127.0.0.1:{PORT} does not answer" in problem
    assert "pipeline.deliver" in problem
    (warning,) = training.deliver()  # still away
    assert warning.startswith("warning: MLflow at http://127.0.0.1:")
    server = request.getfixturevalue("server")  # starts
    assert training.deliver() == [f"MLflow: training {training.key[:12]} is complete now (FINISHED)"]
    run = training.check(server, ticks=range(1, 5), status="FINISHED")
    assert {"params.yaml", "events.jsonl", "grids/images-000000000400.png"} <= set(server.artifacts(run))
    ((started, ended),) = server.query("select start_time, end_time from runs where run_uuid = ?", run)
    assert began * 1000 - 1 <= started <= ended <= server.query("select max(timestamp) from metrics")[0][0] + 60_000
    assert training.deliver() == []


def test_the_first_answer_of_each_kind_of_call_is_lost(make_config, tmp_path, server, proxy):
    training = Training(make_config(proxy.uri), tmp_path)
    heard = set()

    def loses(path):
        is_first = path not in heard
        heard.add(path)
        return is_first

    proxy.loses_answer = loses
    with training.followed() as followers:
        training.log(range(1, 4))
        training.wait_for_points(server)
        training.log(range(4, 7))
        followers.status = "FINISHED"
    training.deliver()
    assert any(path.endswith("runs/create") for path in heard)
    assert any(path.endswith("runs/log-batch") for path in heard)
    training.check(server, ticks=range(1, 7), status="FINISHED")


def test_points_that_arrived_unheard_are_not_told_again_when_they_are_computed_again(make_config, tmp_path, server, proxy):
    training = Training(make_config(proxy.uri), tmp_path)
    with training.followed() as followers:
        wait_for(lambda: server.runs(training.experiment), "the run")
        ((run, _),) = server.runs(training.experiment)
        wait_for(lambda: "params.yaml" in server.artifacts(run), "the facts")
        lost = []
        proxy.loses_answer = lambda path: path.endswith("runs/log-batch") and not lost.append(path)
        training.log(range(1, 4))
        wait_for(lambda: len(lost) == 2, "the call and its repetition")
        training.resume_after(1)  # a worker died, and the group begins again in the same stage
        training.log(range(2, 6))
        proxy.loses_answer = lambda path: False
        followers.status = "FINISHED"
    training.deliver()
    training.check(server, ticks=range(1, 6), status="FINISHED")


def test_dies_in_the_middle_and_is_back(make_config, tmp_path, server):
    training = Training(make_config(server.uri), tmp_path)
    with training.followed() as followers:
        training.log(range(1, 4))
        training.wait_for_points(server)
        server.kill()
        training.log(range(4, 7))
        time.sleep(3 * training.storage.poll_seconds)  # it is tried, and fails
        server.start()
        training.log(range(7, 9))
        followers.status = "FINISHED"
    assert followers.problems() == []
    training.check(server, ticks=range(1, 9), status="FINISHED")
    assert training.deliver() == []


def test_dies_and_is_away_at_the_end_of_a_training_that_failed(make_config, tmp_path, server, proxy):
    training = Training(make_config(proxy.uri), tmp_path)
    told = []

    def fail():
        with training.followed() as followers:
            told.append(followers)
            training.log(range(1, 4))
            training.wait_for_points(server)
            proxy.is_cut = True
            training.log(range(4, 6))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert "does not answer" in told[0].problems()[0]
    assert [status for _, status in server.runs(training.experiment)] == ["RUNNING"]
    proxy.is_cut = False
    training.deliver()
    training.check(server, ticks=range(1, 6), status="FAILED")


def test_five_seconds_a_call_do_not_hold_up_the_training(make_config, tmp_path, server, proxy):
    training = Training(make_config(proxy.uri), tmp_path)
    proxy.delay_seconds = 5.0
    with training.followed(patience_seconds=2.0) as followers:
        training.log(range(1, 4))
        followers.status = "FINISHED"
    assert "not done 2 s after the training" in followers.problems()[0]
    assert "FINISHED" not in [status for _, status in server.runs(training.experiment)]  # nobody waited for that
    assert not outbox.read(training.storage).delivered
    assert (
        "is slow: not done after 0.1 s"
        in delivery.deliver_pending(training.config.tracking, training.config.train.state_uri, tmp_path, limit_seconds=0.1)[-1]
    )
    proxy.delay_seconds = 0.0
    wait_for(lambda: training.deliver() == [], "everybody who was at it")  # the slow ones go on in the background
    training.check(server, ticks=range(1, 4), status="FINISHED")


def test_a_killed_training_that_is_resumed_and_run_again_is_one_run(make_config, tmp_path, server):
    training = Training(make_config(server.uri), tmp_path)
    run = training.run()
    run.begin()  # and the driver dies: no end, no lock
    training.log(range(1, 6))
    run.lines([json.loads(line) for line in training.storage.read("history.jsonl").splitlines()[:2]])
    assert training.deliver() == [f"MLflow: training {training.key[:12]} is complete now (KILLED)"]
    first = training.check(server, ticks=range(1, 6), status="KILLED")
    training.resume_after(2)
    with training.followed() as followers:
        wait_for(lambda: server.runs(training.experiment) == [(first, "RUNNING")], "the run to be RUNNING again")
        training.log(range(3, 8))  # 3, 4, 5 are the same numbers at another time
        training.storage.append("events.jsonl", '{"torn')
        training.storage.append("events.jsonl", "\n")
        followers.status = "FINISHED"
    assert followers.problems() == []
    assert training.check(server, ticks=range(1, 8), status="FINISHED") == first
    with training.followed() as followers:  # `dvc repro --force`: everything is there already
        followers.status = "FINISHED"
    assert training.check(server, ticks=range(1, 8), status="FINISHED") == first


def test_after_a_rollback_both_ways_can_be_seen(make_config, tmp_path, server):
    training = Training(make_config(server.uri), tmp_path)
    with training.followed() as followers:
        training.log(range(1, 5))
        training.wait_for_points(server)
        training.resume_after(2)
        training.storage.append("events.jsonl", json.dumps({"time": time.time(), "kind": "rollback", "text": "rolled back"}) + "\n")
        training.log(range(3, 6), factor=0.5)
        followers.status = "FINISHED"
    ((run, _),) = server.runs(training.experiment)
    counts = server.points(run)
    assert [counts["train/loss_generator", IMAGES * tick] for tick in range(1, 6)] == [1, 1, 2, 2, 1]
    with training.followed() as followers:
        followers.status = "FINISHED"
    assert server.points(run) == counts


def test_runs_of_dead_trainings_are_swept_and_others_are_not(make_config, tmp_path, server):
    config = make_config(server.uri)
    store = stores.open_store(config.tracking, tmp_path)
    keys = {"dead": "a" * 20, "alive": "b" * 20, "elsewhere": "c" * 20, "gone": "d" * 20, "finished": "e" * 20}
    trainings = {name: Training(config, tmp_path, key) for name, key in keys.items()}

    def status():
        return {name: store.client.get_run(store.find_run(key)).info.status for name, key in keys.items()}

    for name, training in trainings.items():
        training.log([1])
        if name == "finished":
            with training.followed() as followers:
                followers.status = "FINISHED"
        else:
            run = training.run()
            run.begin()
            run.beat()
    store.client.update_run(store.find_run(keys["finished"]), status="RUNNING")  # by somebody who died
    for name, seconds in (("elsewhere", 60), ("gone", 3600)):  # on machines whose state cannot be seen
        training = trainings[name]
        training.storage.remove("tracking.json")
        store.client.set_tag(store.find_run(training.key), "gan.heartbeat", training_run.clock(time.time() - seconds))
    assert set(status().values()) == {"RUNNING"}
    with StateLock(trainings["alive"].storage).held():
        lines = trainings["alive"].deliver()
        assert status() == {"dead": "KILLED", "alive": "RUNNING", "elsewhere": "RUNNING", "gone": "KILLED", "finished": "FINISHED"}
        assert len(lines) == 3
    trainings["alive"].deliver()
    assert status()["alive"] == "KILLED"


def test_a_beat_revives_a_run_that_was_swept_by_mistake(make_config, tmp_path, server, monkeypatch):
    training = Training(make_config(server.uri), tmp_path)
    monkeypatch.setattr(training_run, "HEARTBEAT_SECONDS", 0.2)
    with training.followed() as followers:
        wait_for(lambda: server.runs(training.experiment), "the run")
        ((run, _),) = server.runs(training.experiment)
        stores.open_store(training.config.tracking, tmp_path).client.set_terminated(run, "KILLED")
        wait_for(lambda: server.runs(training.experiment) == [(run, "RUNNING")], "the next beat")
        training.log([1])
        followers.status = "FINISHED"
    training.check(server, ticks=[1], status="FINISHED")


def test_an_evaluation_is_told_once_and_by_whoever_comes_first(make_config, tmp_path, server):
    config, root = make_config(server.uri), tmp_path
    (root / "models").mkdir()
    (root / "reports" / "plots").mkdir(parents=True)
    (root / "models" / "generator.json").write_text(json.dumps(GENERATOR))
    (root / "reports" / "evaluation.json").write_text(json.dumps({"fid": 3.5, "kid": 0.25, "protocol": {"n": 1}}))
    (root / "reports" / "plots" / "classes.png").write_bytes(b"png")
    threads = [threading.Thread(target=evaluation.log_evaluation, args=(config.tracking, SETTINGS, root)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    os.utime(root / "reports" / "evaluation.json", (1.0, 1.0))  # as `dvc checkout` may
    evaluation.log_evaluation(config.tracking, SETTINGS, root)
    runs = server.runs(config.tracking.experiment)
    assert [status for _, status in runs] == ["FINISHED", "FINISHED"]  # no training will end the one, and the other is of the protocol
    (run,) = [run for run, _ in runs if "gan.run_key" in server.tags(run)]
    (child,) = [child for child, _ in runs if child != run]
    assert server.tags(child)["mlflow.parentRunId"] == run
    for told in (run, child):
        assert server.points(told) == {("evaluation/fid", 700): 1, ("evaluation/kid", 700): 1}
    assert server.artifacts(run) == ["evaluation/classes.png", "evaluation/evaluation.json"]
    models = "select count(distinct model_id), count(*) from logged_model_metrics where run_id in (?, ?)"
    assert server.query(models, run, child) == [(1, 4)]
    assert server.query("select count(*) from logged_models where source_run_id = ? and lifecycle_stage = 'active'", run) == [(1,)]
    (root / "reports" / "evaluation.json").write_text(json.dumps({"fid": 3.25, "protocol": {"n": 2}}))
    evaluation.log_evaluation(config.tracking, SETTINGS, root)
    assert server.points(run)["evaluation/fid", 700] == 2  # measured anew


@pytest.mark.parametrize(
    "call", ["logged-models", "logged-models/search", "runs/create", "runs/log-batch", "runs/log-inputs", "runs/update"]
)
def test_an_evaluation_whose_answers_get_lost_is_told_once(make_config, tmp_path, server, proxy, call):
    """Kills: a second model, run or point for each answer that did not arrive."""
    config = make_config(proxy.uri)
    (tmp_path / "models").mkdir()
    (tmp_path / "reports").mkdir()
    (tmp_path / "models" / "generator.json").write_text(json.dumps(GENERATOR))
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps({"fid": 3.5}))
    lost = []
    proxy.loses_answer = lambda path: path.endswith(call) and len(lost) < 2 and not lost.append(path)
    try:
        evaluation.log_evaluation(config.tracking, SETTINGS, tmp_path)
    except stores.Unanswered:
        evaluation.log_evaluation(config.tracking, SETTINGS, tmp_path)
    assert lost
    runs = [run for run, _ in server.runs(config.tracking.experiment)]
    assert len(runs) == 2
    assert [server.points(run) for run in runs] == [{("evaluation/fid", 700): 1}] * 2
    where = (
        "from logged_models join experiments using (experiment_id) where experiments.name = ? and logged_models.lifecycle_stage = 'active'"
    )
    assert server.query(f"select count(*) {where}", config.tracking.experiment) == [(1,)]


def test_five_seconds_a_call_do_not_hold_up_an_evaluation(make_config, tmp_path, server, proxy):
    """Kills: a stage that waits for each of a dozen calls; a mistake of ours that a thread swallows."""
    (tmp_path / "models").mkdir()
    (tmp_path / "reports").mkdir()
    (tmp_path / "models" / "generator.json").write_text(json.dumps(GENERATOR))
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps({"fid": 3.5}))
    tracking = make_config(proxy.uri).tracking
    proxy.delay_seconds = 5.0
    line = evaluation.try_to_log(tracking, SETTINGS, tmp_path, limit_seconds=0.1)
    assert line == f"warning: MLflow at {proxy.uri} is slow: not done after 0.1 s"
    proxy.is_cut = True  # the process has ended
    line = evaluation.try_to_log(tracking, SETTINGS, tmp_path, limit_seconds=120)
    assert line.startswith(f"warning: MLflow at {proxy.uri} does not answer")
    proxy.is_cut, proxy.delay_seconds = False, 0.0
    assert evaluation.try_to_log(tracking, SETTINGS, tmp_path, limit_seconds=120).startswith(f"MLflow: {proxy.uri} run ")
    assert [server.points(run) for run, _ in server.runs(tracking.experiment)] == [{("evaluation/fid", 700): 1}] * 2
    (tmp_path / "models" / "generator.json").write_text("{}")
    with pytest.raises(KeyError):
        evaluation.try_to_log(tracking, SETTINGS, tmp_path, limit_seconds=120)


def test_an_evaluation_that_cannot_be_told_is_no_traceback(make_config, tmp_path, server, proxy):
    (tmp_path / "models").mkdir()
    (tmp_path / "reports").mkdir()
    (tmp_path / "models" / "generator.json").write_text(json.dumps(GENERATOR))
    (tmp_path / "reports" / "evaluation.json").write_text(json.dumps({"fid": 3.5}))
    proxy.loses_answer = lambda path: path.endswith("runs/search")  # dies after the first call
    with pytest.raises(stores.Unanswered, match="does not answer"):
        evaluation.log_evaluation(make_config(proxy.uri).tracking, SETTINGS, tmp_path)


@pytest.mark.slow
def test_a_whole_training_whose_server_dies_and_comes_back_slow(make_prepared, server, proxy):
    clone = make_prepared()
    clone.set(tracking__uri=proxy.uri, tracking__experiment="whole", tracking__patience_seconds=3, train__history_interval_images=800)
    with (clone.root / "log").open("w+") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "pipeline.stages.train"], cwd=clone.root, env=clone.environment, stdout=log, stderr=log
        )
        try:
            wait_for(
                lambda: process.poll() is not None or any(server.points(run) for run, _ in server.runs("whole")), "points", seconds=300
            )
            proxy.is_cut = True
            assert process.wait(400) == 0, (clone.root / "log").read_text()[-4000:]
        finally:
            process.kill()
    assert "MLflow has not taken everything" in (clone.root / "log").read_text()
    assert [status for _, status in server.runs("whole")] == ["RUNNING"]
    proxy.is_cut, proxy.delay_seconds = False, 5.0
    said = clone.run("python", "-m", "pipeline.deliver").stdout
    assert "is complete now (FINISHED)" in said
    ((run, status),) = server.runs("whole")
    points = {point: count for point, count in server.points(run).items() if not point[0].startswith("system/")}
    with (clone.root / "reports" / "training" / "history.csv").open() as file:
        steps = {int(line["images_seen"]) for line in csv.DictReader(file)}
    assert len(steps) > 20
    assert status == "FINISHED"
    assert set(points.values()) == {1}
    assert {step for name, step in points if name == "train/loss_generator"} == steps
    proxy.delay_seconds = 0.0
    assert "nothing to deliver" in clone.run("python", "-m", "pipeline.deliver").stdout
    clone.run("python", "-m", "pipeline.stages.train")  # as `dvc repro --force` does
    assert server.runs("whole") == [(run, "FINISHED")]
    assert {point: count for point, count in server.points(run).items() if not point[0].startswith("system/")} == points
