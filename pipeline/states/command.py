"""The states of trainings below train.state_uri: which there are, what one is of, and removing those that are named.

    python -m pipeline.states list                    # the newest first; * is the training of today's params.yaml, code and data
    python -m pipeline.states show 3f2a               # one of them, by the first digits of its key
    python -m pipeline.states remove 3f2a 77c0        # these
    python -m pipeline.states remove --keep 5         # all but the newest five
    python -m pipeline.states remove --gone           # those whose commit is in no branch or tag any more

`remove` says what it would remove and asks; --yes answers for a script. A state that a living process holds is never removed. Exit code 1: one that
was named was not removed.
"""

import argparse
import subprocess
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from ganlib.storage import open_storage
from ganlib.training.state import SEAL, BundleStore
from pipeline import identity, params
from pipeline.driver.lock import GUARD, LOCK, LockedError, StateLock, holder
from pipeline.identity import Identity, TrainingParams
from pipeline.params import ROOT
from pipeline.state_address import state_uri
from pipeline.states import record
from pipeline.states.known import Difference, State, age, look, size


def table(states: Sequence[State], current: str = "") -> list[str]:
    """A line a state.

    Args:
        current: key of the training of today, which is marked.
    """
    rows = [("  key", "images", "", "last active", "size", "commit")]
    for state in states:
        mark = "*" if current.startswith(state.name) else " "
        what = "held" if state.is_held else "finished" if state.is_finished else "unfinished"
        commit = state.record.git_commit[:12] if state.record is not None else f"no {record.NAME}"
        rows.append(
            (f"{mark} {state.name}", state.progress.removesuffix(" images"), what, age(state.active), size(state.size_bytes), commit)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def describe(state: State, now: Identity | None, root: Path = ROOT) -> list[str]:
    """Everything about one state.

    Args:
        now: the training of today, to compare with; None where it cannot be told.
    """
    store = BundleStore(state.storage, keep=1)
    lines = [
        f"key          {state.record.run_key if state.record is not None else state.name}",
        f"state        {state.storage.uri}, {size(state.size_bytes)}",
        f"progress     {state.progress}, checkpoints at steps {', '.join(f'{step:,}' for step in store.steps()) or 'none'}",
        f"last active  {age(state.active)}",
    ]
    if state.is_held:
        lines.append(f"held by      {state.holder}")
    if (then := state.record) is None:
        return [*lines, f"it has no {record.NAME} that can be read, so nobody knows what it is of"]
    lines += [f"began        {then.began}, commit {then.git_commit}", f"data         {then.data_source}, digest {then.data_digest}"]
    if now is None:
        return [*lines, "no data/prepared to compare with; run `dvc repro prepare`"]
    difference = Difference.between(then, now, root)
    if not (changed := difference.lines()):
        return [*lines, "it is the training of today's params.yaml, code and data"]
    return [
        *lines,
        "against today's params.yaml, code and data:",
        *(f"  {line}" for line in changed),
        f"to get it: {difference.way_back()}",
    ]


def chosen(states: Sequence[State], keys: Sequence[str], *, keep: int | None, gone: bool, root: Path = ROOT) -> list[State]:
    """The states that `remove` names.

    Args:
        keys: first digits of run keys.
        keep: name all but the newest so many.
        gone: name those whose commit is in no branch or tag.

    Raises:
        ValueError: a key that is no state's, or several states'; no git to ask.
    """
    names = {find(states, key).name for key in keys}
    names |= {state.name for state in states[keep:]} if keep is not None else set()
    if gone:
        is_known = commits_kept(root)
        names |= {state.name for state in states if state.record is not None and not is_known(state.record.git_commit)}
    return [state for state in states if state.name in names]


def find(states: Sequence[State], key: str) -> State:
    """The one state whose key begins with `key`.

    Raises:
        ValueError: there is none, or more than one.
    """
    found = [state for state in states if (state.record.run_key if state.record is not None else state.name).startswith(key)]
    found = found or [state for state in states if state.name == key]
    if len(found) == 1 and key:
        return found[0]
    legal = ", ".join(state.name for state in found or states) or "there are none"
    raise ValueError(f"{key!r} begins the key of {len(found)} states, expected 1; states: {legal}")


def commits_kept(root: Path = ROOT) -> Callable[[str], bool]:
    """Whether a branch (of a remote too), a tag or HEAD has a commit. One that is not known ("unknown") counts as kept.

    Raises:
        ValueError: this is no git repository, or one without its history.
    """

    def git(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True)

    shallow = git("rev-parse", "--is-shallow-repository").stdout.strip()
    if shallow != "false":
        what = "is a shallow clone" if shallow else "is no git repository"
        raise ValueError(f"{root} {what}, so it cannot be told which commits are gone; name the states, or use --keep")

    def is_kept(commit: str) -> bool:
        commit = commit.partition("-")[0]
        if commit == "unknown":
            return True
        named = git(
            "for-each-ref", "--count=1", "--contains", commit, "refs/heads", "refs/remotes", "refs/tags"
        )  # fails where git has dropped it
        return (named.returncode == 0 and bool(named.stdout)) or git("merge-base", "--is-ancestor", commit, "HEAD").returncode == 0

    return is_kept


def remove(state: State, base: str, root: Path = ROOT) -> None:
    """Remove a state that nobody holds.

    Raises:
        LockedError: a living process holds it.
        OSError: the store does not answer.
    """
    storage = state.storage
    with StateLock(storage, patience_seconds=0).held():  # nobody can begin while it goes
        store = BundleStore(storage, keep=1)
        for step in store.steps():
            storage.remove(f"{store.name(step)}/{SEAL}")  # what is cut short leaves no bundle that looks damaged
        for name in storage.names(""):
            if name not in (LOCK, GUARD, record.NAME):
                storage.remove(name)
        storage.remove(record.NAME)  # last: until then it can be told what is left of which training
    if holder(storage) is None:
        open_storage(state_uri(base, "", root)).remove(state.name)


def main(argv: Sequence[str] | None = None, root: Path = ROOT) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m pipeline.states", description=textwrap.dedent(__doc__ or ""), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="list | show KEY | remove")
    verbs.add_parser("list", help="a line each, the newest first")
    verbs.add_parser("show", help="one state, and how it differs from the training of today").add_argument("key")
    removing = verbs.add_parser("remove", help="remove states that are named")
    removing.add_argument("keys", nargs="*", metavar="KEY", help="first digits of a key")
    removing.add_argument("--keep", type=int, metavar="N", help="all but the newest N")
    removing.add_argument("--gone", action="store_true", help="those whose commit is in no branch or tag any more")
    removing.add_argument("--yes", action="store_true", help="do not ask")
    arguments = parser.parse_args(argv)
    config = params.sections(TrainingParams, params.project(root) / "params.yaml")
    base = config.train.state_uri
    states = look(base, root)
    if arguments.verb == "list":
        now = _now(config, root)
        print("\n".join(table(states, now.key if now is not None else "")) if states else f"no states below {base}")
    elif arguments.verb == "show":
        print("\n".join(describe(find(states, arguments.key), _now(config, root), root)))
    else:
        if arguments.keep is not None and arguments.keep < 0:
            raise ValueError(f"--keep {arguments.keep}: expected how many of the newest states are kept, 0 or more")
        if not (arguments.keys or arguments.gone or arguments.keep is not None):
            raise ValueError("nothing is named; give KEYs, --keep N or --gone (python -m pipeline.states list shows what there is)")
        named = chosen(states, arguments.keys, keep=arguments.keep, gone=arguments.gone, root=root)
        sys.exit(_remove(named, base, root, must_ask=not arguments.yes))


def _remove(named: Sequence[State], base: str, root: Path, *, must_ask: bool) -> int:
    """Say what would be removed, ask, remove; the exit code."""
    held = [state for state in named if state.holder is not None and state.holder.is_alive()]
    for state in held:
        print(f"kept: {state.name} is held by {state.holder}")
    free = [state for state in named if state not in held]
    if not free:
        print("nothing to remove")
        return int(bool(held))
    print("\n".join(table(free)))
    for state in free:
        if state.owes_mlflow:
            print(
                f"MLflow has not been told everything of {state.name}: python -m pipeline.deliver does it, and what is removed cannot be told"
            )
    total = size(sum(state.size_bytes for state in free))
    if must_ask and not _agreed(f"remove {len(free)} state{'' if len(free) == 1 else 's'}, {total}? [y/N] "):
        print("nothing was removed")
        return 1
    is_short = bool(held)
    for state in free:
        try:
            remove(state, base, root)
            print(f"removed: {state.name}")
        except LockedError as problem:  # it began just now, or lives on another machine
            print(f"kept: {state.name}: {problem}")
            is_short = True
    return int(is_short)


def _agreed(question: str) -> bool:
    try:
        return input(question).strip().lower() in ("y", "yes")
    except EOFError:  # nobody is there to ask
        print("nobody answers; --yes removes without asking")
        return False


def _now(config: TrainingParams, root: Path) -> Identity | None:
    """The training of today; None before its data are prepared."""
    try:
        return identity.identity(config, root)
    except ValueError:
        return None
