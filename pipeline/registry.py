"""`ganpipe registry list | history | promote | rollback | retire`: the models of the registry, who is champion and was, and a person's word on it."""

import argparse

from pipeline import cli, params
from pipeline.params import ROOT
from pipeline.provenance import used
from pipeline.tracking import model_registry, registry_lock
from pipeline.tracking.settings import TrackingConfig
from pipeline.tracking.store import Store, answering, open_store


def listed(store: Store) -> list[str]:
    """A line a version of every model."""
    lines = []
    for name in model_registry.names(store):
        standing = model_registry.require(store, name)
        for version, tags in sorted(standing.versions.items()):
            aliases = "".join(f" @{alias}" for alias, number in sorted(standing.aliases.items()) if number == version)
            measured = ", ".join(
                f"{key.removeprefix('metric.')} {value}" for key, value in sorted(tags.items()) if key.startswith("metric.")
            )
            state = standing.state(version)
            lines.append(
                f"models:/{name}/{version}{aliases}  {state or 'no word on it'}; {measured}; {tags.get(model_registry.REASON, '')}".rstrip(
                    "; "
                )
            )
    return lines or ["no registered models"]


def retire_data(store: Store, digest: str, *, why: str) -> list[str]:
    """Retire every version of every model that was trained on data with this digest, or one that begins so; name those that took over from one.

    Raises:
        ValueError: there is none.
    """
    lines = []
    uses = used.of_data(store, digest)
    for use in uses:
        name, _, version = use.name.removeprefix("models:/").rpartition("/")
        if use.through is None:
            lines.append(retire(store, name, int(version), why=why))
        elif use.state != "retired":
            by_hand = f"`ganpipe registry retire {name} {version} --reason ...` does it"
            lines.append(f"{use.name} took over from {use.through} and is not retired: {by_hand}")
    if not uses:
        raise ValueError(f"--data {digest}: no version of any model was trained on data with this digest (tag {model_registry.DATA})")
    return lines


def retire(store: Store, name: str, version: int, *, why: str) -> str:
    with registry_lock.held(store, name) as held:
        lost = model_registry.retire(store, held, model_registry.require(store, name), version, why=why)
    return f"{name} version {version} is retired{', and is no longer ' + ' and '.join('@' + alias for alias in lost) if lost else ''}"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.registry", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("list", help="every version, its aliases, its state and why")
    history = verbs.add_parser("history", help="who was champion since when, and why")
    promote = verbs.add_parser("promote", help="make a version champion; also what @awaiting waits for")
    rollback = verbs.add_parser("rollback", help="give the alias back to the champion before; the next run does not undo it")
    withdrawn = verbs.add_parser("retire", help="take a version, or all of some data, out of use for good")
    for verb in (history, promote, rollback):
        verb.add_argument("name", help="of the registered model")
    withdrawn.add_argument("name", nargs="?", help="of the registered model")
    promote.add_argument("version", type=int)
    withdrawn.add_argument("version", type=int, nargs="?")
    withdrawn.add_argument(
        "--data", metavar="DIGEST", help="every version of every model that was trained on these data (8 digits or more)"
    )
    for verb in (promote, rollback, withdrawn):
        verb.add_argument("--reason", required=True, help="is recorded")
    options = parser.parse_args()
    if options.verb == "retire" and (options.data is None) == (options.version is None):
        withdrawn.error("expected NAME VERSION, or --data DIGEST")
    if options.verb == "retire" and options.data is not None and len(options.data) < 8:
        withdrawn.error(f"--data {options.data}: expected 8 digits of the digest or more")
    params.project()
    store = open_store(params.section("tracking", TrackingConfig), ROOT)
    with answering(store.uri):
        for line in run(store, options):
            print(line)


def run(store: Store, options: argparse.Namespace) -> list[str]:
    if options.verb == "list":
        return listed(store)
    if options.verb == "history":
        return [event.in_words() for event in model_registry.require(store, options.name).history] or [f"{options.name} has no history"]
    if options.verb == "retire":
        if options.data is not None:
            return retire_data(store, options.data, why=options.reason)
        return [retire(store, options.name, options.version, why=options.reason)]
    model_registry.require(store, options.name)
    with registry_lock.held(store, options.name) as held:
        standing, moved = model_registry.reconcile(store, held, model_registry.require(store, options.name))
        if options.verb == "promote":
            model_registry.promote(store, held, standing, options.version, why=options.reason)
            said = f"{options.name} version {options.version} is champion"
        else:
            was, now = model_registry.rollback(store, held, standing, why=options.reason)
            said = f"{options.name} version {now} is champion again, version {was} is rolled back"
    return [*([moved] if moved else []), said]


if __name__ == "__main__":
    cli.run(main)
