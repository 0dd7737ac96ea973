"""What Prometheus scrapes of a training's journals, and that the dashboard asks for nothing else."""

import json
import re
import urllib.request
from pathlib import Path

from prometheus_client import CollectorRegistry, start_http_server
from prometheus_client.parser import text_string_to_metric_families

from pipeline.prometheus import Trainings

ROOT = Path(__file__).resolve().parents[2]
RUN = "0123456789abcdef"


def state(root: Path) -> None:
    """A training as its journals tell it, its last line still being written."""
    folder = root / "state" / RUN
    (folder / "checkpoints").mkdir(parents=True)

    def lines(name: str, *values: dict, torn: str = "") -> None:
        (folder / name).write_text("".join(json.dumps(value) + "\n" for value in values) + torn)

    line = {"step": 10, "images_seen": 640, "scalars": {"loss_d": 1.5, "loss_g": 0.25}, "time": 100.0, "images_per_second": 50.0}
    lines("history.jsonl", {**line, "images_seen": 320}, line, torn='{"step": 20, "images')
    lines("health.jsonl", {"images_seen": 640, "values": {"diversity": 0.5}})
    alarm = {"kind": "alarm", "alarm": {"name": "mode_collapse"}}
    lines("events.jsonl", {"kind": "start"}, alarm, alarm, {"kind": "rollback"})
    lines("driver.jsonl", {"kind": "restart"}, {"kind": "resize"}, {"kind": "restart"})


def scraped(root: Path) -> dict[tuple[str, ...], float]:
    """Over HTTP, as Prometheus does."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(Trainings("state", root))
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        text = urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/metrics", timeout=10).read().decode()
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    samples = [sample for family in text_string_to_metric_families(text) for sample in family.samples]
    return {(sample.name, *(value for key, value in sorted(sample.labels.items()) if key != "run")): sample.value for sample in samples}


def test_a_training_is_told_by_its_last_whole_lines(tmp_path: Path) -> None:
    """Kills: the first line for the last, a torn line that fails the scrape, a resize counted as a restart."""
    state(tmp_path)
    found = scraped(tmp_path)
    assert found["ganpipe_images_seen",] == 640
    assert found["ganpipe_images_per_second",] == 50
    assert found["ganpipe_last_line_timestamp_seconds",] == 100
    assert found["ganpipe_scalar", "loss_d"] == 1.5
    assert found["ganpipe_health", "diversity"] == 0.5
    assert found["ganpipe_alarms_total", "mode_collapse"] == 2
    assert found["ganpipe_events_total", "rollback"] == 1
    assert found["ganpipe_restarts_total",] == 2
    assert found["ganpipe_running",] == 0


def test_the_dashboard_and_the_alerts_ask_for_what_there_is(tmp_path: Path) -> None:
    state(tmp_path)
    known = {name for name, *_ in scraped(tmp_path)}
    for path in (ROOT / "infra" / "grafana").iterdir():
        asked = set(re.findall(r"ganpipe_[a-z_]+", path.read_text()))
        assert asked <= known, path
        assert "UNTESTED" in path.read_text()
    panels = json.loads((ROOT / "infra" / "grafana" / "training.json").read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    everything = " ".join(target["expr"] for panel in panels for target in panel["targets"])
    assert set(re.findall(r"ganpipe_[a-z_]+", everything)) >= known - {"ganpipe_running"}
