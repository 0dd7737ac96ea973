"""`reearn`: a version's figures measured again by code of other people, on the same features.

Frechet and kernel distance by torchmetrics, precision, recall, density and coverage by their authors' package `prdc`. Images are drawn anew from the
registered weights; features are those of the extractor in data/reference, whose sha256 is part of the protocol.
"""

import contextlib
import importlib
import io
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ganlib.data.arrow import ArrowImages
from ganlib.metrics import measure
from ganlib.metrics.reference_store import Reference
from ganlib.metrics.settings import EvaluateConfig
from ganlib.rng import keyed_rng
from ganlib.sample_settings import SampleConfig
from ganlib.samples import Samples
from pipeline import params
from pipeline.provenance.case import Case
from pipeline.provenance.objects import Objects
from pipeline.provenance.record import Lineage
from pipeline.stages.sample import sample

TOLERANCE = 1e-3  # of a figure, or of 1 where it is smaller
PRDC = ("precision", "recall", "density", "coverage")
PACKAGES = {"torchmetrics": "torchmetrics==1.9.0", "prdc": "prdc==0.2"}  # not needed to run the pipeline: requirements-test.in


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A number by two programs."""

    key: str
    registered: float
    found: float

    @property
    def agrees(self) -> bool:
        return abs(self.found - self.registered) <= TOLERANCE * max(1.0, abs(self.registered))


def told(case: Case, scratch: Path) -> Iterator[str]:
    """A line a figure.

    Raises:
        ValueError: one that differs, or nothing to measure it with.
    """
    bad = []
    for figure in figures(case.lineage, case.source.evaluation, case.source.files, case.objects, case.root, scratch):
        verdict = "agrees" if figure.agrees else "DIFFERS"
        yield f"{figure.key}: registered {figure.registered:.6g}, by others {figure.found:.6g}: {verdict}"
        bad += [] if figure.agrees else [figure]
    if bad:
        raise ValueError(
            f"{case.source.name}: {', '.join(figure.key for figure in bad)} cannot be earned again within {TOLERANCE:g}; "
            f"`ganpipe lineage verify {case.source.name}` says whether weights, data and reference are those that were measured"
        )


def figures(
    of: Lineage, evaluation: Mapping[str, Any], files: Mapping[str, Path], objects: Objects, root: Path, scratch: Path
) -> list[Figure]:
    """The figures that others have code for.

    Args:
        files: generator.json and weights, by name.

    Raises:
        ValueError: torchmetrics or prdc are not there; nor are the data or the reference that it was measured on.
    """
    theirs = evaluators()
    copy = _workplace(of, files, objects, root, scratch / "again")
    sample(_drawing(of), copy)
    protocol, config = evaluation["protocol"], params.validated(of.settings["evaluate"], EvaluateConfig, key="evaluate")
    reference = Reference.read(copy / "data" / "reference", data_digest=of.data_digest)
    _require_extractors(protocol, reference)
    images = Samples(copy / "samples")
    fake = measure.extract(reference, images)
    rows = _asked(copy, reference, protocol["split"], images.facts.drawn_classes)
    real = measure.stored(reference, protocol["split"], rows)
    found = []
    for place, keys in protocol["read_from"].items():
        label, _, depth = place.rpartition("/")
        for suffix in ("", f"@{label}"):
            asked = {key.removesuffix(suffix): key for key in keys if key.partition("@")[2] == suffix.removeprefix("@")}
            if not asked or label not in fake:
                continue
            values = theirs(real[label][depth], fake[label][depth], config, sorted(asked))
            found += [Figure(key=asked[name], registered=evaluation[asked[name]], found=value) for name, value in values.items()]
    return found


def evaluators() -> Callable[[Tensor, Tensor, EvaluateConfig, Sequence[str]], dict[str, float]]:
    """(real [n, d], fake [m, d], settings, names) -> the numbers that others have code for, by name.

    Raises:
        ValueError: their packages are not there.
    """
    try:
        fid, kid = (importlib.import_module(f"torchmetrics.image.{name}") for name in ("fid", "kid"))
        theirs = importlib.import_module("prdc")
    except ImportError as problem:
        raise ValueError(f"{problem}; they are not needed to run the pipeline: pip install {' '.join(PACKAGES.values())}") from None

    def by_others(real: Tensor, fake: Tensor, config: EvaluateConfig, names: Sequence[str]) -> dict[str, float]:
        r, f = real.double(), fake.double()
        values = {}
        if "fid" in names:
            values["fid"] = float(fid._compute_fid(r.mean(0), torch.cov(r.T), f.mean(0), torch.cov(f.T)))
        if "kid" in names:  # of all images at once: 24 bytes for each pair
            values["kid"] = float(kid.poly_mmd(r, f)) if len(r) == len(f) else _mmd(kid.poly_kernel, r, f)
        if set(PRDC) & set(names):
            n = min(len(r), len(f), config.prdc_images)
            chosen = [
                x[torch.randperm(len(x), generator=keyed_rng(config.seed, f"prdc {kind}"))[:n]] for kind, x in (("real", r), ("fake", f))
            ]
            with contextlib.redirect_stdout(io.StringIO()):  # it tells the counts
                found = theirs.compute_prdc(chosen[0].numpy(), chosen[1].numpy(), nearest_k=config.neighbours)
            values |= {name: float(found[name]) for name in PRDC if name in names}
        return values

    return by_others


def _mmd(kernel: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> float:
    """arXiv:1801.01401, eq. 4, of a kernel of theirs: their own sums are of equally many images."""
    n, m = len(x), len(y)
    inside = [float((k.sum() - k.trace()) / (c * (c - 1))) for k, c in ((kernel(x, x), n), (kernel(y, y), m))]
    return sum(inside) - 2 * float(kernel(x, y).mean())


def _drawing(of: Lineage) -> SampleConfig:
    return params.validated(of.settings["sample"], SampleConfig, key="sample").model_copy(
        update={"truncation": of.protocol.get("truncation", 1.0)}
    )


def _workplace(of: Lineage, files: Mapping[str, Path], objects: Objects, root: Path, copy: Path) -> Path:
    """A folder with models/ of the version and the data it was measured on: those of `root` where they are the same, else out of DVC."""
    (copy / "models").mkdir(parents=True)
    for name, path in files.items():
        shutil.copyfile(path, copy / "models" / name)
    outs = {path: md5 for stage in of.stages.values() for path, md5 in stage.outs.items()}
    for name in ("prepared", "reference"):
        here, target = root / "data" / name, copy / "data" / name
        if _digest_of(here) == of.data_digest and (name == "prepared" or _extractors_of(here) == _extractors_said(of.protocol)):
            target.parent.mkdir(exist_ok=True)
            target.symlink_to(here.resolve())
        elif f"data/{name}" in outs:
            objects.lay(outs[f"data/{name}"], target)
        else:
            raise ValueError(f"data/{name} here is not of the data {of.data_digest[:12]}, and its lineage names none in DVC")
    return copy


def _digest_of(folder: Path) -> str | None:
    for name in ("manifest.json", "reference.json"):
        if (folder / name).is_file():
            return str(json.loads((folder / name).read_text(encoding="utf-8")).get("data_digest"))
    return None


def _extractors_of(folder: Path) -> dict[str, str]:
    return {entry["label"]: entry["sha256"] for entry in json.loads((folder / "reference.json").read_text(encoding="utf-8"))["extractors"]}


def _extractors_said(protocol: Mapping[str, Any]) -> dict[str, str]:
    return {entry["label"]: entry["sha256"] for entry in protocol.get("extractors", ())}


def _require_extractors(protocol: Mapping[str, Any], reference: Reference) -> None:
    found, said = {each.label: each.facts["sha256"] for each in reference.described}, _extractors_said(protocol)
    if found != said:
        raise ValueError(
            f"data/reference has the extractors {found}, it was measured by {said}; check that commit out and run `dvc repro reference`"
        )


def _asked(root: Path, reference: Reference, split: str, drawn: Sequence[int] | None) -> Tensor | None:
    """Which stored images are of the classes that were drawn; None: all."""
    labels = ArrowImages(root / "data" / "prepared" / f"{split}.arrow").labels
    if drawn is None or labels is None:
        return None
    return torch.from_numpy(np.isin(labels[reference.indices[split].numpy()], drawn))
