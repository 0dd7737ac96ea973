"""Data sources; a new one is a file here with a class registered in `SOURCES`."""

from typing import Any

from ganlib.registry import Registry

SOURCES: Registry[Any] = Registry("data source", package="ganlib.data.sources")
