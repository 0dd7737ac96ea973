"""A mistake in params.yaml is named before any work."""

import copy
import runpy
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

from ganlib.data.arrow import ArrowWriter, write_manifest
from pipeline import names, params, preflight

ROOT = Path(__file__).resolve().parents[2]
GOOD = YAML(typ="safe").load((ROOT / "params.yaml").read_text())


def changed(**changes):
    values = copy.deepcopy(GOOD)
    for key, value in changes.items():
        *path, last = key.split("__")
        section = values
        for part in path:
            section = section[part]
        section[last] = value
    return values


def test_lengths_in_w_are_given_by_networks_with_styles():
    preflight.parse(
        changed(
            register__metric="path_length_w", model__name="stylegan2", model__generator={}, model__discriminator={}, task__regularizers={}
        )
    )


def test_the_shipped_file_is_good():
    assert preflight.load(ROOT / "params.yaml").data.source == "fashion-mnist"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model__nmae": "dcgan"},
            r"model.nmae='dcgan' is not a known key \(did you mean 'name'\?\); legal: conditional, discriminator, generator",
        ),
        ({"trian": {}}, r"trian=\{\} is not a known key \(did you mean 'train'\?\)"),
        ({"model__name": "dcgna"}, r"model.name='dcgna' is not a known network family \(did you mean 'dcgan'\?\); legal: .*dcgan, .*mlp"),
        ({"task__loss": "hing"}, r"task.loss='hing' is not a known loss \(did you mean 'hinge'\?\)"),
        ({"train__total_images": "lots"}, r"train.total_images='lots': input should be a valid integer"),
        (
            {"train__batch_images": 100, "train__logical_workers": 8},
            r"batch_images=100 does not divide over logical_workers=8; nearest: 96 or 104",
        ),
        ({"cluster__workers": 3}, r"cluster.workers=3 does not divide train.logical_workers=2; legal: 1, 2"),
        (
            {"data__image_size": [30, 30]},
            r"data.image_size=\[30, 30\] cannot be made by model.name=dcgan.*nearest: \[28, 28\] or \[32, 32\]",
        ),
        ({"data__source": "fashion"}, r"data.source='fashion' is not a known data source \(did you mean 'fashion-mnist'\?\)"),
        ({"data__resize": "cubic"}, r"data.resize='cubic': input should be 'lanczos', 'bicubic'"),
        ({"model__generator": {"widht": 3}}, r"model.generator.widht=3 is not a known key \(did you mean 'width'\?\)"),
        ({"task__regularizers": {"gradient_penalty": {}}}, r"gradient_penalty penalises.*set model.discriminator.normalization: none"),
        ({"task__regularizers": {"r1": {"gama": 1}}}, r"task.regularizers.r1.gama=1 is not a known key \(did you mean 'gamma'\?\)"),
        ({"optim__generator__name": "adamw2"}, r"optim.generator.name='adamw2' is not a known optimizer"),
        (
            {"optim__generator__lr": {"schedule": "linear", "from": 1e-3, "to": 0.0, "begin_images": 400_000}, "optim__decay": "none"},
            r"optim.generator.lr: begins to move at 400,000 images and is at `to` at 380,000",
        ),
        (
            {"task__regularizers": {"r1": {"gamma": {"schedule": "linear", "from": 1.0, "to": 0.0, "begin_share": 0.5, "end_images": 9}}}},
            r"task.regularizers.r1.gamma: begins to move at 190,000 images",
        ),
        (
            {"optim__generator__lr": {"schedule": "linear", "from": 1e-3, "to": 0.0}},
            r"optim.decay=linear would lower optim.generator.lr.*set optim.decay: none",
        ),
        (
            {"task__regularizers": {"r1": {"interval_steps": {"schedule": "linear", "from": 1, "to": 16}}}},
            r"task.regularizers.r1.interval_steps=.* is a schedule, and this setting cannot follow one; those that can: gamma",
        ),
        ({"reference__extractor": "rotation"}, r"take class_coverage out of evaluate.metrics"),
        ({"reference__extractor": ["rotation", "pixels"]}, r"take class_coverage out of evaluate.metrics"),
        ({"reference__extractor": ["rotation", "rotation"]}, r"must name each extractor once"),
        ({"reference__extractor": "torchscript:data/extractors/none.pt"}, r"there is no such file"),
        ({"register__metric": "fid@rotation"}, r"register.metric='fid@rotation' is given by none"),
        (
            {"register__metric": "class_coverage@rotation", "reference__extractor": ["classifier", "rotation"]},
            r"given by none of evaluate.metrics.*legal: fid, fid@rotation, kid, kid@rotation",
        ),
        (
            {"reference__extractor": "inception"},
            r"reference.extractor='inception' is not a known feature extractor; legal: classifier, efficientnet_lite0, .*, auto, torchscript:",
        ),
        (
            {"sample__num_images": 5},
            r"sample.num_images=5, but prdc with evaluate.neighbours=5 needs at least 6; set sample.num_images: 6 or more or lower",
        ),
        ({"sample__num_images": 9, "evaluate__neighbours": 2}, r"sample.num_images=9, but kid needs at least 10"),
        ({"evaluate__prdc_images": 10, "evaluate__neighbours": 10}, r"evaluate.neighbours=10 is not below evaluate.prdc_images=10"),
        ({"evaluate__metrics": ["fid", "usefulness"]}, r"usefulness, which needs samples of classes, .*set model.conditional: true"),
        ({"register__metric": "fdi"}, r"register.metric='fdi' is given by none of evaluate.metrics.*legal: fid, kid, precision"),
        ({"register__metric": "label_agreement"}, r"register.metric='label_agreement' is given by none"),
        ({"register__metric": "path_length_w"}, r"register.metric='path_length_w' is given by none.*path_length_z; or add"),
        (
            {"register__metric": "discriminator_auc@rotation", "reference__extractor": ["classifier", "rotation"]},
            r"register.metric='discriminator_auc@rotation' is given by none",
        ),
        ({"evaluate__metrics": ["kid"]}, r"register.metric='fid' is given by none of evaluate.metrics=\['kid'\]; legal: kid"),
        ({"sample__classes": ["cat"]}, r"sample.classes names classes, but the generator is told none"),
        (
            {"train__batch_images": 2},
            r"batch_images=2 over train.logical_workers=2 is one image a shard, and the generator of model.name='dcgan' has batch norm",
        ),
        ({"evaluate__metrics": ["fidd"]}, r"evaluate.metrics='fidd' is not a known metric"),
        ({"train__augment": {"flip": {}}}, r"train.augment='flip' is not a known augmentation \(did you mean 'hflip'\?\)"),
        ({"task__augment": {"ad": {}}}, r"task.augment='ad' is not a known augmentation \(did you mean 'ada'\?\)"),
        ({"task__options": {"fade": 1}}, r"task.options.fade=1 is not a known key"),
        ({"task__label_nose": 0.1}, r"task.label_nose=0.1 is not a known key \(did you mean 'label_noise'\?\)"),
        ({"optim__generator__max_gradient_nrm": 1}, r"optim.generator.max_gradient_nrm=1 .*did you mean 'max_gradient_norm'"),
        (
            {"model__critic": {"width": 8}},
            r"model.critic=\{'width': 8\} is not a known key; legal: .*latent_dim.* of task.name='adversarial': generator, discriminator\)",
        ),
        (
            {"optim__critic": {"lr": 1e-3}},
            r"optim.critic=.* is not a known key; legal: decay, decay_from, discriminator, generator, warmup_images",
        ),
        (
            {"optim__warmup": 100},
            r"optim.warmup=100 is not a known key \(did you mean 'warmup_images'\?\); legal: .*, or the name of a network",
        ),
        ({"task__name": "adverserial"}, r"task.name='adverserial' is not a known task \(did you mean 'adversarial'\?\)"),
        ({"train__freeze": {"critic": ["*"]}}, r"train.freeze names the network 'critic'; legal: generator, discriminator"),
        ({"model__discriminator": 3}, r"model.discriminator=3: input should be a valid dictionary"),
        ({"sample__truncation": 0}, r"sample.truncation=0: input should be greater than 0"),
        ({"sample__truncation": 0.7}, r"sample.truncation=0.7, but .*model.name='dcgan' has no styles.*style-based family: .*stylegan2"),
        (
            {"model__conditional": True, "data__source": "parquet", "data__label_column": None},
            r"model.conditional=true needs labelled data, but data.label_column is null",
        ),
        (
            {"train__state_uri": "hdfs://host/x"},
            r"train.state_uri='hdfs://host/x' is no place .*; legal: a folder, s3://bucket/prefix, gs://bucket",
        ),
        (
            {"data__path": "s3://b/x", "data__source": "idx"},
            r"data.path='s3://b/x' is no path of this machine; set data.source_uri to it, and data.path: data/incoming",
        ),
        ({"data__source_uri": "photos", "data__source": "idx"}, r"data.source_uri='photos' is no address of an object store; legal: s3://"),
        ({"data__source_uri": "s3://b/x", "data__source": "digits"}, r"data.source=digits reads no files, and data.source_uri names some"),
        ({"data__store_uri": "store"}, r"data.store_uri='store' is relative, and every node looks for it; set an absolute folder"),
        ({"data__store_uri": "ftp://host/x"}, r"data.store_uri='ftp://host/x' is no place .*; legal: a folder, s3://bucket/prefix"),
        ({"train__state_uri": "s3:///x"}, r"train.state_uri='s3:///x' is no place"),
        ({"train__state_uri": "s3://b/x?endpoint=y"}, r"unknown option 'endpoint'; legal: endpoint_override, region, scheme"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes(changes, message):
    with pytest.raises(params.ParamsError, match=message):
        preflight.parse(changed(**changes))


@pytest.mark.parametrize("uri", ["s3://b/My Cats?region=r", "gs://b/photos.zip", "az://c/x"])
@pytest.mark.parametrize("source", ["image_folder", "idx", "parquet"])
def test_files_in_a_store_are_looked_at_when_they_are_fetched(tmp_path, uri, source):
    """Kills: a look for classes in the local folder that nobody reads, and a model that is named after it."""
    settings = changed(model__conditional=True, data__path=str(tmp_path), data__source_uri=uri, data__source=source)
    data = preflight.parse(settings).data
    assert names.model_name("auto", source=source, path=data.place) in ("gan-my-cats", "gan-photos", "gan-x")


def test_a_condition_on_files_without_classes(tmp_path):
    files = {"model__conditional": True, "data__path": str(tmp_path)}
    (tmp_path / "a.png").touch()
    with pytest.raises(params.ParamsError, match="has no class folders"):
        preflight.parse(changed(**files, data__source="image_folder"))
    (tmp_path / "@eaDir").mkdir()
    with pytest.raises(params.ParamsError, match="has no class folders and no file of labels"):
        preflight.parse(changed(**files, data__source="image_folder"))
    for name in ("labels.csv", "dump.zip"):
        (tmp_path / name).touch()
        assert preflight.parse(changed(**files, data__source="image_folder")).model.conditional
        (tmp_path / name).unlink()
    (tmp_path / "cats").mkdir()
    assert preflight.parse(changed(**files, data__source="image_folder")).model.conditional
    with pytest.raises(params.ParamsError, match=r"but data\.classes is none"):
        preflight.parse(changed(**files, data__source="image_folder", data__classes="none"))
    (tmp_path / "train-images-idx3-ubyte").touch()
    with pytest.raises(params.ParamsError, match=r"holds no \*labels-idx1-ubyte"):
        preflight.parse(changed(**files, data__source="idx"))
    (tmp_path / "train-labels-idx1-ubyte").touch()
    assert preflight.parse(changed(**files, data__source="idx")).model.conditional


def test_truncation_for_a_family_with_styles():
    values = changed(sample__truncation=0.7, model__name="stylegan2", model__generator={}, model__discriminator={})
    assert preflight.parse(values).sample.truncation == 0.7


@pytest.mark.parametrize(
    "uri", ["s3://bucket/prefix?endpoint_override=127.0.0.1:9&scheme=http", "gs://bucket/prefix", "az://container/prefix"]
)
def test_an_object_store_is_a_place_for_state_and_is_not_asked_yet(uri):
    assert preflight.parse(changed(train__state_uri=uri)).train.state_uri == uri


def test_every_mistake_is_listed_at_once():
    with pytest.raises(params.ParamsError) as raised:
        preflight.parse(changed(model__name="x", task__loss="y", data__source="z"))
    assert all(key in str(raised.value) for key in ("model.name='x'", "task.loss='y'", "data.source='z'"))


def test_a_network_without_an_optimizer_is_named():
    values = changed()
    del values["optim"]["discriminator"]
    with pytest.raises(params.ParamsError, match=r"optim.discriminator is missing; add it to params.yaml"):
        preflight.parse(values)


def test_a_missing_section_is_named():
    values = changed()
    del values["optim"]
    with pytest.raises(params.ParamsError, match=r"optim is missing; add it to params.yaml"):
        preflight.parse(values)


@pytest.mark.parametrize("text", ["a: [1, 2", "- 1\n- 2\n", ""])
def test_a_file_that_is_no_mapping(tmp_path, text):
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(params.ParamsError, match=r"params.yaml (cannot be read|holds)"):
        preflight.load(path)


def test_numbers_are_read_as_dvc_reads_them(tmp_path):
    path = tmp_path / "params.yaml"
    path.write_text((ROOT / "params.yaml").read_text().replace("3.2e-3", "4e-4"))
    assert preflight.load(path).optim.generator.lr == 4e-4


def test_a_stage_prints_one_message_and_no_traceback(tmp_path):
    import shutil

    for name in ("ganlib", "pipeline"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", tmp_path)
    (tmp_path / "params.yaml").write_text((ROOT / "params.yaml").read_text().replace("loss: non_saturating", "loss: non_saturatin"))
    done = subprocess.run([sys.executable, "-m", "pipeline.stages.fetch"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 1
    assert "did you mean 'non_saturating'?" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "data").exists()


def prepared(root: Path, *, test: int, val: int = 0, classes: tuple[int, ...] | None = (60, 60, 0)) -> Path:
    """data/prepared as far as a check of its counts looks: the manifest of real, black images."""
    folder = root / "data" / "prepared"
    folder.mkdir(parents=True)
    names = None if classes is None else ["cat", "dog", "never"]
    counts: dict[str, list[int] | None] = {}
    for split, n in (("train", 120), ("val", val), ("test", test)):
        labels = np.arange(n) % 2
        with ArrowWriter(folder / f"{split}.arrow", shape=(1, 2, 2), class_names=names) as writer:
            writer.append(np.zeros((n, 1, 2, 2), np.uint8), None if names is None else labels)
        counts[split] = None if classes is None else np.bincount(labels, minlength=3).tolist()
    counts["train"] = None if classes is None else list(classes)
    write_manifest(folder, class_names=names, class_counts=counts)
    return root


@pytest.mark.parametrize(
    ("data", "changes", "message"),
    [
        (
            {"test": 0},
            {},
            r"the test split has 0 images to compare with, but fid needs at least 2; raise data.test_fraction, choose another",
        ),
        (
            {"test": 5},
            {},
            r"5 images to compare with, but prdc with evaluate.neighbours=5 needs at least 6; .*or lower evaluate.neighbours",
        ),
        ({"test": 200}, {"evaluate__split": "val"}, r"the val split has 0 images"),
        (
            {"test": 200, "classes": None},
            {"reference__extractor": "classifier"},
            r"has no labelled classes; set reference.extractor: auto, or .*rotation.* and leave .*: class_coverage",
        ),
        ({"test": 200, "classes": (120, 0, 0)}, {"reference__extractor": "classifier"}, r"has 1 labelled classes"),
        ({"test": 10}, {"model__conditional": True, "sample__classes": ["cat"]}, r"the test split has 5 images"),
        ({"test": 200}, {"model__conditional": True, "sample__classes": ["cats"]}, r"did you mean 'cat'"),
        ({"test": 200}, {"model__conditional": True, "sample__classes": ["never"]}, r"a class without training images"),
    ],
)
def test_data_that_are_not_enough_for_a_later_stage_are_refused_before_any_training(data, changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        preflight.check_data(preflight.parse(changed(**changes)), prepared(tmp_path, **data))


def test_data_that_are_few_are_warned_of(tmp_path):
    settings = preflight.parse(changed())
    few = preflight.check_data(settings, prepared(tmp_path / "few", test=7))
    assert len(few) == 2
    assert "fid of 7 held-out and 10,000 generated images in 128 features: a covariance of 7 images has rank 6 of 128" in few[0]
    assert "about 1.7 times the variance" in few[0]
    assert (
        "of 7 held-out images, memorization, duplicates, swd, spectrum, two_sample, discriminator, membership are nothing to rely on: below 100"
        in few[1]
    )
    assert preflight.check_data(settings, prepared(tmp_path / "enough", test=129)) == []
    assert len(preflight.check_data(preflight.parse(changed(sample__num_images=128)), tmp_path / "enough")) == 1


@pytest.mark.parametrize("name", ["reference", "train", "evaluate"])
def test_a_stage_after_prepare_asks_whether_the_data_are_enough(name, tmp_path, monkeypatch, capsys):
    """Kills the mutant that checks the data in one stage alone: dvc may begin with any of them."""
    root = prepared(tmp_path, test=1)
    shutil.copy(ROOT / "params.yaml", root)
    monkeypatch.setattr(params, "project", lambda: root)
    monkeypatch.setattr(params, "clone", lambda: ROOT)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit):
        runpy.run_path(str(ROOT / "pipeline" / "stages" / f"{name}.py"), run_name="__main__")
    assert "the test split has 1 images to compare with" in capsys.readouterr().err


def test_one_image_a_shard_is_enough_without_batch_norm():
    networks = {"model__name": "mlp", "model__generator": {}, "model__discriminator": {}}
    assert preflight.parse(changed(train__batch_images=2, **networks)).train.shard_images == 1
