"""The aliases of a model in MLflow's registry, how they move, and the history that its tags keep of it.

An alias says who serves now; a version's `promotion.state` says what has become of it, and the registered model's `promotion.history.NNNN` who was
champion since when, and why. The alias is the truth: one that was moved by hand is taken for a decision, and noted.
Everything that writes here holds the lock of the model (`registry_lock`).
"""

import json
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from pipeline.tracking import registry_lock
from pipeline.tracking.card import user
from pipeline.tracking.registry_lock import Held, LockedError, is_lock
from pipeline.tracking.store import Store, is_unseen

CHAMPION, CHALLENGER, AWAITING = "champion", "challenger", "awaiting"  # aliases
STATE, REASON = "promotion.state", "promotion.reason"
HISTORY = "promotion.history."
DATA = "data.digest"
MOST_CHARACTERS = 4_000  # of a tag

State = Literal["champion", "awaiting", "rejected", "replaced", "rolled back", "retired"]


@dataclass(frozen=True, kw_only=True)
class Event:
    """A line of a model's history.

    Attributes:
        when: seconds since 1970.
        what: promoted, forced, rolled back, retired, moved by hand, ...
        version: whom it is about.
        champion: who is since then; None: nobody.
        before: who was.
    """

    when: int
    what: str
    version: int
    champion: int | None
    before: int | None
    why: str
    who: str

    def in_words(self) -> str:
        day = time.strftime("%Y-%m-%d %H:%M", time.gmtime(self.when))
        now = f"champion is version {self.champion}" if self.champion is not None else "nobody is champion"
        return f"{day} UTC  version {self.version} {self.what} by {self.who}; {now}: {self.why}"


@dataclass(frozen=True, kw_only=True)
class Standing:
    """A registered model as it stands.

    Attributes:
        versions: number -> tags.
        history: oldest first.
    """

    name: str
    aliases: Mapping[str, int]
    versions: Mapping[int, Mapping[str, str]]
    history: tuple[Event, ...] = ()

    @property
    def champion(self) -> int | None:
        return self.aliases.get(CHAMPION)

    @property
    def noted(self) -> int | None:
        """The champion of the history's last line."""
        return self.history[-1].champion if self.history else None

    def state(self, version: int) -> str:
        return self.versions[version].get(STATE, "")

    def before(self, version: int) -> int | None:
        """Who was champion before `version`, by the history, and can be again: neither rolled back nor retired."""
        was = (number for event in reversed(self.history) for number in (event.champion, event.before) if number is not None)
        can = (n for n in was if n != version and n in self.versions and self.state(n) not in ("rolled back", "retired"))
        return next(can, None)


def look(store: Store, name: str) -> Standing | None:
    """The model `name`; None where there is none."""
    try:
        registered = store.client.get_registered_model(name)
    except store.mlflow.exceptions.MlflowException as error:
        if not is_unseen(error):
            raise
        return None
    history = (Event(**json.loads(value)) for key, value in sorted(registered.tags.items()) if key.startswith(HISTORY))
    return Standing(
        name=name,
        aliases={alias: int(version) for alias, version in registered.aliases.items()},
        versions={int(version.version): dict(version.tags) for version in _versions(store, name)},
        history=tuple(history),
    )


def require(store: Store, name: str) -> Standing:
    """`look`.

    Raises:
        ValueError: there is no such model.
    """
    standing = look(store, name)
    if standing is None:
        raise ValueError(f"the registry has no model {name!r}; it has: {', '.join(names(store)) or 'none'}")
    return standing


def names(store: Store) -> list[str]:
    """Of the registered models, sorted."""
    found, token = [], None
    while True:
        page = store.client.search_registered_models(page_token=token)
        found += [model.name for model in page if not is_lock(model.name)]
        token = page.token
        if not token:
            return sorted(found)


def _versions(store: Store, name: str) -> list[Any]:
    found, token = [], None
    while True:
        page = store.client.search_model_versions(f"name = '{name}'", page_token=token)
        found += page
        token = page.token
        if not token:
            return found


def reconcile(store: Store, held: Held, standing: Standing) -> tuple[Standing, str]:
    """Take an alias that somebody moved by hand for a decision, note it, and say so; "" where nobody did.

    Whoever lost it is not crowned again by being registered. An alias that is gone is no decision: nothing is noted, and nobody crowned by it.
    """
    champion, noted = standing.champion, standing.noted
    if not standing.history or champion is None or champion == noted:
        return standing, ""
    why = f"the alias {CHAMPION} was found at version {champion}, the history has {f'version {noted}' if noted is not None else 'nobody'}"
    held.check()
    if noted is not None and noted in standing.versions:
        mark(store, standing.name, noted, "rolled back", why)
    mark(store, standing.name, champion, "champion", why)
    note(
        store,
        standing,
        Event(when=_now(), what="moved by hand", version=champion, champion=champion, before=noted, why=why, who="somebody"),
    )
    return require(store, standing.name), why


def crown(store: Store, held: Held, standing: Standing, version: int, *, what: str, why: str, loser: State = "replaced") -> None:
    """Make `version` the champion; the one before becomes a `loser`.

    Raises:
        LockedError: there is no time for it, or it took so long that somebody else had the lock meanwhile; `version` is not champion by it.
    """
    before = standing.champion

    def move() -> None:
        with held.moving():
            store.client.set_registered_model_alias(standing.name, CHAMPION, str(version))

    held.insist(move)
    if not held.insist(held.is_mine):
        _put_back(store, standing.name, version)
        raise LockedError(
            f"{standing.name}: the registry took so long to move the alias that somebody else decided meanwhile; that decision stands. "
            "Run `dvc repro register` again"
        )
    event = Event(when=_now(), what=what, version=version, champion=version, before=before, why=why, who=user())
    held.insist(lambda: note(store, standing, event))
    if before is not None and before != version:
        held.insist(lambda: mark(store, standing.name, before, loser, f"{what} of version {version}: {why}"))
    held.insist(lambda: mark(store, standing.name, version, "champion", why))
    if standing.aliases.get(AWAITING) == version:
        store.client.delete_registered_model_alias(standing.name, AWAITING)


def _put_back(store: Store, name: str, version: int) -> None:
    """Give the alias back to whom the history has, where `version` has got it too late."""
    with registry_lock.held(store, name) as held:
        standing = require(store, name)
        noted = standing.noted
        if standing.champion != version or noted == version:
            return
        why = f"the alias {CHAMPION} came to version {version} after somebody else had decided"
        with held.moving():
            if noted is None:
                store.client.delete_registered_model_alias(name, CHAMPION)
            else:
                store.client.set_registered_model_alias(name, CHAMPION, str(noted))
        note(store, standing, Event(when=_now(), what="was too late", version=version, champion=noted, before=noted, why=why, who=user()))


def await_approval(store: Store, held: Held, standing: Standing, version: int, *, why: str) -> None:
    """Say that `version` may become champion when a person says so."""
    with held.moving():
        store.client.set_registered_model_alias(standing.name, AWAITING, str(version))
    mark(store, standing.name, version, "awaiting", why)


def rollback(store: Store, held: Held, standing: Standing, *, why: str) -> tuple[int, int]:
    """Give the alias back to the champion before; returns (who had it, who has it).

    Raises:
        ValueError: nobody is champion, or nobody was before.
    """
    now = standing.champion if standing.champion is not None else standing.noted
    if now is None:
        raise ValueError(
            f"{standing.name} has no champion to roll back; `ganpipe registry promote {standing.name} VERSION --reason ...` makes one"
        )
    before = standing.before(now)
    if before is None:
        raise ValueError(
            f"{standing.name}: nobody was champion before version {now} who could be again; "
            f"`ganpipe registry retire {standing.name} {now} --reason ...` takes the alias away, "
            "`ganpipe registry promote` gives it to another version"
        )
    crown(
        store,
        held,
        replace(standing, aliases={**standing.aliases, CHAMPION: now}),
        before,
        what="rolled back to",
        why=why,
        loser="rolled back",
    )
    return now, before


def retire(store: Store, held: Held, standing: Standing, version: int, *, why: str) -> list[str]:
    """Take every alias from `version` for good; returns them."""
    if version not in standing.versions:
        raise ValueError(_no_version(standing, version))
    held.check()
    lost = [alias for alias, number in standing.aliases.items() if number == version]
    for alias in lost:
        with held.moving():
            store.client.delete_registered_model_alias(standing.name, alias)
    mark(store, standing.name, version, "retired", why)
    champion = None if CHAMPION in lost else standing.champion
    note(
        store,
        standing,
        Event(when=_now(), what="retired", version=version, champion=champion, before=standing.champion, why=why, who=user()),
    )
    return sorted(lost)


def promote(store: Store, held: Held, standing: Standing, version: int, *, why: str) -> None:
    """Make `version` champion because a person says so.

    Raises:
        ValueError: there is no such version, or it was retired.
    """
    if version not in standing.versions:
        raise ValueError(_no_version(standing, version))
    if standing.state(version) == "retired":
        raise ValueError(
            f"{standing.name} version {version} was retired ({standing.versions[version].get(REASON, '')}); a retired version is not promoted: "
            "register the model anew where that has changed"
        )
    if standing.champion == version:
        raise ValueError(f"{standing.name} version {version} is the champion already")
    crown(store, held, standing, version, what="promoted", why=why)


def mark(store: Store, name: str, version: int, state: State, why: str) -> None:
    """Write what has become of a version."""
    for key, value in ((REASON, why[:MOST_CHARACTERS]), (STATE, state)):
        store.client.set_model_version_tag(name, str(version), key, value)


def note(store: Store, standing: Standing, event: Event) -> None:
    """Add a line to the history. Asks nobody whether there is still time: the alias has moved, and a move without its line would be a stranger's."""
    tags = store.client.get_registered_model(standing.name).tags
    number = 1 + max((int(key.removeprefix(HISTORY)) for key in tags if key.startswith(HISTORY)), default=0)
    told = json.dumps(asdict(replace(event, why=event.why[: MOST_CHARACTERS // 2])), ensure_ascii=False)
    store.client.set_registered_model_tag(standing.name, f"{HISTORY}{number:06d}", told)


def _no_version(standing: Standing, version: int) -> str:
    there = ", ".join(map(str, sorted(standing.versions))) or "none"
    return f"{standing.name} has no version {version}; there are: {there}"


def _now() -> int:
    return int(time.time())
