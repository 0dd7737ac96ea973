"""`lineage.json`: what a version says of where it comes from, written by `register` beside the model.

It lies in the registry and in no DVC out: it names a machine, a job and a commit, and outs are the same bytes wherever they are made.
"""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from ganlib.config import Section
from ganlib.files import sha256_file
from ganlib.redact import redacted
from pipeline import lineage
from pipeline.code_digest.names import PACKAGES
from pipeline.lineage import UNKNOWN
from pipeline.params import ROOT
from pipeline.provenance import repository
from pipeline.provenance.environment import LOCK, Environment, environment, job
from pipeline.provenance.origin import Origin, origin

SETTINGS, STAGES = "params.yaml", "dvc.yaml"
DVC_LOCK, DESCRIPTION = "dvc.lock", "generator.json"


class File(Section):
    """A file that ran.

    Attributes:
        is_of_commit: it is as the commit has it; None where nobody could tell.
    """

    sha256: str
    is_of_commit: bool | None


class Code(Section):
    """
    Attributes:
        commit: that registered.
        trained_commit: that began the training; older, where its result was restored.
        trained_changed: files that were not as that commit has them.
        files: what all stages can run, with params.yaml, dvc.yaml and the lock, by path.
    """

    commit: str
    trained_commit: str
    trained_changed: tuple[str, ...] = ()
    files: dict[str, File]

    @property
    def changed(self) -> list[str]:
        """Files that are not as the commit has them, sorted."""
        return sorted(path for path, file in self.files.items() if file.is_of_commit is False)


class Stage(Section):
    """A stage of dvc.lock: path -> DVC's md5 (`.dir` at its end: of the list of a folder)."""

    cmd: str
    deps: dict[str, str]
    outs: dict[str, str]


class Version(Section):
    """Another version of the registry, and what it held then."""

    version: str  # models:/NAME/VERSION
    content: str | None = None  # its tag `content.sha256`


class Lineage(Section):
    """The content of `lineage.json`.

    Attributes:
        settings: the whole of params.yaml as it was used, without passwords.
        overrides: `section.key` -> value, of those that are not as the commit's params.yaml has them.
        lock: sha256 of dvc.lock; None outside of DVC.
        stages: of dvc.lock, those that ran before `register`.
        description: sha256 of models/generator.json.
        weights: network -> sha256 of its weights.
        served: files of the model that is loaded, path -> sha256.
        evaluation: sha256 of the evaluation.json beside it.
        metrics, protocol: of that evaluation.
        parent_training: what the training took over (`train.continue_from`, `start_from`), as models/generator.json has it.
        parent_champion: who was champion when it was registered.
    """

    format: Literal[1] = 1
    run_key: str
    run_id: str | None = None
    code: Code
    settings: dict[str, Any]
    overrides: dict[str, Any]
    params_digest: str
    lock: str | None
    stages: dict[str, Stage]
    data_digest: str
    data: Origin
    environment: Environment
    job: dict[str, str]
    seeds: dict[str, int]
    description: str | None
    weights: dict[str, str]
    served: dict[str, str] | None = None
    evaluation: str | None = None
    metrics: dict[str, float]
    protocol: dict[str, Any]
    parent_training: dict[str, Any] | None = None
    parent_champion: Version | None = None

    @property
    def tags(self) -> dict[str, str]:
        """The little of it that a version's tags say."""
        changed = self.code.changed
        is_known = all(file.is_of_commit is not None for file in self.code.files.values())
        code = f"not as committed: {', '.join(changed)}" if changed else "as committed" if is_known else "nobody can tell"
        return {
            "gan.code": code[:4_000],
            "gan.environment": self.environment.words,
            **({"gan.job": ", ".join(f"{kind} {value}" for kind, value in self.job.items())} if self.job else {}),
        }


def of(facts: Mapping[str, Any], evaluation: Mapping[str, Any], root: Path = ROOT) -> Lineage:
    """What can be told before the version is there.

    Args:
        facts: models/generator.json.
        evaluation: evaluation.json.
    """
    commit = lineage.git_commit(root).removesuffix("-dirty")
    settings = _values(root / SETTINGS)
    data = settings.get("data") or {}
    lock = root / DVC_LOCK
    return Lineage(
        run_key=facts["run_key"],
        code=Code(
            commit=commit,
            trained_commit=str(facts["git_commit"]).removesuffix("-dirty"),
            trained_changed=tuple(facts.get("git_changed", ())),
            files=files(commit, root),
        ),
        settings=clean(settings),
        overrides=clean(_overrides(settings, commit, root)),
        params_digest=str(facts.get("params_digest", UNKNOWN)),
        lock=sha256_file(lock) if lock.is_file() else None,
        stages=stages(lock),
        data_digest=facts["data_digest"],
        data=Origin.model_validate(
            clean(origin(str(data.get("source", UNKNOWN)), data.get("source_uri") or data.get("path"), root).model_dump())
        ),
        environment=environment(root),
        job=clean(job()),
        seeds={section: values["seed"] for section, values in settings.items() if isinstance(values, dict) and "seed" in values},
        description=sha256_file(described) if (described := root / "models" / DESCRIPTION).is_file() else None,
        weights={path.stem: sha256_file(path) for path in sorted((root / "models").glob("*.safetensors"))},
        metrics={key: float(value) for key, value in evaluation.items() if isinstance(value, int | float) and not isinstance(value, bool)},
        protocol=clean(dict(evaluation.get("protocol", {}))),
        parent_training=clean(facts.get("parent")),
    )


def files(commit: str, root: Path) -> dict[str, File]:
    """What the stages of `root` can run, and whether each is as `commit` has it."""
    names = sorted(_running(root))
    same = repository.same(names, commit, root)
    return {name: File(sha256=sha256_file(root / name), is_of_commit=same[name]) for name in names}


def _running(root: Path) -> set[str]:
    stage_files = sorted((root / "pipeline" / "stages").glob("[!_]*.py"))
    code = {path for stage in stage_files for path in lineage.import_closure(f"pipeline.stages.{stage.stem}", root=root)}
    folders = {path.parent for path in code if path.parts[0] in PACKAGES}
    beside = {path.relative_to(root) for folder in folders for path in _data_of(root / folder)}  # templates
    return {path.as_posix() for path in code | beside} | {name for name in (SETTINGS, STAGES, LOCK) if (root / name).is_file()}


def _data_of(folder: Path) -> Iterable[Path]:
    for path in folder.iterdir():
        if path.is_file() and path.suffix not in (".py", ".pyc"):
            yield path
        elif path.is_dir() and path.name == "templates":
            yield from (file for file in path.iterdir() if file.is_file())


def stages(lock: Path) -> dict[str, Stage]:
    """The stages of a dvc.lock; none where there is none that can be read."""
    found = _values(lock).get("stages") or {}
    return {
        name: Stage(
            cmd=str(entry["cmd"]),
            deps={each["path"]: str(each["md5"]) for each in entry.get("deps", ()) if "md5" in each},
            outs={each["path"]: str(each["md5"]) for each in entry.get("outs", ()) if "md5" in each},
        )
        for name, entry in found.items()
    }


def _overrides(settings: Mapping[str, Any], commit: str, root: Path) -> dict[str, Any]:
    text = repository.content(commit, SETTINGS, root) if repository.has(commit, root) else None
    if text is None:
        return {}
    committed = flat(YAML(typ="safe", pure=True).load(text) or {})
    ours = flat(settings)
    return {key: ours.get(key) for key in sorted({*ours, *committed}) if ours.get(key) != committed.get(key)}


def flat(values: Mapping[str, Any], inside: str = "") -> dict[str, Any]:
    """`{"a": {"b": 1}}` -> `{"a.b": 1}`."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        name = f"{inside}.{key}" if inside else str(key)
        found |= flat(value, name) if isinstance(value, Mapping) and value else {name: value}
    return found


def clean(value: Any) -> Any:
    """`value` without the passwords in its addresses."""
    if isinstance(value, str):
        return redacted(value)
    if isinstance(value, Mapping):
        return {str(key): clean(each) for key, each in value.items()}
    return (
        [clean(each) for each in value]
        if isinstance(value, list)
        else tuple(clean(e) for e in value)
        if isinstance(value, tuple)
        else value
    )


def _values(path: Path) -> dict[str, Any]:
    """A mapping in a YAML file; {} where there is none that can be read."""
    try:
        values = YAML(typ="safe", pure=True).load(path.read_text(encoding="utf-8"))
    except (OSError, YAMLError):
        return {}
    return values if isinstance(values, dict) else {}
