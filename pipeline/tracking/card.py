"""How a training shows in MLflow: the run's name, its description, and MLflow's own tags, which its pages look for."""

import getpass
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.lineage import UNKNOWN

RESERVED = "mlflow."  # names that mean something to MLflow begin so
NOTE = "mlflow.note.content"


@dataclass(frozen=True, kw_only=True)
class Card:
    """What a person sees of a training first.

    Attributes:
        name: `dcgan-fashion-mnist-5b0d2f2b`: family, source of the data, the beginning of the run key. MLflow takes it for a run and for a model.
        tags: the description, who trained, what ran and which commit, under MLflow's own names.
    """

    name: str
    tags: Mapping[str, str]

    @classmethod
    def of(cls, *, family: str, source: str, images: int, run_key: str, git_commit: str) -> "Card":
        """
        Args:
            family: `model.name`.
            source: `data.source`.
            images: real images seen at the end of the training.
            git_commit: of `pipeline.lineage`: with `-dirty` where files had changed, or "unknown".
        """
        commit, dirty, _ = git_commit.partition("-dirty")
        note = (
            f"{family} trained on {source} for {images:,} images, run key `{run_key}`: the same settings, data and code give the same weights. "
            "`train/` are losses over real images seen, `evaluation/` the numbers of reports/evaluation.json; "
            "each protocol of evaluation is a run below this one."
        )
        tags = {NOTE: note, "mlflow.user": user(), "mlflow.source.name": "pipeline/stages/train.py", "mlflow.source.type": "LOCAL"}
        if commit != UNKNOWN:
            tags |= {"mlflow.source.git.commit": commit, "mlflow.source.git.dirty": str(bool(dirty)).lower()}
        return cls(name=plain(f"{family}-{source}-{run_key[:8]}"), tags=tags)

    @classmethod
    def of_generator(cls, facts: Mapping[str, Any]) -> "Card":
        """Of the training that models/generator.json tells of."""
        return cls.of(
            family=facts["family"],
            source=source_of(facts),
            images=facts["images_seen"],
            run_key=facts["run_key"],
            git_commit=facts["git_commit"],
        )


def source_of(facts: Mapping[str, Any]) -> str:
    """Where the data of the generator that models/generator.json tells of came from; "unknown" where they were prepared by hand."""
    return str(facts["data"].get("source", UNKNOWN))


def plain(name: str) -> str:
    """Letters, digits and dashes: a model's name has neither dots nor slashes."""
    return re.sub(r"[^A-Za-z0-9]+", "-", name)


def user() -> str:
    """Who runs this, as MLflow asks it, but never the name of an account at a server: some servers take a token for it."""
    try:
        return getpass.getuser()
    except (ImportError, KeyError, OSError):  # a container whose user has no name
        return "unknown"
