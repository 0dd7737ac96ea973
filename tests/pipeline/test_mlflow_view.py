"""What a person finds in MLflow: named runs, evaluated models that can be ranked, a run for each protocol. In a real store."""

import json
import subprocess
import threading
import time
from pathlib import Path

import pytest

from ganlib.storage import open_storage
from pipeline.state_address import state_uri
from pipeline.tracking import card, delivery, evaluation, outbox, system_metrics, training_run
from pipeline.tracking import store as stores
from pipeline.tracking.follow import Follower, following
from pipeline.tracking.settings import TrackingConfig

pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's own
KEY = "5b0d2f2b" + "0" * 56
DIGEST = "d" * 64
SETTINGS = {
    "sample": {"num_images": 100, "truncation": 1.0},
    "reference": {"extractor": "auto"},
    "evaluate": {"metrics": ["fid"], "seed": 0},
}
SECRET = "https://ada:hidden-word@host"


@pytest.fixture(scope="module")
def database(tmp_path_factory):
    return tmp_path_factory.mktemp("store") / "mlflow.db"


@pytest.fixture
def tracking(database, request, monkeypatch):
    """One store for all, which takes seconds to make; an experiment for each test."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return TrackingConfig(uri=f"sqlite:///{database}", experiment=request.node.name)


def facts_of(key=KEY, *, commit="c0ffee"):
    return outbox.TrainingFacts(
        run_key=key,
        family="dcgan",
        total_images=700,
        params={"train": {"seed": 0}},
        tags={"git.commit": commit},
        data_digest=DIGEST,
        data_source="fashion_mnist",
    )


def trained(tracking, root, key=KEY, *, checkpoints=(), **options):
    """A training that has come to its end; returns its state."""
    storage = open_storage(root / "state" / key)
    line = {"images_seen": 700, "step": 7, "scalars": {"loss": 0.5}, "time": 1_700_000_000.0, "images_per_second": 9.0}
    storage.write("history.jsonl", json.dumps(line).encode() + b"\n")
    run = training_run.TrainingRun(tracking, facts_of(key, **options), storage, root)
    with following(storage, [run], patience_seconds=120) as followers:
        run.note_checkpoints(checkpoints)
        followers.status = "FINISHED"
    assert followers.problems() == []
    return storage


def measured(root, *, key=KEY, sha256="s" * 64, fid=3.5, **protocol):
    """models/ and reports/ of an evaluation."""
    for folder in ("models", "reports/plots"):
        (root / folder).mkdir(parents=True, exist_ok=True)
    facts = {"run_key": key, "images_seen": 700, "sha256": sha256, "family": "dcgan", "data": {"source": "fashion_mnist"}}
    (root / "models" / "generator.json").write_text(json.dumps(facts | {"git_commit": "c0ffee-dirty", "data_digest": DIGEST}))
    values = {
        "fid": fid,
        "fid@rotation": 2 * fid,
        "baseline": {"fid": 0.1},
        "protocol": {"split": "test", "generator_sha256": sha256, **protocol},
    }
    (root / "reports" / "evaluation.json").write_text(json.dumps(values))
    (root / "reports" / "report.html").write_text("<p>report</p>")
    return root


def content(store):
    """Everything that a repeat could double."""
    runs = store.client.search_runs([store.experiment_id])
    models = store.client.search_logged_models([store.experiment_id])
    return {
        "runs": {
            run.info.run_id: (
                run.info.run_name,
                run.info.status,
                dict(run.data.params),
                {
                    key: [(p.step, p.value, p.timestamp) for p in store.client.get_metric_history(run.info.run_id, key)]
                    for key in run.data.metrics
                },
                sorted(run.inputs.dataset_inputs, key=str).__len__(),
                sorted(output.model_id for output in run.outputs.model_outputs),
            )
            for run in runs
        },
        "models": {
            model.model_id: sorted((m.key, m.value, m.timestamp, m.run_id, m.dataset_name, m.dataset_digest) for m in model.metrics or [])
            for model in models
        },
    }


def test_a_run_is_named_described_and_tagged_as_mlflow_does(tracking, tmp_path):
    """Kills: a run called by a hash; tags of ours where MLflow's pages look for their own; an experiment that MLflow takes for a chat's."""
    trained(tracking, tmp_path, commit="c0ffee-dirty")
    store = stores.open_store(tracking, tmp_path)
    (run,) = store.client.search_runs([store.experiment_id])
    assert run.info.run_name == "dcgan-fashion-mnist-5b0d2f2b"
    tags = run.data.tags
    assert "dcgan trained on fashion_mnist for 700 images" in tags["mlflow.note.content"]
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert (tags["mlflow.source.git.dirty"], tags["git.commit"]) == ("true", "c0ffee-dirty")
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("pipeline/stages/train.py", "LOCAL")
    assert tags["mlflow.user"] == run.info.user_id == subprocess.check_output(["id", "-un"], text=True).strip()
    assert store.client.get_experiment(store.experiment_id).tags["mlflow.experimentKind"] == "custom_model_development"


def test_measurements_that_a_resume_has_written_anew_are_told_and_the_training_ends(tracking, tmp_path):
    """They say no alarms. Kills: a training that is stopped between its resume and the next measurement, and stays RUNNING for good."""
    storage = open_storage(tmp_path / "state" / KEY)
    line = {"images_seen": 0, "step": 0, "values": {"diversity": 0.2}, "time": 1_700_000_000.0, "images_per_second": 9.0, "memory_bytes": 1}
    run = training_run.TrainingRun(tracking, facts_of(), storage, tmp_path)
    run.begin()
    run.health([line | {"alarms": ["mode_collapse (0 images)"]}])
    storage.write("health.jsonl", json.dumps(line).encode() + b"\n")  # as Journal.restart has it of a bundle
    with following(storage, [training_run.TrainingRun(tracking, facts_of(), storage, tmp_path)], patience_seconds=120) as followers:
        followers.status = "KILLED"
    assert followers.problems() == []
    store = stores.open_store(tracking, tmp_path)
    (found,) = store.client.search_runs([store.experiment_id])
    assert found.info.status == "KILLED"
    assert found.data.tags["alarms"] == "mode_collapse (0 images)"
    assert len(store.client.get_metric_history(found.info.run_id, "health/diversity")) == 1


def test_what_a_person_has_written_stays(tracking, tmp_path):
    """Kills: a resume that writes the first description, name or kind over what somebody has made of it since."""
    trained(tracking, tmp_path)
    store = stores.open_store(tracking, tmp_path)
    run_id = store.find_run(KEY)
    store.client.set_tag(run_id, "mlflow.note.content", "the one for the poster")
    store.client.update_run(run_id, name="poster")
    store.client.set_experiment_tag(store.experiment_id, "mlflow.experimentKind", "regression")
    trained(tracking, tmp_path)
    run = store.client.get_run(run_id)
    assert (run.data.tags["mlflow.note.content"], run.info.run_name) == ("the one for the poster", "poster")
    assert store.client.get_experiment(store.experiment_id).tags["mlflow.experimentKind"] == "regression"


def test_an_experiment_of_an_earlier_day_is_marked_by_who_writes_into_it_alone(tracking, tmp_path):
    """Kills: opening a store to read from it, which a reader is allowed, as a write, which a reader is not."""
    store = stores.open_store(tracking, tmp_path)
    store.client.delete_experiment_tag(store.experiment_id, stores.KIND)
    again = stores.open_store(tracking, tmp_path)
    assert stores.KIND not in again.client.get_experiment(again.experiment_id).tags
    again.run("key")
    assert again.client.get_experiment(again.experiment_id).tags[stores.KIND] == stores.MODEL_TRAINING


def test_a_card_holds_no_password_and_no_account():
    """Kills: the name of an account at the server, which some servers make a token."""
    assert "mlflow.source.git.commit" not in outbox.Outbox.of(facts_of(commit="unknown")).tags
    of = card.Card.of(family="a.b", source=f"{SECRET}/x", images=1, run_key=KEY, git_commit="c")
    assert set(of.name) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-")
    told = outbox.Outbox.of(outbox.TrainingFacts(run_key=KEY, params={}, tags=of.tags, data_digest="d", data_source="s"))
    assert "hidden-word" not in json.dumps(told.tags)


def test_the_better_of_two_generators_is_found_by_its_numbers(tracking, tmp_path):
    """Kills: numbers of a run alone; numbers without their data; a model among those of MLflow's default experiment."""
    for key, sha256, fid in (("a" * 64, "1" * 64, 5.0), ("b" * 64, "2" * 64, 4.0), ("c" * 64, "3" * 64, 6.0)):
        evaluation.log_evaluation(tracking, SETTINGS, measured(tmp_path, key=key, sha256=sha256, fid=fid))
    store = stores.open_store(tracking, tmp_path)
    by = {"field_name": "metrics.evaluation/fid", "dataset_name": "fashion_mnist", "dataset_digest": DIGEST[:32]}
    best, *_ = store.client.search_logged_models([store.experiment_id], order_by=[by])
    assert (best.tags["sha256"], best.name, best.model_type) == ("2" * 64, "dcgan-fashion-mnist-bbbbbbbb", "gan-generator")
    alike = f"tags.`gan.protocol` = '{best.tags['gan.protocol']}'"
    ranked = store.mlflow.search_logged_models([store.experiment_id], alike, order_by=[by], output_format="list")  # as the README has it
    assert [model.tags["sha256"][0] for model in ranked] == ["2", "1", "3"]
    assert len(store.client.search_runs([store.experiment_id], alike)) == 3
    good = store.client.search_logged_models([store.experiment_id], filter_string="metrics.`evaluation/fid` < 5.5")
    assert {model.tags["sha256"] for model in good} == {"1" * 64, "2" * 64}
    (worst,) = store.client.search_logged_models([store.experiment_id], filter_string="metrics.evaluation/fid/rotation > 11")
    assert worst.source_run_id == store.find_run("c" * 64)
    assert worst.experiment_id == store.experiment_id != "0"
    points = {(point.key, point.dataset_name, point.dataset_digest) for point in best.metrics}
    assert points == {(f"evaluation/{name}", "fashion_mnist", DIGEST[:32]) for name in ("fid", "fid/rotation")}


def test_each_protocol_is_a_run_below_the_training_s(tracking, tmp_path):
    """Kills: settings of an evaluation as parameters of the training's run, which MLflow refuses when they change."""
    trained(tracking, tmp_path)
    root = measured(tmp_path)
    store = stores.open_store(tracking, root)
    run_id = store.find_run(KEY)
    settings = [SETTINGS, SETTINGS | {"sample": {"num_images": 50, "truncation": 1.0}}, SETTINGS]
    for number, chosen in enumerate(settings):
        measured(root, fid=3.5 - (number == 1), n_fake=chosen["sample"]["num_images"])
        evaluation.log_evaluation(tracking, chosen, root)
        assert store.client.get_run(run_id).data.metrics["evaluation/fid"] == 3.5 - (number == 1)  # of what is in reports/ now
    children = store.client.search_runs([store.experiment_id], f"tags.mlflow.parentRunId = '{run_id}'")
    assert {(run.data.params["sample.num_images"], run.data.metrics["evaluation/fid"]) for run in children} == {("100", 3.5), ("50", 2.5)}
    assert len(children) == 2
    for child in children:
        assert child.data.params["evaluate.metrics"] == "['fid']"
        assert child.info.status == "FINISHED"
        assert child.info.run_name.startswith("dcgan-fashion-mnist-5b0d2f2b-evaluation-")
        files = {
            file.path: Path(store.client.download_artifacts(child.info.run_id, file.path))
            for file in store.client.list_artifacts(child.info.run_id)
        }
        assert set(files) == {"evaluation.json", "report.html"}
        assert json.loads(files["evaluation.json"].read_text())["fid"] == child.data.metrics["evaluation/fid"]
        (model,) = store.client.get_run(child.info.run_id).inputs.model_inputs
        assert store.client.get_logged_model(model.model_id).source_run_id == run_id
        ((data,),) = [[(one.dataset.name, one.dataset.digest) for one in child.inputs.dataset_inputs]]
        assert data == ("fashion_mnist", DIGEST[:32])
    assert "sample.num_images" not in store.client.get_run(run_id).data.params
    assert {file.path for file in store.client.list_artifacts(run_id, "evaluation")} == {
        "evaluation/evaluation.json",
        "evaluation/report.html",
    }


def test_told_again_nothing_is_doubled(tracking, tmp_path):
    """Kills: a run, a model or a point for each repeat, also where the first telling broke off before its last line."""
    kept = [outbox.Checkpoint(folder="checkpoints/step-1", images_seen=300, sha256="e" * 64, score=0.25)]
    trained(tracking, tmp_path, checkpoints=kept)
    root = measured(tmp_path)
    evaluation.log_evaluation(tracking, SETTINGS, root)
    store = stores.open_store(tracking, root)
    once = content(store)
    assert (len(once["runs"]), len(once["models"])) == (2, 2)
    evaluation.log_evaluation(tracking, SETTINGS, root)
    assert content(store) == once
    store.client.delete_tag(store.find_run(KEY), evaluation.EVALUATION)  # the last that is told
    evaluation.log_evaluation(tracking, SETTINGS, root)
    assert content(store) == once
    trained(tracking, tmp_path, checkpoints=kept)  # `dvc repro --force`
    assert content(store) == once


def test_twins_of_a_lost_answer_are_one_model(tracking, tmp_path):
    """Kills: two models of one generator, of which each evaluation takes another."""
    root = measured(tmp_path)
    store = stores.open_store(tracking, root)
    run, _ = store.run(KEY)
    create = store.client.create_logged_model

    def twice(*arguments, **options):
        create(*arguments, **options)
        return create(*arguments, **options)

    store.client.create_logged_model = twice
    one = evaluation.logged_models.of_generator(store, run, sha256="s" * 64, truncation=1.0)
    evaluation.log_evaluation(tracking, SETTINGS, root)
    (model,) = store.client.search_logged_models([store.experiment_id])
    assert model.model_id == one.model_id
    assert model.metrics


def test_kept_checkpoints_are_models_that_can_be_ranked(tracking, tmp_path):
    """Kills: scores that stay in the state; a training that was delivered late without them."""
    kept = [
        outbox.Checkpoint(folder=f"candidates/images-{images_seen:012d}", images_seen=images_seen, sha256=letter * 64, score=score)
        for images_seen, letter, score in ((100, "a", 0.5), (200, "b", 0.25))
    ]
    storage = open_storage(state_uri(str(tmp_path / "state"), KEY, tmp_path))
    dead = training_run.TrainingRun(tracking, facts_of(), storage, tmp_path)
    dead.begin()
    dead.note_checkpoints(kept)
    dead.note_end("FINISHED")  # and nothing was delivered
    assert len(delivery.deliver_pending(tracking, str(tmp_path / "state"), tmp_path, limit_seconds=120)) == 1
    there = stores.open_store(tracking, tmp_path)
    models = there.client.search_logged_models(
        [there.experiment_id], filter_string="model_type = 'gan-checkpoint'", order_by=[{"field_name": f"metrics.{training_run.SCORE}"}]
    )
    assert [(model.tags["gan.images_seen"], model.metrics[0].value, model.metrics[0].step) for model in models] == [
        ("200", 0.25, 200),
        ("100", 0.5, 100),
    ]
    assert models[0].tags["gan.state"].endswith(f"{KEY[:16]}/candidates/images-000000000200")
    run = there.client.get_run(there.find_run(KEY))
    assert {(output.model_id, output.step) for output in run.outputs.model_outputs} == {
        (model.model_id, model.metrics[0].step) for model in models
    }


def test_the_machine_is_measured_by_who_listens_anyhow(tracking, tmp_path, monkeypatch):
    """Kills: MLflow's thread, which ends for good at the first call that fails; samples that a failed call loses or doubles."""
    monkeypatch.setattr(system_metrics, "INTERVAL_SECONDS", 0.0)
    storage = open_storage(tmp_path / "state" / KEY)
    run = training_run.TrainingRun(tracking, facts_of(), storage, tmp_path)
    run.begin()
    follower = Follower(storage, run)
    before = {thread.name for thread in threading.enumerate()}
    for _ in range(4):
        follower.listener.beat()
        time.sleep(0.01)  # MLflow counts milliseconds
    store = stores.open_store(tracking, tmp_path)
    run_id = store.find_run(KEY)
    assert "SystemMetricsMonitor" not in before | {thread.name for thread in threading.enumerate()}
    assert not [key for key in store.client.get_run(run_id).data.metrics if key.startswith("system/")]  # with the next heartbeat
    log_batch, calls = type(store.client).log_batch, []

    def lost(self, *arguments, **options):
        log_batch(self, *arguments, **options)  # the store has it, and its answer does not arrive
        calls.append(1)
        raise ConnectionError("lost")

    run._last_beat = -training_run.HEARTBEAT_SECONDS
    with monkeypatch.context() as patch:
        patch.setattr(type(store.client), "log_batch", lost)
        with pytest.raises(OSError, match="lost"):
            run.beat()
    assert calls
    follower.deliver_all("FINISHED")
    history = store.client.get_metric_history(run_id, "system/cpu_utilization_percentage")
    assert len(history) == len({point.timestamp for point in history}) >= 3
    assert min(point.step for point in history) >= 1  # MLflow hands a model what its run has at step 0


def test_a_machine_that_cannot_be_measured_trains_as_well(tracking, tmp_path, monkeypatch):
    """Kills: a listener that fails for ever because psutil does, or because somebody switched this off."""
    import psutil

    def refuse(*_):
        raise AttributeError("no such counter")

    monkeypatch.setattr(psutil, "net_io_counters", refuse)
    run = training_run.TrainingRun(tracking, facts_of(), open_storage(tmp_path / "state" / KEY), tmp_path)
    run.begin()
    for _ in range(3):
        run.beat()
    run.end("FINISHED")
    store = stores.open_store(tracking, tmp_path)
    told = store.client.get_run(store.find_run(KEY))
    assert (told.info.status, told.data.tags[training_run.SYSTEM]) == ("FINISHED", "none: AttributeError('no such counter')")
    monkeypatch.setenv(system_metrics.ENABLED, "false")
    assert training_run.TrainingRun(tracking, facts_of(), open_storage(tmp_path / "other"), tmp_path)._system is None
