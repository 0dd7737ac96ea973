"""The links of a version that DVC and git hold: what each stage read and made, and the code that it ran."""

import hashlib
import json

from ganlib.data import shards
from ganlib.files import sha256_file
from pipeline.code_digest.names import PACKAGES
from pipeline.provenance import repository
from pipeline.provenance.case import DIGITS, BrokenError, Case, require_equal, short
from pipeline.provenance.objects import MissingError, dvc_md5
from pipeline.provenance.record import SETTINGS
from pipeline.tracking import versions

PREPARED, RAW = "data/prepared", "data/raw"
MADE_BY_OTHERS = frozenset({"register"})


def stages(case: Case) -> str:
    stages = case.lineage.stages
    if not stages:
        raise BrokenError(
            "no dvc.lock was there when it was registered, so nothing says of which inputs it was made; run `dvc repro register`"
        )
    outs = {path: (name, md5) for name, stage in stages.items() for path, md5 in stage.outs.items() if name not in MADE_BY_OTHERS}
    asked = 0
    for name, stage in stages.items():
        for path, md5 in stage.deps.items() if name not in MADE_BY_OTHERS else ():
            if path in outs:
                asked += 1
                made_by, expected = outs[path]
                todo = f"{name} ran before {made_by} ran last: run `dvc repro`, and look at the version that it registers"
                require_equal(f"the {path} that {name} read", md5, expected, todo)
    return f"{len(stages)} stages of dvc.lock, each of what the one before it made ({asked} joints)"


def objects(case: Case) -> str:
    count = 0
    for name, stage in case.lineage.stages.items():
        for path, md5 in stage.outs.items() if name not in MADE_BY_OTHERS else ():
            try:
                for _, each in case.objects.listed(md5).items():
                    case.objects.path(each)
                    count += 1
            except MissingError as problem:
                raise MissingError(f"{path} of {name}: {problem}") from None
    return f"{count:,} files of all outs are there, with these bytes"


def _out(case: Case, path: str) -> str | None:
    return next((stage.outs[path] for stage in case.lineage.stages.values() if path in stage.outs), None)


def data_set(case: Case) -> str:
    md5 = _out(case, PREPARED)
    if md5 is None:
        raise BrokenError(f"dvc.lock has no out {PREPARED}; run `dvc repro`, and look at the version that it registers")
    files = case.objects.listed(md5)
    manifest = json.loads(case.objects.path(files["manifest.json"]).read_bytes())
    todo = "data/prepared is not the data set that it says: run `dvc repro -f prepare`"
    lines = []
    for split, facts in manifest["splits"].items():
        name = next(name for name in (f"{split}{shards.SUFFIX}", f"{split}.arrow") if name in files)
        found = sha256_file(case.objects.path(files[name]))
        require_equal(f"sha256 of {name}", found, facts["sha256"], todo)
        if name.endswith(shards.SUFFIX) and (problem := next(shards.damaged(shards.ShardList.read(case.objects.path(files[name]))), None)):
            raise BrokenError(f"{problem}: remove what is damaged, then `dvc repro -f prepare` sends what is not there")
        lines.append(f"{split} {found}\n")
    ordered = sorted(lines, key=lambda line: ("train", "val", "test").index(line.split()[0]))
    digest = hashlib.sha256("".join(ordered).encode()).hexdigest()
    require_equal("the digest of the splits' bytes", digest, case.lineage.data_digest, todo)
    return f"the bytes of {', '.join(manifest['splits'])} have the digest {digest[:DIGITS]}"


def raw(case: Case) -> str:
    md5, files = _out(case, RAW), case.lineage.data.files
    if md5 is None or files is None:
        return "not recorded: data/raw was not there when it was registered"
    stored = case.objects.listed(md5)
    for name, expected in files.items():
        found = sha256_file(case.objects.path(stored[name])) if name in stored else None
        require_equal(f"sha256 of {name} of {RAW}", found, expected, "data/raw was changed after it was fetched: run `dvc repro -f fetch`")
    return f"{len(files)} files of {case.lineage.data.source}"


def models(case: Case) -> str:
    todo = "what was registered is not what this dvc.lock made: run `dvc repro -f register` where its models/ is"
    md5 = _out(case, "models")
    if md5 is None:
        raise BrokenError(f"dvc.lock has no out models; {todo}")
    stored = case.objects.listed(md5)
    for name, expected in (
        (versions.DESCRIPTION, case.lineage.description),
        *((f"{n}.safetensors", s) for n, s in case.lineage.weights.items()),
    ):
        found = sha256_file(case.objects.path(stored[name])) if name in stored else None
        require_equal(f"sha256 of models/{name} in DVC", found, expected, todo)
    measured = _out(case, "reports/evaluation.json")
    if measured is not None:
        found = json.loads(case.objects.path(measured).read_bytes())
        if found != case.source.evaluation:
            raise BrokenError(f"reports/evaluation.json in DVC is not the version's evaluation.json; {todo}")
    return "DVC's models/ and evaluation.json are the registered ones"


def code(case: Case) -> str:
    code = case.lineage.code
    for commit, what in ((code.commit, "registered"), (code.trained_commit, "trained")):
        if not repository.has(commit, case.root):
            raise BrokenError(
                f"the commit that {what} it, {short(commit)}, is not in this repository; fetch it (`git fetch --all`, `git fetch --unshallow`), or "
                "look in the clone that made it"
            )
    if lost := sorted({*code.changed} - {SETTINGS}):  # settings are recorded whole
        raise BrokenError(
            f"{', '.join(lost)} ran as no commit has it; commit what runs, then `dvc repro`: the version that it registers can be rebuilt"
        )
    committed = repository.files(code.commit, ["."], case.root)
    for path, file in code.files.items():
        if path == SETTINGS and not file.is_of_commit:
            continue
        stored = committed.get(path)
        found = None if stored is None else hashlib.sha256(stored).hexdigest()
        require_equal(
            f"sha256 of {path} at {short(code.commit)}",
            found,
            file.sha256,
            "one of both was changed; compare with another clone",
        )
    return f"{len(code.files)} files are those of {code.commit[:DIGITS]}"


def code_of_stages(case: Case) -> str:
    """What DVC saw when a stage ran, which may be days before it was registered, and before anything was committed."""
    commit, count = case.lineage.code.commit, 0
    committed = repository.files(commit, [*PACKAGES], case.root)
    for name, stage in case.lineage.stages.items():
        for path, md5 in stage.deps.items() if name not in MADE_BY_OTHERS else ():
            if path.partition("/")[0] not in PACKAGES:
                continue
            todo = f"{name} ran it otherwise: commit what runs, then `dvc repro`: the version that it registers can be rebuilt"
            require_equal(f"DVC's md5 of {path} at {short(commit)}", dvc_md5(path, committed), md5, todo)
            count += 1
    return f"{count} files and folders that the stages ran are those of {short(commit)}"
