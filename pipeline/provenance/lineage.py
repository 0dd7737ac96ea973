"""`ganpipe lineage show | verify | replay | reearn | of`: where a version comes from, whether that holds, and making it again.

ganpipe lineage show models:/gan-digits@champion      # what it says of itself
ganpipe lineage verify models:/gan-digits@champion    # every hash again; names the first link that is broken, exit code 1
ganpipe lineage reearn models:/gan-digits@champion    # its figures by torchmetrics' and prdc's code, on the same features
ganpipe lineage replay models:/gan-digits@champion    # trains it again in a clean folder; are the weights the same bytes?
ganpipe lineage of --data 3f2a77c0                    # the versions that these data went into
"""

import argparse
import json
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipeline import cli, params
from pipeline.params import ROOT
from pipeline.provenance import reearn, replay, source, used, verify
from pipeline.provenance.case import Case
from pipeline.provenance.objects import Objects
from pipeline.provenance.record import Lineage
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import Store, answering, open_store

LEAST_DIGITS = 8


def shown(name: str, of: Lineage) -> list[str]:
    """A page on a version, for a person."""
    code, data = of.code, of.data
    trained = "" if code.trained_commit == code.commit else f", trained by {code.trained_commit}"
    package = f", package {data.package} {data.version or '(not installed where it was registered)'}" if data.package else ""
    objects = f", objects with the digest {data.stored}" if data.stored else ""
    changed = f"; not as committed: {', '.join(code.changed)}" if code.changed else ""
    parent, champion = of.parent_training, of.parent_champion
    return [
        f"version      {name}",
        f"commit       {code.commit}{trained}",
        f"code         {len(code.files)} files{changed}",
        f"settings     digest {of.params_digest}; seeds: {', '.join(f'{key} {value}' for key, value in of.seeds.items()) or 'none'}",
        *(f"  override   {key}: {json.dumps(value)}" for key, value in of.overrides.items()),
        f"data         {data.source}, digest {of.data_digest}",
        f"  from       path {data.path or '-'}{objects}{package}{''.join(f', {address}' for address in data.addresses)}",
        f"dvc.lock     {of.lock or 'none: registered outside of DVC'}; {len(of.stages)} stages",
        *(f"  out        {path} {md5}" for stage in of.stages.values() for path, md5 in stage.outs.items()),
        f"environment  {of.environment.words}; lock {of.environment.lock or 'none'}",
        *(f"  unlike it  {name} {have}, locked {lock}" for name, (lock, have) in of.environment.unlike_lock.items()),
        f"job          {', '.join(f'{kind} {value}' for kind, value in of.job.items()) or 'none'}",
        f"run          {of.run_id}, training {of.run_key}",
        *(f"weights      {network} {sha256}" for network, sha256 in of.weights.items()),
        f"metrics      {', '.join(f'{key} {value:.4g}' for key, value in of.metrics.items() if f'{key}_low' in of.metrics)}",
        f"protocol     {json.dumps(of.protocol, sort_keys=True)}",
        f"parent       {'none' if parent is None else parent.get('version', 'training ' + str(parent['run_key'])[:16])}",
        f"champion     {'nobody' if champion is None else champion.version} when it was registered",
    ]


def uses(store: Store, digest: str) -> list[str]:
    """A line a version that the data went into.

    Raises:
        ValueError: too few digits.
    """
    if len(digest) < LEAST_DIGITS:
        raise ValueError(f"--data {digest}: expected {LEAST_DIGITS} digits of the digest or more")
    return [use.in_words() for use in used.of_data(store, digest)] or [f"no version is made of data with the digest {digest}"]


def run(options: argparse.Namespace, tracking: TrackingConfig, root: Path) -> Iterator[str]:
    """The lines of a verb.

    Raises:
        ValueError: a link is broken, or there is no such version.
        tracking.Unanswered: the store does not answer.
    """
    store = open_store(tracking, root)
    if options.verb in ("of", "show"):
        with answering(store.uri):
            yield from uses(store, options.data) if options.verb == "of" else _page(store, options)
        return
    with tempfile.TemporaryDirectory(prefix="lineage-") as folder:
        scratch = Path(folder)
        files, stored = scratch / "files", scratch / "objects"
        files.mkdir()
        stored.mkdir()
        with answering(store.uri):  # what follows asks git, DVC and files, whose trouble is not MLflow's
            found = source.fetch(store, options.version, files)
        case = Case(source=found, objects=Objects(root, stored), root=root)
        if options.verb == "verify":
            yield from verify.verify(case)
            yield f"{found.name}: every link holds"
        elif options.verb == "reearn":
            yield from reearn.told(case, scratch)
        else:
            yield from replay.told(case, tracking, scratch, workers=options.workers)


def _page(store: Store, options: argparse.Namespace) -> list[str]:
    name, of = source.lineage_of(store, options.version)
    return [of.model_dump_json(indent=1)] if options.json else shown(name, of)


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="ganpipe lineage", description=textwrap.dedent(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="show | verify | replay | reearn | of")
    told = {
        "show": "what a version says of itself",
        "verify": "every hash again, against registry, DVC and repository",
        "replay": "train it again in a clean folder",
        "reearn": "its figures by the code of others, on the same features",
    }
    for verb, words in told.items():
        verbs.add_parser(verb, help=words).add_argument("version", help="models:/NAME@ALIAS or models:/NAME/VERSION")
    verbs.choices["show"].add_argument("--json", action="store_true", help="the whole of lineage.json")
    verbs.choices["replay"].add_argument("--workers", type=int, help="instead of cluster.workers; the weights are the same on any number")
    verbs.add_parser("of", help="versions that data went into").add_argument("--data", metavar="DIGEST", required=True)
    options = parser.parse_args(argv)
    params.project()
    for line in run(options, params.section("tracking", TrackingConfig), ROOT):
        print(line, flush=True)
    sys.stdout.flush()


if __name__ == "__main__":
    cli.run(main)
