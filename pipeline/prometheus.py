"""Trainings as Prometheus sees them: `python -m pipeline.prometheus --port 9464`, then `/metrics`; infra/grafana/training.json draws them.

Read from the journals below train.state_uri at each scrape, a folder or an object store, so it runs anywhere that sees them and disturbs no training.
"""

import argparse
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from ganlib.files import atomic_write
from ganlib.storage import Storage
from ganlib.train_settings import TrainConfig
from ganlib.training.journal import EVENTS, HEALTH, HISTORY, parse_lines
from pipeline import cli, params
from pipeline.states.known import look

DRIVER = "driver.jsonl"


class Trainings(Collector):
    """Every training whose state lies below `base` (`train.state_uri`); label `run`: the first 16 digits of its run key."""

    def __init__(self, base: str, root: Path) -> None:
        self._base, self._root = base, root

    def collect(self) -> Iterable[Metric]:
        """Nothing is kept between two calls: the files are the truth. Raises OSError where the store does not answer: then nothing is told."""
        images = GaugeMetricFamily("ganpipe_images_seen", "Real images seen by D; less again after a rollback.", labels=["run"])
        total = GaugeMetricFamily("ganpipe_images_total", "train.total_images.", labels=["run"])
        speed = GaugeMetricFamily("ganpipe_images_per_second", "Since the line of the history before.", labels=["run"])
        when = GaugeMetricFamily("ganpipe_last_line_timestamp_seconds", "When the last line of the history was written.", labels=["run"])
        is_held = GaugeMetricFamily("ganpipe_running", "1 where a process that may be alive holds the training.", labels=["run"])
        scalars = GaugeMetricFamily("ganpipe_scalar", "Losses and what else the history has.", labels=["run", "name"])
        health = GaugeMetricFamily("ganpipe_health", "The last measurement of the training's health.", labels=["run", "name"])
        alarms = CounterMetricFamily("ganpipe_alarms", "Alarms raised.", labels=["run", "alarm"])
        restarts = CounterMetricFamily("ganpipe_restarts", "Worker groups started after the first.", labels=["run"])
        events = CounterMetricFamily("ganpipe_events", "Lines of events.jsonl.", labels=["run", "kind"])
        for state in look(self._base, self._root):
            run = [state.name]
            lines, measured = (parse_lines(_text(state.storage, name)) for name in (HISTORY, HEALTH))
            told = parse_lines(_text(state.storage, EVENTS))
            images.add_metric(run, lines[-1]["images_seen"] if lines else state.images_seen)
            total.add_metric(run, state.total_images)
            is_held.add_metric(run, state.is_held)
            if lines:
                speed.add_metric(run, lines[-1]["images_per_second"])
                when.add_metric(run, lines[-1]["time"])
                for name, value in sorted(lines[-1]["scalars"].items()):
                    scalars.add_metric([*run, name], value)
            for name, value in sorted(measured[-1]["values"].items()) if measured else ():
                health.add_metric([*run, name], value)
            for kind, number in sorted(Counter(str(line["kind"]) for line in told).items()):
                events.add_metric([*run, kind], number)
            for alarm, number in sorted(Counter(str(line["alarm"]["name"]) for line in told if line["kind"] == "alarm").items()):
                alarms.add_metric([*run, alarm], number)
            restarts.add_metric(run, sum(line["kind"] == "restart" for line in parse_lines(_text(state.storage, DRIVER))))
        return images, total, speed, when, is_held, scalars, health, alarms, restarts, events


def _text(storage: Storage, name: str) -> str:
    try:
        return storage.read(name).decode(errors="replace")
    except FileNotFoundError:
        return ""


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m pipeline.prometheus", description="Serve the trainings' numbers to Prometheus.")
    parser.add_argument("--port", type=int, default=9464)
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at; numbers of trainings are for whoever reaches it")
    parser.add_argument(
        "--once", type=Path, metavar="FILE", help="write them to a file and end: node_exporter's textfile collector reads *.prom"
    )
    options = parser.parse_args(arguments)
    root = params.project()
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Trainings(params.section("train", TrainConfig).state_uri, root))
    if options.once:
        from prometheus_client import generate_latest

        atomic_write(options.once, generate_latest(registry))
        return
    start_http_server(options.port, options.host, registry)
    print(f"http://{options.host}:{options.port}/metrics", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    cli.run(main)
