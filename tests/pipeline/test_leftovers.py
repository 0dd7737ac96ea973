"""Nothing of a Ray of our own is left over, whatever dies when; and a Ray that does not answer holds nobody up. No Ray is started here."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil
import pytest

from pipeline.driver import ray_cluster
from pipeline.submit import ray_jobs

ROOT = Path(__file__).resolve().parents[2]
# As Ray's agents do: a session of its own, a title instead of a command line. Its parent has gone before it, as a raylet that was shot.
AGENT = """
import os, subprocess, sys, time
if len(sys.argv) < 3:
    subprocess.Popen([sys.executable, "-c", open(sys.argv[1]).read(), sys.argv[1], "again"], start_new_session=True)
    sys.exit()
import ray._raylet
ray._raylet.setproctitle("ray-test::DashboardAgent")
open(sys.argv[1] + ".pid", "w").write(str(os.getpid()))
time.sleep(120)
"""
DRIVER = """
import subprocess, sys, time
from pipeline import processes
from pipeline.driver import leftovers
with leftovers.marked(processes.this()):
    subprocess.run([sys.executable, "-c", open(sys.argv[1]).read(), sys.argv[1]], check=True)
    time.sleep(120 if sys.argv[2] == "killed" else 0)
    while sys.argv[2] == "ends" and not __import__("pathlib").Path(sys.argv[1] + ".pid").exists():
        time.sleep(0.05)
"""


def wait_for(what, seconds=60):
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
    return found


@pytest.mark.parametrize("end", ["ends", "killed", "shot with its group"])
def test_an_agent_without_a_parent_or_an_environment_ends_with_its_driver(tmp_path, end):
    """Kills: the mark without SPT_NOENV (a title is written over it); a driver that ends only what is still below it; a driver without a guardian."""
    script = tmp_path / "agent.py"
    script.write_text(AGENT)
    pid_file = Path(f"{script}.pid")
    how = "ends" if end == "ends" else "killed"
    driver = subprocess.Popen([sys.executable, "-c", DRIVER, str(script), how], cwd=ROOT, start_new_session=True)
    agent = psutil.Process(int(wait_for(lambda: pid_file.exists() and pid_file.read_text())))
    try:
        if end == "killed":
            driver.kill()
        elif end == "shot with its group":
            os.killpg(driver.pid, signal.SIGKILL)
        driver.wait(60)
        wait_for(lambda: not agent.is_running() or agent.status() == psutil.STATUS_ZOMBIE)
        wait_for(lambda: not [p for p in psutil.process_iter() if is_guardian(p, driver.pid)])  # it ends as well
    finally:
        if agent.is_running():
            agent.kill()


def is_guardian(process, driver_pid):
    try:
        command = process.cmdline()
    except psutil.Error:
        return False
    return "pipeline.driver.leftovers" in command and str(driver_pid) in command


JOIN = """
import sys
from pipeline import cli, params
from pipeline.driver import ray_cluster
from pipeline.submit import ray_jobs
from pipeline.driver.settings import ClusterConfig
ray_cluster.JOIN_SECONDS = float(sys.argv[1])
def main():
    print("begins", flush=True)
    with ray_cluster.connected(ClusterConfig(), 1.0):
        pass
cli.run(main)
"""


@pytest.fixture
def silence():
    """The address of a listener that takes connections and says nothing."""
    with socket.create_server(("0.0.0.0", 0)) as server:  # Ray puts the machine's own address for 127.0.0.1
        held = []

        def take():
            while True:
                try:
                    held.append(server.accept())
                except OSError:
                    return

        threading.Thread(target=take, daemon=True).start()
        yield f"127.0.0.1:{server.getsockname()[1]}"
        server.shutdown(socket.SHUT_RDWR)
        for connection, _ in held:
            connection.close()


def join(address, tmp_path, *, seconds=3.0):
    """Join the Ray that a file of some day names."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)
    environment = os.environ | {"RAY_ADDRESS": "auto", "RAY_TMPDIR": str(tmp_path), "RAY_AUTH_MODE": "disabled"}
    command = [sys.executable, "-W", "ignore", "-c", JOIN, str(seconds)]
    return subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_an_address_file_of_a_ray_that_is_gone_is_said(tmp_path):
    """Kills: `auto` handed to Ray without a look whether anybody listens there."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
    process = join(address, tmp_path, seconds=600)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "no Ray answers at 'auto' (cluster.address or RAY_ADDRESS)" in said


def test_a_listener_that_is_no_ray_is_given_up(tmp_path, silence):
    """Kills: `ray.init` without a bound."""
    process = join(silence, tmp_path)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 1, said
    assert "did not answer as Ray does within 3 s" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_heard_while_ray_is_waited_for(tmp_path, silence, number):
    """Kills: `ray.init` in the main thread."""
    process = join(silence, tmp_path, seconds=600)
    assert process.stdout.readline() == "begins\n"
    time.sleep(4)  # it has imported Ray, and waits
    process.send_signal(number)
    _, said = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGTERM: 143, signal.SIGINT: 130}[number], said


@pytest.mark.parametrize(
    ("is_back", "end", "code"), [(False, "KeyboardInterrupt", 130), (False, "SystemExit(143)", 143), (True, "ValueError", -6)]
)
def test_no_farewell_while_a_thread_is_inside_of_ray(is_back, end, code):
    """A library that aborts when the interpreter ends, as Ray does now and then where it connects. Kills: its exit code in place of ours."""
    program = f"""
import atexit, os, threading
from pipeline import cli, processes
atexit.register(os.abort)
def main():
    event = threading.Event()
    processes.leave_at_once_until(event)
    if {is_back}:
        event.set()
    print("whole")
    raise {end}
cli.run(main)
"""
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == code
    assert done.stdout == "whole\n" or is_back


@pytest.mark.parametrize("home", ["a file", "/proc/nonexistent", "a folder"])
def test_a_home_that_cannot_be_written_to_needs_no_setting(tmp_path, monkeypatch, home):
    """Kills: Ray left to write its token below such a HOME; a token of our own where there is a place for Ray's."""
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os, "environ", dict(os.environ))
    (tmp_path / "a file").touch()
    (tmp_path / "a folder").mkdir()
    ray_cluster._bring_token(tmp_path / home)
    assert ("RAY_AUTH_TOKEN" in os.environ) is (home != "a folder")


def test_a_job_server_that_goes_silent_is_given_up():
    """Kills: Ray's own client, which waits for ever; a failure of the call taken for the bound."""
    never = threading.Event()
    with pytest.raises(TimeoutError, match=r"has not answered within 0\.1 s"):
        ray_jobs._within(0.1, never.wait)
    never.set()
    assert ray_jobs._within(60, lambda: 3) == 3

    def fail():
        raise TimeoutError("its own")

    with pytest.raises(TimeoutError, match="its own"):
        ray_jobs._within(60, fail)
