"""Data sources; a new one is a file here with a class registered in `SOURCES`.

A source only brings bytes: it writes IDX files (`ganlib.data.idx`) or a pack of encoded files (`ganlib.data.pack`) into an empty folder
and says which. Everything after that is the same for all of them.
"""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Protocol

from ganlib.data.raw import Fetched, SourceInfo, write_source
from ganlib.data.settings import DataConfig
from ganlib.data.stored import bring
from ganlib.registry import Registry

BROUGHT = ".store.partial"  # beside data/raw


class Source(Protocol):
    """Where images come from."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        """Write the images into the empty folder `raw`, the same bytes for the same input.

        Raises:
            ValueError, OSError: nothing to fetch, or damaged input; the message says what to do.
        """


SOURCES: Registry[Callable[[], Source]] = Registry("data source", package="ganlib.data.sources")


def fetch_raw(config: DataConfig, raw: Path) -> SourceInfo:
    """Fetch `config.source` into the empty folder `raw` and describe it in `source.json`.

    Files of an object store are brought first, into a folder beside `raw`, which stays where this is interrupted or refused, so that whoever
    fetches again brings only what is not there.
    """
    source = SOURCES.get(config.source, key="data.source")()
    if config.source_uri is None:
        return write_source(raw, config.source, _fetched(source, config, raw))
    folder = raw.parent / BROUGHT
    with bring(config.source_uri, folder) as (path, stored):
        info = write_source(raw, config.source, _fetched(source, config.model_copy(update={"path": str(path)}), raw), stored)
    shutil.rmtree(folder)
    return info


def _fetched(source: Source, config: DataConfig, raw: Path) -> Fetched:
    fetched = source.fetch(config, raw)
    if lacking := sorted(config.columns.keys() - set(fetched.columns)):
        raise ValueError(f"data.source={config.source} brings no column {lacking[0]!r} (params.yaml: data.columns); set data.columns: {{}}")
    return fetched
