"""What a version says of where it comes from, in a real MLflow store, a real git repository and DVC's cache; each link of it broken once."""

import argparse
import hashlib
import json
import platform
import shutil
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import sklearn
import torch
from ruamel.yaml import YAML
from safetensors.torch import save_file

from ganlib.data.raw import Fetched, Stored, write_source
from ganlib.data.sources import SOURCES, fashion_mnist
from ganlib.files import sha256_file
from ganlib.metrics.fid import fid
from ganlib.metrics.interface import Comparison
from ganlib.metrics.kid import kid
from ganlib.metrics.prdc import prdc
from ganlib.metrics.settings import EvaluateConfig
from pipeline import generator, identity, lineage, params, registry
from pipeline.identity import TrainingParams
from pipeline.provenance import lineage as command
from pipeline.provenance import origin, record, reearn, replay, source, used, verify
from pipeline.provenance.case import BrokenError, Case
from pipeline.provenance.environment import environment
from pipeline.provenance.objects import Objects
from pipeline.tracking import model_registry, registration, versions
from tests.registrations import NAME, ROOT, described_alone, measured, register, settings, store_of

SECRET = "hunter2hunter2"
pytestmark = [pytest.mark.heavy, pytest.mark.filterwarnings("ignore")]  # MLflow's own


def git(folder, *arguments):
    who = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
    return subprocess.run(["git", *who, *arguments], cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


def kept(cache, path):
    """DVC's md5 of a file or folder, whose bytes lie in the cache from then on."""

    def put(data, end=""):
        md5 = hashlib.md5(data).hexdigest() + end
        target = cache / "files" / "md5" / md5[:2] / md5[2:]
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
        return md5

    if path.is_file():
        return put(path.read_bytes())
    files = [{"md5": put(each.read_bytes()), "relpath": each.name} for each in sorted(path.iterdir())]
    return put(json.dumps(files).encode(), ".dir")


@dataclass
class Project:
    root: Path
    facts: dict
    evaluation: dict

    @property
    def store(self):
        return store_of(self.root)

    def register(self, content, evaluation, **more):
        return register(self.root, content, evaluation["fid"], evaluation=evaluation, run_key=self.facts["run_key"], **more)

    def case(self, folder):
        for name in ("files", "objects"):
            shutil.rmtree(folder / name, ignore_errors=True)
            (folder / name).mkdir()
        objects = Objects(self.root, folder / "objects")
        objects.__dict__.update({"cache": self.root / ".dvc" / "cache", "remote": None})  # not asked of DVC, which takes seconds
        return Case(source=source.fetch(self.store, f"models:/{NAME}@champion", folder / "files"), objects=objects, root=self.root)


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    """Version 1 without a lineage, then version 2, the champion, with one; params.yaml has an override and an address with a password."""
    root = tmp_path_factory.mktemp("project")
    files = {
        "ganlib/__init__.py": "",
        "pipeline/__init__.py": "",
        "pipeline/stages/__init__.py": "",
        "pipeline/stages/train.py": "import ganlib\n",
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    for name in ("dvc.yaml", "params.yaml", "requirements.txt"):
        shutil.copy(ROOT / name, root / name)
    git(root, "init", "-q")
    git(root, "add", "ganlib", "pipeline", "dvc.yaml", "params.yaml", "requirements.txt")
    git(root, "commit", "-qm", "first")
    values = YAML(typ="safe").load((root / "params.yaml").read_text())
    values["train"]["seed"] = 41
    values["tracking"]["uri"] = f"https://me:{SECRET}@example.org"
    with (root / "params.yaml").open("w") as file:
        YAML().dump(values, file)
    prepared, raw, models = (root / path for path in ("data/prepared", "data/raw", "models"))
    for folder in (prepared, raw, models, root / "reports"):
        folder.mkdir(parents=True)
    for split in ("train", "val", "test"):
        (prepared / f"{split}.arrow").write_text(split)
    splits = {split: {"sha256": sha256_file(prepared / f"{split}.arrow")} for split in ("train", "val", "test")}
    digest = hashlib.sha256("".join(f"{split} {facts['sha256']}\n" for split, facts in splits.items()).encode()).hexdigest()
    (prepared / "manifest.json").write_text(json.dumps({"splits": splits, "data_digest": digest}))
    (raw / "images").write_text("raw")
    (raw / "source.json").write_text(json.dumps({"files": [{"name": "images", "sha256": sha256_file(raw / "images")}]}))
    save_file({"w": torch.ones(2)}, models / "generator.safetensors")
    training = params.validated({name: values[name] for name in TrainingParams.model_fields}, TrainingParams)
    facts = {
        "run_key": "k" * 64,
        "git_commit": f"{git(root, 'rev-parse', 'HEAD')}-dirty",
        "git_changed": ["params.yaml"],
        "data_digest": digest,
        "params_digest": lineage.digest(identity.training_settings(training)),
        "sha256": sha256_file(models / "generator.safetensors"),
    }
    (models / "generator.json").write_text(json.dumps(facts))
    evaluation = measured(4.0, data_digest=digest, generator_sha256=facts["sha256"])
    (root / "reports" / "evaluation.json").write_text(json.dumps(evaluation))
    cache = root / ".dvc" / "cache"
    made = {path: kept(cache, root / path) for path in ("data/raw", "data/prepared", "models", "reports/evaluation.json")}

    def stage(deps, outs):
        listed = {
            "deps": [{"path": path, "md5": made[path]} for path in deps],
            "outs": [{"path": path, "md5": made[path]} for path in outs],
        }
        return {"cmd": "c", **listed}

    stages = {
        "fetch": stage([], ["data/raw"]),
        "prepare": stage(["data/raw"], ["data/prepared"]),
        "train": stage(["data/prepared"], ["models"]),
        "evaluate": stage(["models", "data/prepared"], ["reports/evaluation.json"]),
    }
    with (root / "dvc.lock").open("w") as file:
        YAML().dump({"schema": "2.0", "stages": stages}, file)
    found = Project(root, facts, evaluation)
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        patch.delenv("GANPIPE_GIT_COMMIT", raising=False)
        patch.setenv("SLURM_JOB_ID", "77")
        patch.setenv("GANPIPE_IMAGE_DIGEST", "sha256:1234")
        patch.setattr(registration, "_log_version", with_files)
        found.register("a", measured(5.0, data_digest=digest), tags={"data.digest": "e" * 64}, files=[])
        told = record.of(facts, evaluation, root)
        outcome = found.register(
            facts["sha256"], evaluation, tags=versions.tags(facts, 1.0, models), files=versions.files(models), lineage=told
        )
        assert outcome.aliases == ["challenger", "champion"], outcome.reason
        yield found


def with_files(store, run_id, name, model, flavor, words, files):
    version = described_alone(store, run_id, name, model, flavor, words, files)
    for path in files:
        store.client.log_artifact(run_id, str(path), versions.FOLDER)
    return version


def test_a_version_says_where_it_comes_from_and_every_link_holds(project, tmp_path):
    """Kills: a password in the registry, an override that is not told, a file that ran as no commit has it under the commit's name."""
    case = project.case(tmp_path)
    of = case.lineage
    assert (of.code.commit, of.code.changed) == (git(project.root, "rev-parse", "HEAD"), ["params.yaml"])
    assert {"pipeline/stages/train.py", "ganlib/__init__.py", "requirements.txt", "dvc.yaml"} <= of.code.files.keys()
    assert of.overrides == {"train.seed": 41, "tracking.uri": "https://***@example.org"}
    assert (of.seeds["train"], of.job, of.environment.image) == (41, {"slurm": "77"}, "sha256:1234")
    assert of.environment.torch == torch.__version__
    assert of.parent_champion == record.Version(version=f"models:/{NAME}/1", content="a")
    assert (of.run_id, of.metrics["fid"], of.protocol["split"]) == (case.source.tags["run_id"], 4.0, "test")
    assert of.stages["train"].deps["data/prepared"] == of.stages["prepare"].outs["data/prepared"]
    assert of.data.files == {"images": sha256_file(project.root / "data" / "raw" / "images")}
    assert case.source.tags["gan.code"] == "not as committed: params.yaml"
    assert case.source.tags["gan.environment"] == of.environment.words
    assert SECRET not in of.model_dump_json()
    assert SECRET not in json.dumps(dict(case.source.tags))
    lines = list(verify.verify(case))
    assert [line.partition(":")[0] for line in lines] == list(verify.links())
    page = "\n".join(command.shown(case.source.name, of))
    assert "override   train.seed: 41" in page
    assert of.data_digest in page


def test_it_is_told_once_for_an_evaluation(project, tmp_path):
    """Kills: a registration that is repeated on another machine, and replaces what was told of the first."""
    again = record.of(project.facts, project.evaluation, project.root).model_copy(update={"job": {"slurm": "another"}})
    tags, files = versions.tags(project.facts, 1.0, project.root / "models"), versions.files(project.root / "models")
    project.register(project.facts["sha256"], project.evaluation, tags=tags, files=files, lineage=again)
    assert project.case(tmp_path).lineage.job == {"slurm": "77"}


def broken(case, link, *words):
    with pytest.raises(BrokenError) as found:
        list(verify.verify(case))
    assert str(found.value).startswith(f"{link}: "), found.value
    for word in words:
        assert word in str(found.value), found.value


def without(case, **changes):
    return replace(case, source=replace(case.source, lineage=case.lineage.model_copy(update=changes)))


def test_each_link_of_the_registry_is_broken_once(project, tmp_path):
    """Kills: a check that compares what the version says with itself."""
    whole = project.case(tmp_path)
    src = whole.source
    weights = src.files["generator.safetensors"]
    was = weights.read_bytes()
    weights.write_bytes(b"others")
    broken(whole, "weights", "sha256 of generator.safetensors is", f"expected {project.facts['sha256'][:12]}", "register it again")
    weights.write_bytes(was)
    served = {**src.served, "data/model.pt2": "0" * 64}
    broken(replace(whole, source=replace(src, served=served)), "served model", "data/model.pt2", "expected None")
    broken(replace(whole, source=replace(src, evaluation={**src.evaluation, "fid": 1.0})), "evaluation", "the numbers")
    broken(
        replace(whole, source=replace(src, tags={**src.tags, "data.digest": "0" * 64})), "data digest", "tag data.digest is 000000000000"
    )
    broken(replace(whole, source=replace(src, run_tags=None)), "run", "is gone")
    broken(replace(whole, source=replace(src, run_tags={"gan.run_key": "other"})), "run", "is other")
    gone = replace(whole, source=replace(src, tags_of=lambda name: None))
    broken(gone, "parent champion", f"models:/{NAME}/1 is gone from the registry")
    other = replace(whole, source=replace(src, tags_of=lambda name: {"content.sha256": "b"}))
    broken(other, "parent champion", "is b, expected a")
    parent = {"run_key": "p", "digest": "d", "version": f"models:/{NAME}/9"}
    told = without(gone, parent_training=parent)
    broken(
        replace(told, source=replace(told.source, facts={**src.facts, "parent": parent})), "parent training", f"models:/{NAME}/9 is gone"
    )


def test_each_link_of_dvc_and_the_repository_is_broken_once(project, tmp_path):
    """Kills: an object known by its name alone; a commit by its name alone; settings that did not train."""
    case = project.case(tmp_path)
    stages = case.lineage.stages
    broken(without(case, stages={}), "stages", "no dvc.lock")
    other = stages["train"].model_copy(update={"deps": {"data/prepared": "0" * 32}})
    broken(without(case, stages={**stages, "train": other}), "stages", "the data/prepared that train read is 000000000000")
    arrow = case.objects.path(case.objects.listed(stages["prepare"].outs["data/prepared"])["val.arrow"])
    was = arrow.read_bytes()
    arrow.write_bytes(b"others")
    broken(case, "DVC objects", "data/prepared of prepare", "other bytes", "`dvc fetch`")
    arrow.unlink()
    broken(case, "DVC objects", "not in DVC's cache, and there is no remote")
    remote = tmp_path / "remote" / arrow.relative_to(project.root / ".dvc" / "cache")
    remote.parent.mkdir(parents=True)
    remote.write_bytes(was)
    case.objects.__dict__["remote"] = str(tmp_path / "remote")
    assert len(list(verify.verify(case))) == len(verify.links())  # what the cache has not, the remote has
    remote.write_bytes(b"others")
    broken(case, "DVC objects", "has other bytes")
    arrow.write_bytes(was)
    case.objects.__dict__["remote"] = None
    tags = {**case.source.tags, "data.digest": "0" * 64}
    claimed = without(case, data_digest="0" * 64)
    facts, evaluation = {**case.source.facts, "data_digest": "0" * 64}, dict(case.source.evaluation)
    evaluation["protocol"] = {**evaluation["protocol"], "data_digest": "0" * 64}
    broken(
        replace(claimed, source=replace(claimed.source, tags=tags, facts=facts, evaluation=evaluation)), "data set", "expected 000000000000"
    )
    broken(without(case, data=case.lineage.data.model_copy(update={"files": {"images": "0" * 64}})), "raw data", "images of data/raw")
    models = stages["fetch"].model_copy(update={"outs": {**stages["fetch"].outs, "models": stages["prepare"].outs["data/prepared"]}})
    swapped = {"fetch": models, **{k: v for k, v in stages.items() if k not in ("fetch", "evaluate")}}
    swapped["train"] = swapped["train"].model_copy(update={"outs": {}})
    broken(without(case, stages=swapped), "trained models", "models/generator.json in DVC is None")
    train = {**case.lineage.settings["train"], "seed": 1}
    broken(without(case, settings={**case.lineage.settings, "train": train}), "settings", "digest of the settings")
    code = case.lineage.code
    broken(without(case, code=code.model_copy(update={"commit": "1" * 40})), "code", "is not in this repository", "git fetch")
    one = {"ganlib/__init__.py": record.File(sha256="0" * 64, is_of_commit=True)}
    broken(without(case, code=code.model_copy(update={"files": {**code.files, **one}})), "code", "sha256 of ganlib/__init__.py at")
    dirty = {"ganlib/__init__.py": record.File(sha256="0" * 64, is_of_commit=False)}
    broken(
        without(case, code=code.model_copy(update={"files": {**code.files, **dirty}})), "code", "ganlib/__init__.py ran as no commit has it"
    )
    ran = stages["train"].model_copy(update={"deps": {**stages["train"].deps, "ganlib": "0" * 32 + ".dir"}})
    broken(without(case, stages={**stages, "train": ran}), "code of the stages", "DVC's md5 of ganlib at", "train ran it otherwise")


def test_a_replay_checks_out_what_ran_and_else_begins_nothing(project, tmp_path):
    """Kills: a training that began before a commit, and is refused though that commit has what ran; a clone made of the wrong commit."""
    case = project.case(tmp_path)
    code, scratch = case.lineage.code, tmp_path / "scratch"
    scratch.mkdir()

    def told(**changes):
        return next(replay.told(without(case, code=code.model_copy(update=changes)), settings().tracking, scratch))

    dirty = {"ganlib/__init__.py": record.File(sha256="0" * 64, is_of_commit=False)}
    with pytest.raises(ValueError, match=r"models:/gan-digits/2 ran ganlib/__init__\.py as no commit has it"):
        told(files=dirty, trained_changed=("ganlib/losses.py",))
    with pytest.raises(ValueError, match=r"the commit 111111111111 of models:/gan-digits/2 is not in a repository of .*; `git fetch --all"):
        told(commit="1" * 40, trained_commit="2" * 40)
    assert not list(scratch.iterdir())
    head = f"commit {code.commit[:12]} in a clean folder"
    assert told(trained_changed=("ganlib/losses.py",), trained_commit="2" * 40) == head
    shutil.rmtree(scratch / "clone")
    assert told(files=dirty, commit="1" * 40) == head  # the one that trained
    shutil.rmtree(scratch / "clone")
    git(project.root, "commit", "-q", "--allow-empty", "-m", "another")
    assert told(trained_commit=git(project.root, "rev-parse", "HEAD")) == head  # settings were recorded with the one that registered
    git(project.root, "reset", "-q", "--soft", code.commit)


def test_a_lineage_that_was_changed_or_never_written_is_said(project):
    """Kills: a lineage.json that vouches for itself."""
    store = project.store
    with pytest.raises(ValueError, match=rf"models:/{NAME}/1 has no lineage\.json: it was registered before"):
        source.lineage_of(store, f"models:/{NAME}/1")
    (path,) = (project.root / "mlartifacts").rglob("lineage.json")
    was = path.read_text()
    path.write_text(was.replace("77", "78"))
    with pytest.raises(ValueError, match=r"its lineage\.json is not the one that was registered \(sha256 \w{12}, expected \w{12}\)"):
        source.lineage_of(store, f"models:/{NAME}@champion")
    path.write_text(was)
    versions.keep(store, NAME, 1, versions.LINEAGE, {"format": 2})
    with pytest.raises(ValueError, match=rf"models:/{NAME}/1: its lineage\.json is of another version of this program: format: Input"):
        source.lineage_of(store, f"models:/{NAME}/1")


def test_a_broken_link_is_the_first_word_of_the_command(project):
    """Kills: a link that is broken, told as MLflow's silence."""
    store, asked = project.store, argparse.Namespace(verb="verify", version=f"models:/{NAME}@champion")
    store.client.set_model_version_tag(NAME, "2", model_registry.DATA, "0" * 64)
    with pytest.raises(BrokenError, match=r"^data digest: tag data\.digest is 000000000000, expected"):
        list(command.run(asked, settings().tracking, project.root))
    store.client.set_model_version_tag(NAME, "2", model_registry.DATA, project.facts["data_digest"])


def test_data_find_their_versions_and_those_that_took_over(project):
    """Kills: a model that began from weights of withdrawn data, left out."""
    store = project.store
    digest = project.facts["data_digest"]
    assert [use.name for use in used.of_data(store, digest[:8])] == [f"models:/{NAME}/2"]
    store.client.set_model_version_tag(NAME, "1", used.PARENT, f"models:/{NAME}/2")
    lines = command.uses(store, digest)
    assert [line.partition(";")[0] for line in lines] == [
        f"models:/{NAME}/2 @challenger @champion  trained on it",
        f"models:/{NAME}/1  took over from models:/{NAME}/2",
    ]
    with pytest.raises(ValueError, match="8 digits"):
        command.uses(store, "abc")
    said = registry.retire_data(store, digest, why="withdrawn by a person")
    assert said[0].startswith(f"{NAME} version 2 is retired")
    assert said[1] == (
        f"models:/{NAME}/1 took over from models:/{NAME}/2 and is not retired: `ganpipe registry retire {NAME} 1 --reason ...` does it"
    )
    assert model_registry.require(store, NAME).state(2) == "retired"


def test_an_environment_says_where_it_is_not_as_the_lock_has_it(tmp_path, monkeypatch):
    """Kills: the lock's versions told as what ran; a GPU that is not told from a CPU."""
    lock = tmp_path / "requirements.txt"
    lock.write_text(f"# torch==0.1\nnumpy==0.0.1 \\\n    --hash=sha256:00\npytest[x]=={pytest.__version__}\nnot-installed-here==1.0 ; x\n")
    found = environment(tmp_path)
    assert (found.lock, found.unlike_lock) == (sha256_file(lock), {"numpy": ("0.0.1", np.__version__)})
    assert (found.python, found.torch) == (platform.python_version(), torch.__version__)
    assert found.device.startswith("GPU " if torch.cuda.is_available() else "CPU ")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _: "H200")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    lock.unlink()
    without = environment(tmp_path)
    assert (without.lock, without.unlike_lock, without.device) == (None, {}, "GPU H200, 2 of them")


def test_every_source_says_where_it_gets_its_bytes(tmp_path):
    """Kills: a new source without a word on it; another address here than there; a package without its version."""
    found = origin.origin("digits", None, tmp_path)
    assert (found.package, found.version) == ("scikit-learn", sklearn.__version__)
    own = {"idx", "image_folder", "parquet"}
    assert origin.ADDRESSES["fashion-mnist"] == fashion_mnist.ADDRESSES
    assert origin.DEBIAN_PACKAGES["fashion-mnist"] == fashion_mnist.DEBIAN_PACKAGE
    known = origin.PYTHON_PACKAGES.keys() | origin.DEBIAN_PACKAGES.keys() | origin.GENERATED
    assert {entry.name for entry in SOURCES} - known == own


def test_an_origin_in_a_store_has_the_digest_of_its_objects(tmp_path):
    """Kills: a version whose page tells the address alone, under which other objects may lie by now."""
    raw = tmp_path / "data" / "raw"
    raw.mkdir(parents=True)
    (raw / "pack").write_bytes(b"1")
    stored = Stored(uri="s3://b/cats", num_files=2, size_bytes=3, sha256="d1" * 32)
    write_source(raw, "image_folder", Fetched(layout="pack", class_names=None), stored)
    found = origin.origin("image_folder", stored.uri, tmp_path)
    assert (found.path, found.stored, list(found.files or {})) == ("s3://b/cats", "d1" * 32, ["pack"])
    write_source(raw, "image_folder", Fetched(layout="pack", class_names=None))
    assert origin.origin("image_folder", "data/incoming", tmp_path).stored is None


def test_weights_that_are_not_the_described_ones_are_refused(tmp_path):
    """Kills: weights of one version under the description of another, loaded."""
    save_file({"w": torch.ones(2)}, tmp_path / "generator.safetensors")
    (tmp_path / "generator.json").write_text(json.dumps({"sha256": "0" * 64}))
    with pytest.raises(ValueError, match=r"generator\.safetensors has sha256 \w{12}, expected 000000000000 \(generator\.json\)"):
        generator.load(tmp_path)


def test_others_code_earns_the_same_figures():
    """torchmetrics and prdc against ours. Kills: population covariances, a biased kernel distance, precision and recall swapped."""
    draw = torch.Generator().manual_seed(3)
    real, fake = torch.randn(150, 6, generator=draw), torch.randn(130, 6, generator=draw) * 0.8 + 0.3
    config = EvaluateConfig(split="test", seed=3, prdc_images=100, neighbours=3, bootstrap=2)
    data = Comparison(real=real, fake=fake, train=real)
    ours = fid(data, config) | kid(data, config) | prdc(data, config)
    theirs = reearn.evaluators()(real, fake, config, ["fid", "kid", *reearn.PRDC])
    assert theirs.keys() == {"fid", "kid", *reearn.PRDC}
    for key, value in theirs.items():
        assert reearn.Figure(key=key, registered=ours[key], found=value).agrees, (key, value, ours[key])
    assert not reearn.Figure(key="fid", registered=1.0, found=1.0021).agrees
