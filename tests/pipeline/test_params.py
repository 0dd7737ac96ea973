"""A mistake in params.yaml is named before any work."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
from ruamel.yaml import YAML

from pipeline import params, preflight

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
        ({"reference__extractor": "rotation"}, r"take class_coverage out of evaluate.metrics"),
        (
            {"reference__extractor": "inception"},
            r"reference.extractor='inception' is not a known feature extractor; legal: auto, classifier, rotation",
        ),
        ({"evaluate__metrics": ["fidd"]}, r"evaluate.metrics='fidd' is not a known metric"),
        ({"train__augment": {"flip": {}}}, r"train.augment='flip' is not a known augmentation \(did you mean 'hflip'\?\)"),
        ({"task__augment": {"ad": {}}}, r"task.augment='ad' is not a known augmentation \(did you mean 'ada'\?\)"),
        ({"task__options": {"fade": 1}}, r"task.options.fade=1 is not a known key"),
        ({"task__label_nose": 0.1}, r"task.label_nose=0.1 is not a known key \(did you mean 'label_noise'\?\)"),
        ({"optim__generator__max_gradient_nrm": 1}, r"optim.generator.max_gradient_nrm=1 .*did you mean 'max_gradient_norm'"),
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
        ({"train__state_uri": "s3:///x"}, r"train.state_uri='s3:///x' is no place"),
        ({"train__state_uri": "s3://b/x?endpoint=y"}, r"unknown option 'endpoint'; legal: endpoint_override, region, scheme"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_mistakes(changes, message):
    with pytest.raises(params.ParamsError, match=message):
        preflight.parse(changed(**changes))


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
