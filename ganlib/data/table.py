"""Aligned rows of fields: row i of every column belongs together. They lie in one file, or in shards in a store (`data.store_uri`)."""

from pathlib import Path
from typing import Self

import numpy as np

from ganlib.data.ipc import Columns, MappedColumns
from ganlib.data.shards import SUFFIX, StoredColumns
from ganlib.fields import CLASS, Field


class Table:
    """A split; nothing is read until it is asked for, but the classes. Pickles as its path.

    Args:
        path: an Arrow file, or the list of a split's shards.

    Attributes:
        fields: by name, in the order of the columns.

    Raises:
        ValueError: the file is missing, truncated or of another format, or a shard is missing; names the stage to rerun.
        OSError: the store of the shards does not answer.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        self._columns: Columns = StoredColumns(self.path) if self.path.name.endswith(SUFFIX) else MappedColumns(self.path)
        self.fields: dict[str, Field] = dict(self._columns.fields)

    def __len__(self) -> int:
        return self._columns.length

    def __reduce__(self) -> tuple[type[Self], tuple[Path]]:
        return type(self), (self.path,)

    def field(self, name: str) -> Field:
        """Raises ValueError where there is no such column; names those there are."""
        if name not in self.fields:
            raise ValueError(f"{self.path} has no column {name!r}; it has: {', '.join(self.fields)} (params.yaml: data)")
        return self.fields[name]

    def numbers(self, name: str) -> np.ndarray:
        """A whole column of classes: [N] int64."""
        return self._columns.classes[self.field(name).name]

    def read(self, name: str, indices: np.ndarray) -> np.ndarray:
        """The rows at `indices` ([n] integers) of a column, in that order, copied: [n, *shape]; of classes [n] int64.

        Raises:
            IndexError: an index outside 0..N-1; negative ones too, which are a mistake here.
            OSError: the store of the shards does not answer.
        """
        n, field = len(indices), self.field(name)
        if n and (indices.min() < 0 or indices.max() >= len(self)):
            raise IndexError(f"{self.path}: indices from {indices.min()} to {indices.max()}, expected 0..{len(self) - 1}")
        if field.kind == CLASS:
            chosen: np.ndarray = self._columns.classes[name][indices]
            return chosen
        return self._columns.take(name, indices).reshape(n, *field.shape)

    def rows(self, name: str, start: int, stop: int) -> np.ndarray:
        """Rows start..stop-1 of a column of arrays, cut at the end as a list is, copied: [n, *shape]."""
        start, stop, _ = slice(start, stop).indices(len(self))
        values = self._columns.part(name, start, max(start, stop))
        return values.reshape(len(values), *self.field(name).shape)

    @property
    def is_far(self) -> bool:
        """Whether some of it is not on this machine, so that it pays to say what is wanted `ahead`."""
        return self._columns.is_far

    def ahead(self, indices: np.ndarray) -> None:
        """The rows at `indices` ([n] integers) will be read soon, together: they are brought here meanwhile, where that takes time."""
        self._columns.ahead(indices)
