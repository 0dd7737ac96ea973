"""What the machine that drives a training does meanwhile: MLflow's system metrics.

Processor, memory, disk, network and GPUs are read by MLflow's own monitor. Its thread is not used: that one ends for good at the first call that a
server does not answer, and waits for the server at the end. Here the training's listener takes a sample where it is at work anyhow, keeps it, and
tells it with the next heartbeat; samples that a server never took are lost with the process, and nothing else is.
"""

import os
import time
from collections import deque
from typing import Any

from pipeline.tracking.store import machine_monitor

ENABLED = "MLFLOW_ENABLE_SYSTEM_METRICS_LOGGING"  # MLflow's own switch; here it is on unless this says no
INTERVAL_SECONDS = 10.0  # MLflow's own
MOST_SAMPLES = 8640  # a day without a server
MOST_POINTS = 1000  # in one call


def is_enabled() -> bool:
    return os.environ.get(ENABLED, "true").lower() not in ("false", "0")


class SystemMetrics:
    """Samples of one attempt at a training.

    Attributes:
        problem: why there are no samples; empty while there are.
    """

    def __init__(self, uri: str) -> None:
        self.problem = ""
        self._monitor: Any = None
        self._uri = uri
        self._last = time.monotonic()
        self._waiting: deque[tuple[float, dict[str, float]]] = deque(maxlen=MOST_SAMPLES)

    def sample(self) -> None:
        """Take a sample if one is due. Raises nothing: a machine that cannot be measured trains as well as any."""
        now = time.monotonic()
        if self.problem or (self._monitor is not None and now - self._last < INTERVAL_SECONDS):
            return
        try:
            values = self._read()
        except Exception as problem:  # of psutil or of a GPU's driver
            self.problem = repr(problem)
            return
        if values:
            self._waiting.append((time.time(), values))
        self._last = now

    def _read(self) -> dict[str, float]:
        is_first = self._monitor is None
        if is_first:
            self._monitor = machine_monitor(self._uri)
        self._monitor.collect_metrics()
        values = dict(self._monitor.aggregate_metrics())
        for monitor in self._monitor.monitors:
            monitor.clear_metrics()
        return {} if is_first else values  # the processor's use is that since the last look, so the first look only begins

    def ship(self, client: Any, run_id: str, metric: Any, *, started: float) -> None:
        """Tell all samples that wait. What a call does not take stays, and is the same points when it is told again.

        Args:
            metric: MLflow's class of a metric.
            started: of the run, seconds since 1970; the step of a sample is the seconds since then, so that an attempt goes on where another ended.
        """
        while self._waiting:
            points: list[Any] = []
            num_samples = 0
            for when, values in list(self._waiting):
                if points and len(points) + len(values) > MOST_POINTS:
                    break
                step = max(1, round(when - started))
                points += [metric(f"system/{name}", float(value), int(when * 1000), step) for name, value in values.items()]
                num_samples += 1
            client.log_batch(run_id, metrics=points)
            for _ in range(num_samples):
                self._waiting.popleft()
