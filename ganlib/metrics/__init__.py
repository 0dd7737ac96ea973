"""Metrics and feature extractors; a metric's registered name is its protocol."""

from typing import Any

from ganlib.registry import Registry

METRICS: Registry[Any] = Registry("metric", package="ganlib.metrics")
EXTRACTORS: Registry[Any] = Registry("feature extractor", package="ganlib.metrics")
