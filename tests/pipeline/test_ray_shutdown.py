"""A driver that leaves Ray while Ray works for it ends in its own words."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# The trainer's thread wakes up in the middle of Ray's shutdown, which is stretched here: on a busy machine both happen by themselves.
STAGE = """
import os, signal, sys, threading, time
from types import SimpleNamespace
from pipeline import cli
from pipeline.driver import ray_driver
from pipeline.driver.settings import ClusterConfig

class Stretched:
    def __init__(self, worker):
        self.worker = worker
    def __getattr__(self, name):
        return getattr(self.worker, name)
    def shutdown_driver(self):
        self.worker.shutdown_driver()
        time.sleep(3)

class Controller:
    def run(self):
        time.sleep(600)

class Trainer:
    def fit(self):
        import ray
        worker = ray._private.worker.global_worker
        worker.core_worker = Stretched(worker.core_worker)
        controller = ray.remote(num_cpus=0)(Controller).remote()
        threading.Timer(1, os.kill, [os.getpid(), signal.SIGINT]).start()
        try:
            ray.get(controller.run.remote())
        finally:
            time.sleep(0.5)

def main():
    ray_driver._Driver._trainer = lambda *_: Trainer()
    train = SimpleNamespace(logical_workers=1, keep_checkpoints=1)
    ray_driver.run(SimpleNamespace(folder=sys.argv[1], train=train), ClusterConfig(workers=1))
cli.run(main)
"""


@pytest.mark.heavy
def test_ctrl_c_that_does_not_wait_for_the_workers_is_said(tmp_path):
    """Kills: a trainer's thread that gives back what it has of Ray while Ray shuts down: Ray then ends the process with 1."""
    environment = os.environ | {"HOME": str(tmp_path)}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, "-W", "ignore", "-c", STAGE, str(tmp_path / "state")]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stderr) == (130, "interrupted\n")
