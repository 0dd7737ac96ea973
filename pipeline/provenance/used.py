"""The other way round: which versions are made of some data, and which of those came to be by taking over from such a one."""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.tracking import model_registry
from pipeline.tracking.store import RUN_KEY, Store

PARENT = "gan.parent"  # tag: what a training took over from (`tracking.versions.parent_tags`)


@dataclass(frozen=True, kw_only=True)
class Use:
    """A version that data went into.

    Attributes:
        name: `models:/NAME/VERSION`.
        through: whose weights it took over, by name; None where it was trained on the data itself.
    """

    name: str
    state: str
    aliases: tuple[str, ...]
    through: str | None = None

    def in_words(self) -> str:
        how = "trained on it" if self.through is None else f"took over from {self.through}"
        aliases = "".join(f" @{alias}" for alias in self.aliases)
        return f"{self.name}{aliases}  {how}; {self.state or 'no word on it'}"


def of_data(store: Store, digest: str) -> list[Use]:
    """Every version of every model that data with this digest, or one that begins so, went into."""
    standings = {name: model_registry.require(store, name) for name in model_registry.names(store)}
    versions: dict[str, Mapping[str, str]] = {
        f"models:/{name}/{number}": tags for name, standing in standings.items() for number, tags in sorted(standing.versions.items())
    }
    through: dict[str, str | None] = {name: None for name, tags in versions.items() if tags.get(model_registry.DATA, "").startswith(digest)}
    while True:  # children, then theirs
        keys = {versions[name].get(RUN_KEY): name for name in through}
        added = {}
        for name, tags in versions.items():
            parent = tags.get(PARENT)
            by = parent if parent in through else keys.get(parent) if parent else None
            if name not in through and by is not None and by != name:
                added[name] = by
        if not added:
            break
        through |= added
    found = []
    for name, by in through.items():
        model, _, number = name.removeprefix("models:/").rpartition("/")
        standing = standings[model]
        aliases = tuple(sorted(alias for alias, version in standing.aliases.items() if version == int(number)))
        found.append(Use(name=name, state=standing.state(int(number)), aliases=aliases, through=by))
    return found
