"""The whole of params.yaml before any work: does it name things that exist and fit together? Refuses or stays silent, so no result depends on it."""

import os
from pathlib import Path
from typing import Any

from ganlib import augment, models, optim
from ganlib.data import labels
from ganlib.data.idx import find_pairs
from ganlib.data.sources import SOURCES
from ganlib.data.tree import is_left_out
from ganlib.metrics import EXTRACTORS, METRICS
from ganlib.models import ImageSpec
from ganlib.storage import Address
from ganlib.tasks import TASKS
from pipeline import continuing, generator, schema
from pipeline import params as params_file
from pipeline.params import ParamsError
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
    image = ImageSpec(channels=params.data.channels, size=params.data.image_size, class_counts=counts)
    problems = []
    for look in (
        lambda: SOURCES.get(params.data.source, key="data.source"),
        lambda: models.check(params.model, image),
        lambda: TASKS.get(params.task.name, key="task.name")().check(params.model, params.task, params.train, image),
        lambda: optim.check(params.optim),
        lambda: augment.build(params.train.augment),
        lambda: EXTRACTORS.get(params.reference.extractor, key="reference.extractor"),
        lambda: [METRICS.get(name, key="evaluate.metrics") for name in params.evaluate.metrics],
        lambda: generator.check_truncation(params.model, image, params.sample.truncation),
        lambda: _check_labels(params),
        lambda: _check_classes(params),
        lambda: _check_state(params),
        lambda: continuing.check_start(params.train),
    ):
        try:
            look()
        except ValueError as error:
            problems += [line for line in str(error).splitlines() if line not in problems]
    if problems:
        raise ValueError("\n".join(problems))


def _check_labels(params: Params) -> None:
    data = params.data
    if not params.model.conditional:
        return
    folder, why = params_file.ROOT / data.path, ""
    if data.source == "parquet" and data.label_column is None:
        why = "data.label_column is null"
    elif data.source == "image_folder" and data.classes == "none":
        why = "data.classes is none"
    elif data.source == "image_folder" and folder.is_dir() and not _may_have_classes(folder):
        why = f"{data.path} has no class folders and no file of labels (params.yaml: data.path)"
    elif data.source == "idx" and folder.is_dir() and (pairs := find_pairs(folder)) and pairs[0][1] is None:
        why = f"{data.path} holds no *labels-idx1-ubyte (params.yaml: data.path)"
    if why:  # else the train stage sees it, before it starts any worker
        raise ValueError(f"model.conditional=true needs labelled data, but {why}; label them, or set model.conditional: false")


def _may_have_classes(folder: Path) -> bool:
    """Whether it holds folders, a file of labels or an archive; which classes that makes is known only when they are fetched."""
    with os.scandir(folder) as entries:
        seen = [entry for entry in entries if not is_left_out(entry.name)]
        return any(entry.is_dir() or entry.name in labels.FILES or entry.name.lower().endswith(".zip") for entry in seen)


def _check_classes(params: Params) -> None:
    if "class_coverage" in params.evaluate.metrics and params.reference.extractor not in ("classifier", "auto"):
        raise ValueError(
            f"evaluate.metrics has class_coverage, but reference.extractor={params.reference.extractor!r} knows no classes; "
            "take class_coverage out of evaluate.metrics, or set reference.extractor: classifier, or auto"
        )


def _check_state(params: Params) -> None:
    uri = params.train.state_uri
    if "://" in uri:  # only its form: whether the store answers shows when the training begins
        Address.parse(uri)
        return
    folder = Path(uri)
    if folder.exists() and not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise ValueError(f"train.state_uri={uri!r} is not a folder that can be written to")
