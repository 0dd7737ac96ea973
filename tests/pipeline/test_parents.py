"""Trainings that take over from others: what is found and pinned, what is refused before any work, and what stands in the lineage.

The stage runs as it is, but for Ray: its workers are this process.
"""

import json
import os
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from ruamel.yaml import YAML
from safetensors.torch import load_file, save_file

from ganlib.data.arrow import ArrowWriter, write_manifest
from ganlib.storage import open_storage
from ganlib.training.fingerprint import fingerprint
from ganlib.training.loop import Interrupted
from ganlib.training.loop import train as train_here
from ganlib.training.state import BundleStore
from pipeline import continuing, edit, identity, preflight
from pipeline.params import ParamsError
from pipeline.stages import train as stage
from pipeline.stages.register import register as register_stage
from pipeline.tracking import outbox, versions
from pipeline.tracking import store as stores

ROOT = Path(__file__).resolve().parents[2]
GOOD = YAML(typ="safe").load((ROOT / "params.yaml").read_text())
AWAY = "http://127.0.0.1:9"
TINY = {
    "data.source": "digits",
    "data.image_size": [8, 8],
    "model.latent_dim": 8,
    "model.generator": {"width": 8},
    "model.discriminator": {"width": 8},
    "optim.decay": "none",
    "train.total_images": 320,
    "train.batch_images": 32,
    "train.history_interval_images": 160,
    "train.grid_interval_images": 160,
    "train.checkpoint_interval_images": 160,
    "tracking.uri": AWAY,
    "tracking.patience_seconds": 0,
}
pytestmark = pytest.mark.filterwarnings("ignore")  # MLflow's and torch.export's own


def settings(**changes):
    """The shipped params.yaml in small; settings(train__total_images=640)."""
    os.environ.pop("MLFLOW_TRACKING_URI", None)  # MLflow leaves it behind when it is pointed somewhere
    values = json.loads(json.dumps(GOOD))
    patience = {} if changes.get("tracking__uri", AWAY) == AWAY else {"tracking__patience_seconds": 60}
    for key, value in (TINY | {key.replace("__", "."): value for key, value in (changes | patience).items()}).items():
        section = values
        *path, last = key.split(".")
        for part in path:
            section = section[part]
        section[last] = value
    return preflight.parse(values)


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A folder with prepared data, in which the stage trains in this process."""
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setattr(stage.ray_driver, "run", lambda spec, cluster, *, owner, stopping: train_here(spec))
    for package in ("ganlib", "pipeline"):
        (tmp_path / package).symlink_to(ROOT / package)  # the key is of the code too
    folder = tmp_path / "data" / "prepared"
    folder.mkdir(parents=True)
    images = np.random.default_rng(0).integers(0, 255, (90, 1, 8, 8), dtype=np.uint8)
    for split in ("train", "val", "test"):
        with ArrowWriter(folder / f"{split}.arrow", shape=(1, 8, 8), class_names=["a", "b"]) as writer:
            writer.append(images, np.repeat(np.arange(2), 45))
    write_manifest(folder, class_names=["a", "b"], class_counts={split: [45, 45] for split in ("train", "val", "test")})
    return tmp_path


def facts(project):
    return json.loads((project / "models" / "generator.json").read_text())


def newest(project, key):
    bundle, problems = BundleStore(open_storage(project / "state" / key[:16]), keep=1).newest()
    assert problems == []
    return bundle


def trained(project, **changes):
    """Run the stage; what generator.json says."""
    stage.train(settings(**changes), project)
    return facts(project)


def refused(project, *lines, **changes):
    """The stage refuses, before any work: no state and no outs are made."""
    before = sorted((project / "state").iterdir()) if (project / "state").exists() else []
    with pytest.raises((ValueError, OSError)) as problem:
        stage.train(settings(**changes), project)
    for line in lines:
        assert line in str(problem.value)
    assert (sorted((project / "state").iterdir()) if (project / "state").exists() else []) == before
    return str(problem.value)


# -- keys ---------------------------------------------------------------------------------------------------------------------------------


def test_settings_that_are_unset_move_no_key():
    """The keys of trainings from before these settings existed: kills an entry `freeze: {}` among what the key is made of."""
    assert not {"freeze", "continue_from", "start_from"} & identity.training_settings(settings())["train"].keys()
    frozen = settings(train__freeze={"discriminator": ["features.0.*"]})
    assert identity.training_settings(frozen)["train"]["freeze"] == {"discriminator": ["features.0.*"]}
    named = settings(train__continue_from="0123456789abcdef")
    assert identity.training_settings(named) == identity.training_settings(settings())  # what it names enters the key, not the name


def test_every_setting_may_change_or_may_not():
    """Kills: a new setting that changes silently while a training goes on."""
    table = set(continuing.FIXED) | continuing.MAY_CHANGE
    assert not set(continuing.FIXED) & continuing.MAY_CHANGE
    found = identity.training_settings(settings(train__freeze={"discriminator": ["features.0.*"]}))
    keys = {"model", "task.name", "task.*"} | {f"train.{key}" for key in found["train"]}  # the other keys of a task are its own
    for key, value in found["optim"].items():
        keys |= {f"optim.*.{name}" for name in value} if isinstance(value, dict) else {f"optim.{key}"}
    assert keys <= table


def test_what_is_fixed_is_found_for_whatever_networks_a_task_has():
    """Kills: a list of two networks, and a network's default options that count as a change."""
    values = json.loads(json.dumps(GOOD))
    edit.lay(values, edit.plain(ROOT / "recipes" / "vae.yaml"))
    before = identity.training_settings(preflight.parse(values))
    assert list(continuing._changed(before, before)) == []
    del values["model"]["autoencoder"]  # its default
    values["optim"]["autoencoder"] = {"name": "sgd", "lr": 1e-2}
    after = identity.training_settings(preflight.parse(values))
    assert [(key, old, new) for _, key, old, new in continuing._changed(before, after)] == [("optim.autoencoder.name", "adam", "sgd")]


# -- continue_from ------------------------------------------------------------------------------------------------------------------------


def test_a_training_goes_on_and_says_so(project, capsys):
    """Same settings, more images: the bytes of one that was never cut; and its parent is in its lineage, and only there."""
    parent = trained(project)
    assert "parent" not in parent
    child = trained(project, train__continue_from=parent["run_key"][:8], train__total_images=640)
    assert f"continues training {parent['run_key'][:16]}, step 10, 320 images" in capsys.readouterr().out
    assert child["parent"] == {
        "kind": "continue",
        "run_key": parent["run_key"],
        "step": 10,
        "images_seen": 320,
        "digest": child["parent"]["digest"],
    }
    tags = outbox.read(open_storage(project / "state" / child["run_key"][:16])).tags
    assert (tags["gan.parent"], tags["gan.parent_digest"]) == (parent["run_key"], child["parent"]["digest"])
    whole = trained(project, train__total_images=640)
    assert fingerprint(newest(project, child["run_key"])) == fingerprint(newest(project, whole["run_key"]))
    assert child["sha256"] == whole["sha256"]
    assert child["run_key"] != whole["run_key"]
    again = trained(project, train__continue_from=parent["run_key"], train__total_images=640)  # another spelling, the same training
    assert again == child


def test_a_training_that_has_begun_never_looks_at_its_parent_again(project, monkeypatch, capsys):
    """The parent goes on, then it is gone: the child has one key and one state. Kills: a key made from the parent's newest bundle each time."""
    monkeypatch.setattr(stage.ray_driver, "run", lambda spec, cluster, *, owner, stopping: pause(spec))
    with pytest.raises(KeyboardInterrupt):
        trained(project)
    (parent,) = (project / "state").iterdir()
    child = {"train__continue_from": parent.name, "train__total_images": 640, "optim__decay": "linear"}
    with pytest.raises(KeyboardInterrupt):
        trained(project, **child)
    (begun,) = set((project / "state").iterdir()) - {parent}
    monkeypatch.setattr(stage.ray_driver, "run", lambda spec, cluster, *, owner, stopping: train_here(spec))
    trained(project)  # the parent goes on
    first = shutil.copytree(project / "state", project / "state before")
    told = trained(project, **child)
    assert begun.name == told["run_key"][:16]
    assert told["parent"]["step"] < 10
    assert "as it was when this training began" in capsys.readouterr().out
    shutil.rmtree(project / "state")
    shutil.copytree(first / begun.name, project / "state" / begun.name)  # killed, and the parent is gone
    assert trained(project, **child) == told
    refused(project, "no training of that key has its state", **{**child, "train__seed": 5})


def pause(spec):
    """Stop a training at the first time of asking."""
    with pytest.raises(Interrupted):
        train_here(spec, should_stop=lambda: True)
    raise KeyboardInterrupt


def test_a_child_killed_before_its_first_checkpoint_begins_again_from_the_pinned_bundle(project, monkeypatch):
    """Kills: a pin that is read from the parent, or written after the workers have begun."""
    parent = trained(project)
    child = {"train__continue_from": parent["run_key"], "train__total_images": 640}

    def die(spec, cluster, *, owner, stopping):
        raise SystemExit(137)

    with monkeypatch.context() as patch:
        patch.setattr(stage.ray_driver, "run", die)
        with pytest.raises(SystemExit):
            trained(project, **child)
    shutil.rmtree(project / "state" / parent["run_key"][:16])
    assert trained(project, **child)["parent"]["run_key"] == parent["run_key"]


def test_what_may_not_change_is_listed_with_what_to_do(project):
    parent = trained(project)
    changes = {
        "model__generator": {"width": 16},
        "optim__discriminator": {"name": "sgd", "lr": 1e-3},
        "train__logical_workers": 1,
        "cluster__workers": 1,
        "train__precision": "fp32",
        "train__freeze": {"discriminator": ["features.0.*"]},
        "train__total_images": 320,
    }
    refused(
        project,
        "model.generator.width: 8 -> 16 (the networks would be others)",
        "optim.discriminator.name: 'adam' -> 'sgd'",
        "train.logical_workers: 2 -> 1",
        "train.precision: 'bf16' -> 'fp32'",
        "train.freeze.discriminator: None -> ['features.0.*']",
        "train.total_images: 320 -> 320 (it has seen 320 images already; set it above that)",
        f"start a new training from its weights: train.continue_from: null, train.start_from: {parent['run_key'][:12]}",
        **changes,
        train__continue_from=parent["run_key"][:12],
    )
    # written out or left at its default: the same networks
    spelled = {"width": 8, "kernel": 3}
    from ganlib.models import MODELS

    default = MODELS.get("dcgan").generator_options.model_fields["kernel"].default
    spelled["kernel"] = default
    trained(project, model__generator=spelled, train__total_images=640, train__continue_from=parent["run_key"])


def test_other_data_and_other_code_are_refused(project):
    parent = trained(project)
    state = project / "state" / parent["run_key"][:16]
    told = json.loads((state / "training.json").read_text())
    child = {"train__continue_from": parent["run_key"], "train__total_images": 640}
    (state / "training.json").write_text(json.dumps(told | {"data_digest": "0" * 64}))
    refused(project, "data: sha256 000000000000 -> ", **child)
    older = json.loads(json.dumps(told))
    del older["settings"]["task"]["label_noise"]  # a setting that its code did not have yet
    (state / "training.json").write_text(json.dumps(older))
    storage = open_storage(state)
    bundle = newest(project, parent["run_key"])
    lost = {name: value for name, value in bundle.tensors.items() if name != "generator.layers.0.weight"}
    BundleStore(storage, keep=9).save(lost | {"generator.old": torch.zeros(2)}, {**bundle.numbers, "step": 11}, bundle.history)
    refused(project, "generator.layers.0.weight: none -> [", "generator.old: [2] -> none (its networks were built by other code)", **child)
    BundleStore(storage, keep=9).drop_after(10)
    trained(project, **child)


def test_sizes_that_would_begin_elsewhere_are_refused(project):
    """A progressive training shares its images out among its sizes: more images would move where they begin."""
    grown = {"task__name": "progressive", "model__name": "progressive", "model__generator": {}, "model__discriminator": {}}
    parent = trained(project, **grown)
    child = {**grown, "train__continue_from": parent["run_key"], "train__total_images": 640}
    refused(project, "set task.options: {stable_images: 106, fade_images: 106}", **child)
    told = trained(project, **child, task__options={"stable_images": 106, "fade_images": 106})
    assert told["images_seen"] == 640


def test_keys_that_name_nothing_or_too_much(project):
    for wrong, message in [
        ({"train__continue_from": "abc"}, "'abc' is no run key; expected 8 to 64 hex digits"),
        ({"train__continue_from": 12345678}, "train.continue_from=12345678 is a number to YAML; put the key in quotes"),
        ({"train__start_from": 1e10}, "is a number to YAML"),
        ({"train__continue_from": "0" * 16, "train__start_from": "1" * 16}, "exclude each other"),
        ({"train__start_from": "models:/gan"}, "expected models:/NAME@ALIAS or models:/NAME/VERSION"),
        ({"train__start_from": "models"}, "is what the train stage writes"),
        ({"train__freeze": {"discriminator": ["conv.*"]}}, "'conv.*' matches no parameter; there are: features.0.weight"),
    ]:
        with pytest.raises(ParamsError) as problem:
            settings(**wrong)
        assert message in str(problem.value)
    refused(project, "no training of that key has its state at train.state_uri=state; there are: none", train__continue_from="0" * 16)
    parent = trained(project)
    key = parent["run_key"]
    refused(project, f"there are: {key[:16]}", train__continue_from=key[:16] + "f" * 8, train__total_images=640)
    state = project / "state" / key[:16]
    twin = project / "state" / (key[:8] + "0" * 8)
    shutil.copytree(state, twin)
    told = json.loads((twin / "training.json").read_text())
    (twin / "training.json").write_text(json.dumps(told | {"run_key": key[:8] + "0" * 56}))
    refused(project, "is the beginning of more than one run key", train__continue_from=key[:8], train__total_images=640)
    tensors = state / "checkpoints" / "step-000000010" / "tensors.safetensors"
    for damaged in state.glob("checkpoints/*/tensors.safetensors"):
        damaged.write_bytes(b"")
    message = refused(project, f"{tensors} does not match its checksum", train__continue_from=key, train__total_images=640)
    assert "remove" not in message  # a parent is not to be removed because it cannot be read
    shutil.rmtree(state / "checkpoints")
    refused(project, "that training has no checkpoint yet", train__continue_from=key, train__total_images=640)
    (state / "training.json").unlink()
    refused(project, "does not say which training it is of", train__continue_from=key, train__total_images=640)


@pytest.mark.heavy
def test_a_state_in_an_object_store_is_found_and_pinned(project, s3, monkeypatch):
    """Kills: a pin that needs a rename, and a search that needs a folder."""
    for key, value in s3.environment.items():
        monkeypatch.setenv(key, value)
    uri = f"{s3.uri}/parents"
    parent = trained(project, train__state_uri=uri)
    child = {"train__continue_from": parent["run_key"][:8], "train__total_images": 640, "train__state_uri": uri}
    told = trained(project, **child)
    open_storage(f"{uri}/{parent['run_key'][:16]}").remove("checkpoints")
    assert trained(project, **child) == told
    own = trained(project, train__total_images=640)
    assert told["sha256"] == own["sha256"]


# -- start_from ---------------------------------------------------------------------------------------------------------------------------


def test_a_training_starts_from_a_state_and_from_a_folder(project, capsys):
    """The average of a state; the files of a folder. What is taken is in the key, and where it lay is not."""
    parent = trained(project)
    shutil.copytree(project / "models", project / "kept")
    shutil.copytree(project / "models", project / "elsewhere")
    settled = {"train__freeze": {"discriminator": ["features.0.*"]}, "optim__generator": {"name": "sgd", "lr": 1e-3}}
    child = trained(project, train__start_from="kept", **settled)
    said = capsys.readouterr().out
    assert re.search(r"  generator: (\d+) of \1 tensors taken\n  discriminator: (\d+) of \2 tensors taken\n", said)
    assert child["parent"] == {
        "kind": "start",
        "run_key": parent["run_key"],
        "images_seen": 320,
        "digest": child["parent"]["digest"],
    }
    first = load_file(project / "kept" / "discriminator.safetensors")
    last = load_file(project / "models" / "discriminator.safetensors")
    same = {name for name in first if name.endswith((".weight", ".bias")) and torch.equal(first[name], last[name])}
    assert same == {name for name in first if name.startswith("features.0.")} != set()
    assert trained(project, train__start_from="elsewhere", **settled) == child
    by_key = trained(project, train__start_from=parent["run_key"][:10], **settled)
    assert by_key["parent"]["step"] == 10
    shutil.rmtree(project / "kept")
    assert trained(project, train__start_from="kept", **settled)["run_key"] == child["run_key"]  # it has begun, and needs no folder
    other = load_file(project / "elsewhere" / "discriminator.safetensors")
    save_file({name: value + 1 for name, value in other.items()}, project / "elsewhere" / "discriminator.safetensors")
    changed = trained(project, train__start_from="elsewhere", **settled, train__seed=1)
    assert changed["parent"]["digest"] != child["parent"]["digest"]


def test_what_does_not_fit_is_listed_and_nothing_at_all_is_refused(project, capsys):
    parent = trained(project)
    told = trained(project, train__start_from=parent["run_key"], model__conditional=True)
    said = capsys.readouterr().out
    assert told["images_seen"] == 320
    assert "    fresh: layers.0.weight ([" in said
    other = {"model__name": "mlp", "model__latent_dim": 5, "model__generator": {}, "model__discriminator": {}}
    message = refused(project, "no layer fits these networks", train__start_from=parent["run_key"], **other)
    assert "left: features.0.weight" in message


def test_a_folder_that_is_not_whole_is_refused(project):
    trained(project)
    kept = shutil.copytree(project / "models", project / "kept")
    refused(project, "nowhere is no folder; expected a folder like models/", train__start_from="nowhere")
    (kept / "discriminator.safetensors").rename(kept / "d")
    refused(project, "has no discriminator.safetensors", train__start_from="kept")
    (kept / "d").rename(kept / "discriminator.safetensors")
    (kept / "generator.json").write_text(json.dumps(facts(project) | {"sha256": "0"}))
    refused(project, "is not the one that its generator.json describes", train__start_from="kept")
    (kept / "generator.json").write_text("{}")
    refused(project, "cannot be read", train__start_from="kept")


@pytest.mark.heavy
def test_an_alias_is_a_version_is_a_digest_in_the_key(project):
    """On a real store. Kills: a key made from the alias, and a resume that asks the registry."""
    registry = f"sqlite:///{project / 'registry.db'}"
    first = trained(project, tracking__uri=registry)
    register(project, registry)
    child = {"train__start_from": "models:/gan-digits@champion", "train__total_images": 160}
    told = trained(project, tracking__uri=registry, **child)
    assert told["parent"]["version"] == "models:/gan-digits/1"
    assert told["parent"]["run_key"] == first["run_key"]
    direct = child | {"train__start_from": "models:/gan-digits/1"}
    assert trained(project, tracking__uri=registry, **direct) == told  # the same weights
    second = trained(project, tracking__uri=registry, train__seed=1)
    client = register(project, registry, score=0.5)
    assert client.get_model_version_by_alias("gan-digits", "champion").version == 2
    assert trained(project, **child) == told  # it has begun with version 1, and asks nobody: this store is away
    shutil.rmtree(project / "state" / told["run_key"][:16])
    moved = trained(project, tracking__uri=registry, **child)
    assert (moved["parent"]["version"], moved["parent"]["run_key"]) == ("models:/gan-digits/2", second["run_key"])
    assert moved["run_key"] != told["run_key"]


@pytest.mark.heavy
def test_a_version_that_is_not_there_or_not_whole_is_refused_before_any_work(project):
    """Kills: a version without a discriminator that is found out by a worker, and artifacts that were exchanged."""
    registry = f"sqlite:///{project / 'registry.db'}"
    trained(project, tracking__uri=registry)
    client = register(project, registry)
    for name, message in [
        ("gan-digits@best", "has no such version; there are 1; aliases: @challenger (version 1), @champion (version 1)"),
        ("gan-digits/7", "has no such version; there are 1"),
        ("gan/1", "has no model 'gan'; it has: gan-digits"),
    ]:
        refused(project, message, tracking__uri=registry, train__start_from=f"models:/{name}")
    child = {"tracking__uri": registry, "train__start_from": "models:/gan-digits@champion", "train__total_images": 160}
    tag = versions.weights_tag("discriminator")
    client.delete_model_version_tag("gan-digits", "1", tag)  # as versions were before
    refused(project, "models:/gan-digits/1 holds no discriminator", "`dvc repro -f register`", **child)
    register(project, registry)  # adds it
    assert [version.version for version in client.search_model_versions("name = 'gan-digits'")] == [1]
    whole = client.get_model_version("gan-digits", "1").tags[tag]
    client.set_model_version_tag("gan-digits", "1", tag, "0" * 64)
    refused(project, "discriminator.safetensors has sha256 " + whole[:12], "registered was 000000000000", **child)
    client.set_model_version_tag("gan-digits", "1", tag, whole)
    told = trained(project, **child)
    assert told["parent"]["version"] == "models:/gan-digits/1"
    tags = register(project, registry).get_model_version("gan-digits", "2").tags
    assert (tags["gan.parent"], tags["gan.parent_digest"]) == ("models:/gan-digits/1", told["parent"]["digest"])
    refused(project, "MLflow at http://127.0.0.1:9 does not answer", **child | {"tracking__uri": AWAY, "train__seed": 1})


def register(project, uri, *, score=1.0):
    """The register stage, with a measurement that was never made; the store's client."""
    config = settings(tracking__uri=uri, register__spread=0.05)
    (project / "samples").mkdir(exist_ok=True)
    (project / "samples" / "grid.png").write_bytes(b"")
    (project / "reports" / "evaluation.json").write_text(json.dumps({"fid": score, "protocol": {"split": "test"}}))
    measuring = {"sampled": config.sample, "evaluated": config.evaluate}
    register_stage(config.register_, config.tracking, project, data=config.data, marks=config.marks, **measuring)
    return stores.open_store(config.tracking, project).client
