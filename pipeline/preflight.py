"""The whole of params.yaml before any work: does it name things that exist and fit together, and, once the data are prepared, is there enough of them
for every later stage? Refuses, warns or stays silent, so no result depends on it."""

import os
from pathlib import Path
from typing import Any

from ganlib import augment, models, optim, tasks
from ganlib.data import decoders, labels, stored
from ganlib.data.arrow import Manifest, read_manifest
from ganlib.data.idx import find_pairs
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES
from ganlib.data.tree import is_left_out
from ganlib.fields import IMAGE
from ganlib.metrics import EXTRACTORS, METRICS, choice, measure, needs
from ganlib.metrics.interface import depth_of
from ganlib.modalities import MODALITIES
from ganlib.models import ImageSpec
from ganlib.models.layers.norm import BatchNorm
from ganlib.products import Column
from ganlib.redact import redacted
from ganlib.samples import asked_classes, check_format
from ganlib.schedule import written_in
from ganlib.storage import Address
from pipeline import continuing, forms, generator, names, schema
from pipeline import params as params_file
from pipeline.params import ParamsError
from pipeline.provenance.origin import GENERATED, PYTHON_PACKAGES
from pipeline.schema import Params


def load(path: Path | None = None) -> Params:
    """params.yaml of this project, checked.

    Raises:
        ParamsError: unreadable YAML, unknown keys, wrong types or values, unknown names, things that do not fit together.
    """
    return parse(params_file.read(path))


def parse(values: dict[str, Any]) -> Params:
    """A parsed params.yaml, checked.

    Raises:
        ParamsError: one line a problem.
    """
    params = schema.parse(values)
    try:
        check(params)
    except ValueError as error:
        raise ParamsError(f"params.yaml cannot be used:\n{error}") from None
    return params


def check(params: Params) -> None:
    """Raise ValueError with one line a problem: unknown names, options that do not belong, sizes a network cannot make."""
    counts = (1, 1) if params.model.conditional else ()  # which classes there are is known only with the data
    image = _image(params, counts)
    problems = []
    for look in (
        lambda: SOURCES.get(params.data.source, key="data.source"),
        lambda: _check_place(params.data),
        lambda: _check_columns(params),
        lambda: tasks.of(params.task).check(params.model, params.task, params.train, image),
        lambda: optim.check(params.optim),
        lambda: _check_schedules(params),
        lambda: augment.build(params.train.augment),
        lambda: choice.check(params.reference.extractor, channels=params.data.channels, root=params_file.ROOT),
        lambda: _check_metrics(params),
        lambda: check_format(params.sample.format, params.data.modality),
        lambda: generator.check_truncation(params.model, image, params.sample.truncation),
        lambda: _check_labels(params),
        lambda: _check_shards(params, image),
        lambda: _check_state(params),
        lambda: continuing.check_start(params.train),
        lambda: forms.require_onnx(named="register.onnx: true") if params.register_.onnx else None,
        lambda: names.model_name(params.register_.model, source=params.data.source, path=params.data.place),
    ):
        try:
            look()
        except ValueError as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
    if problems:
        raise ValueError("\n".join(problems))


def _image(params: Params, class_counts: tuple[int, ...] = ()) -> ImageSpec:
    def spec(data: DataConfig) -> ImageSpec:
        return ImageSpec(channels=data.channels, size=data.image_size, modality=data.modality)

    columns = {name: spec(params.data.of_column(name)) for name in params.data.columns}
    return spec(params.data).model_copy(update={"class_counts": class_counts, "columns": columns})


def _check_place(data: DataConfig) -> None:
    """Only its form: whether the store answers, and has something there, shows when the fetch begins."""
    if "://" in data.path:  # DVC would ask the store at each of its commands, by a client and settings of its own
        raise ValueError(
            f"data.path={redacted(data.path)!r} is no path of this machine; set data.source_uri to it, and data.path: data/incoming"
        )
    if data.source_uri is None:
        return
    stored.check(data.source_uri)
    if data.source in PYTHON_PACKAGES or data.source in GENERATED:
        raise ValueError(
            f"data.source={data.source} reads no files, and data.source_uri names some; set it to null, or another data.source"
        )


def _check_columns(params: Params) -> None:
    MODALITIES.get(params.data.modality, key="data.modality")
    decoders.of(params.data)
    if (store := params.data.store_uri) is not None:
        if "://" in store:
            Address.parse(store, key="data.store_uri")
        elif not Path(store).is_absolute():
            raise ValueError(
                f"data.store_uri={store!r} is relative, and every node looks for it; set an absolute folder, or an address such as s3://bucket/prefix"
            )
    for name, column in params.data.columns.items():
        MODALITIES.get(column.modality, key=f"data.columns.{name}.modality")
        decoders.of(params.data.of_column(name))


def _check_schedules(params: Params) -> None:
    for section in ("task", "optim", "train"):
        for key, schedule in written_in(getattr(params, section), section):
            schedule.check(params.train.total_images, key=key)


def _check_labels(params: Params) -> None:
    data = params.data
    if not params.model.conditional:
        return
    folder, why = params_file.ROOT / data.path, ""
    is_here = data.source_uri is None
    if data.source == "parquet" and data.label_column is None:
        why = "data.label_column is null"
    elif data.source == "image_folder" and data.classes == "none":
        why = "data.classes is none"
    elif data.source == "image_folder" and is_here and folder.is_dir() and not _may_have_classes(folder):
        why = f"{data.path} has no class folders and no file of labels (params.yaml: data.path)"
    elif data.source == "idx" and is_here and folder.is_dir() and (pairs := find_pairs(folder)) and pairs[0][1] is None:
        why = f"{data.path} holds no *labels-idx1-ubyte (params.yaml: data.path)"
    if why:  # else the train stage sees it, before it starts any worker
        raise ValueError(f"model.conditional=true needs labelled data, but {why}; label them, or set model.conditional: false")


def _may_have_classes(folder: Path) -> bool:
    """Whether it holds folders, a file of labels or an archive; which classes that makes is known only when they are fetched."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not is_left_out(entry.name)]
        return any(entry.is_dir() or entry.name in labels.FILES or entry.name.lower().endswith(".zip") for entry in seen)


def _extractors(params: Params, *, num_classes: int) -> dict[str, Any]:
    """Label -> class of what reference.extractor comes to for so many classes, the main one first."""
    names = choice.resolved(choice.asked(params.reference.extractor), channels=params.data.channels, num_classes=num_classes)
    return {choice.label(name): choice.kind(name) for name in names}


def _metrics(params: Params) -> dict[str, Any]:
    return {name: METRICS.get(name, key="evaluate.metrics") for name in params.evaluate.metrics}


def _check_metrics(params: Params) -> None:
    """What each metric needs of the settings, and whether one of them gives the number that decides."""
    metrics, problems = _metrics(params), []
    extractors = _extractors(params, num_classes=2)
    if not any(extractor.knows_classes for extractor in extractors.values()):
        know = ", ".join(entry.name for entry in EXTRACTORS if entry.value.knows_classes)
        problems += [
            f"evaluate.metrics has {name}, but reference.extractor={params.reference.extractor!r} knows no classes; "
            f"take {name} out of evaluate.metrics, or set reference.extractor: auto, or to one that does: {know}"
            for name, metric in metrics.items()
            if needs.of(metric).classes
        ]
    if (modality := params.data.modality) != IMAGE and modality in MODALITIES.names():
        problems += [
            f"evaluate.metrics has {name}, which looks at pictures, and data.modality={modality!r} makes none; take {name} out of evaluate.metrics"
            for name, metric in metrics.items()
            if needs.of(metric).of_pictures
        ]
    if not params.model.conditional:
        problems += [
            f"evaluate.metrics has {name}, which needs samples of classes, but the generator is told none; "
            f"take {name} out of evaluate.metrics, or set model.conditional: true"
            for name, metric in metrics.items()
            if needs.of(metric).conditional
        ]
    problems += needs.lacking(metrics, params.evaluate, num_fake=params.sample.num_images)
    has_styles = models.MODELS.get(params.model.name, key="model.name").has_styles
    given = [
        name
        for need in map(needs.of, metrics.values())
        if _is_given(need, params)
        for name in measure.keys(
            [
                value.key
                for value in need.gives
                if (params.model.conditional or not value.is_conditional) and (has_styles or not value.is_of_styles)
            ],
            list(extractors)[: 1 if need.is_measured_once else None],
        )
        if not need.generator or any(extractor.takes_float for extractor in extractors.values())
    ]
    if params.register_.metric not in [name + end for name in given for end in ("", *measure.ENDS)]:
        problems.append(
            f"register.metric={params.register_.metric!r} is given by none of evaluate.metrics={params.evaluate.metrics}; "
            f"legal: {', '.join(given) or 'none, as no metric is measured'}; or add the metric to evaluate.metrics"
        )
    known = needs.values()
    problems += [
        f"register.limits.{key} is no number of any metric; legal: {', '.join(known)}"
        for key in params.register_.limits
        if key not in known
    ]
    if params.sample.classes is not None and not params.model.conditional:
        problems.append(
            "sample.classes names classes, but the generator is told none; set sample.classes: null, or model.conditional: true"
        )
    if problems:
        raise ValueError("\n".join(problems))


def _is_given(need: needs.Needs, params: Params) -> bool:
    """Whether the task has what a metric looks at beside samples; where it has not, the metric is left out."""
    task = tasks.of(params.task)
    image = _image(params)
    if need.pairs and not any(product.has_truth for product in task.products(params.model, params.task, image)):
        return False
    return not need.discriminator or "discriminator" in task.networks(params.task).values()


def _check_shards(params: Params, image: ImageSpec) -> None:
    """Batch norm over one image removes what tells it from others; of a layer without pixels it cannot even be computed."""
    if params.train.shard_images > 1:
        return
    for name, network in tasks.of(params.task).meta_networks(params.model, params.task, image).items():
        if any(isinstance(module, BatchNorm) for module in network.modules()):
            raise ValueError(
                f"train.batch_images={params.train.batch_images} over train.logical_workers={params.train.logical_workers} is one image a shard, "
                f"and the {name} of model.name={params.model.name!r} has batch norm, whose statistics are a shard's; "
                f"set train.batch_images: {2 * params.train.logical_workers} or more, or fewer train.logical_workers"
            )


def check_data(params: Params, root: Path) -> list[str]:
    """Whether the prepared images are enough for every later stage; returns warnings: numbers that will be computed and are nothing to rely on.

    Raises:
        ValueError: one line a problem, each with what to set.
    """
    manifest = read_manifest(root / "data" / "prepared")
    metrics, split = _metrics(params), manifest.splits[params.evaluate.split]
    num_real, problems = split.images, []
    have = sum(count > 0 for count in manifest.splits["train"].class_counts or ())
    extractors = _extractors(params, num_classes=have)
    if have < 2 and any(extractor.needs_classes for extractor in extractors.values()):
        without = " or ".join(entry.name for entry in EXTRACTORS if not entry.value.needs_classes)
        problems.append(
            f"reference.extractor={params.reference.extractor!r} learns the classes, but the train split has {have or 'no'} labelled classes; "
            f"set reference.extractor: auto, or {without} and leave out of evaluate.metrics: "
            f"{', '.join(name for name, metric in metrics.items() if needs.of(metric).classes) or 'nothing'}"
        )
    elif have < 2:  # what there is nothing to cover for is left out
        metrics = {name: metric for name, metric in metrics.items() if not needs.of(metric).classes}
    try:
        asked = _asked(params, manifest)
        if asked and split.class_counts is not None:  # others are not compared with
            num_real = sum(split.class_counts[number] for number in asked)
    except ValueError as error:
        problems.append(str(error))
    problems += needs.lacking_real(metrics, params.evaluate, num_real=num_real)
    num_fake = params.sample.num_images
    fed_with_images = [
        isinstance(product.feed, Column) for product in tasks.of(params.task).products(params.model, params.task, _image(params))
    ]
    if any(fed_with_images) and not (manifest.splits["test"].images or manifest.splits["val"].images):
        problems.append(generator.NO_HELD_OUT)
    elif fed_with_images[0]:  # one of each
        num_fake = min(num_fake, manifest.splits["test"].images or manifest.splits["val"].images)
        problems += needs.lacking(metrics, params.evaluate, num_fake=num_fake)
    if problems:
        raise ValueError("the prepared data are not enough for a later stage:\n" + "\n".join(problems))
    dims = {
        (name, label): extractor.feature_dims.get(depth_of(extractor, needs.of(metric).depth), 0)  # 0: only the data or a file say how many
        for name, metric in metrics.items()
        for label, extractor in extractors.items()
        if needs.of(metric).above_features
    }
    warnings = [
        line
        for (name, _), dim in dims.items()
        for line in needs.doubtful({name: metrics[name]}, num_real=num_real, num_fake=num_fake, feature_dim=dim)
    ]
    warnings += needs.doubtful(metrics, num_real=num_real, num_fake=num_fake, feature_dim=0)  # what no features decide
    return list(dict.fromkeys(warnings))


def _asked(params: Params, manifest: Manifest) -> dict[int, int | None]:
    return asked_classes(params.sample.classes, manifest.class_names or (), manifest.splits["train"].class_counts or ())


def _check_state(params: Params) -> None:
    uri = params.train.state_uri
    if "://" in uri:  # only its form: whether the store answers shows when the training begins
        Address.parse(uri)
        return
    folder = Path(uri)
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"train.state_uri={uri!r} is not a folder that can be written to")
