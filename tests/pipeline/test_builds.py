"""What is looked at in a worker before it may take part, and the network interface it is given."""

import ast
import re
import socket
import subprocess
import sys

import cloudpickle
import pytest

from pipeline.driver.builds import Build, Seat, build_here, interface_of, look_around, refuse_other_builds
from pipeline.driver.failures import ClusterError, in_words

DEBIAN = {"lo": ["127.0.0.1", "::1"], "eth0": ["10.0.0.7", "fe80::1"], "docker0": ["172.17.0.1"]}


def _seat(**changes: object) -> Seat:
    values = {"node": "n7", "address": "10.0.0.7", "build": build_here(), "folder": "/opt/x", "interfaces": DEBIAN, "chosen": ""}
    return Seat(**(values | changes))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("seat", "named", "expected"),
    [
        (_seat(), None, "eth0"),  # gloo itself takes that of the host's name: lo on Debian
        (_seat(address="127.0.0.1"), None, "lo"),  # a Ray of one machine
        (_seat(chosen="ib0"), None, "ib0"),  # whoever runs the node knows better
        (_seat(chosen="ib0"), "docker0", "docker0"),  # and params.yaml best
        (_seat(address="203.0.113.9"), None, ""),  # translated: nothing is guessed
    ],
)
def test_interface_is_that_of_the_address_the_others_know(seat: Seat, named: str | None, expected: str) -> None:
    assert interface_of(seat, named) == expected


def test_interface_that_a_node_has_not_is_named_with_those_it_has() -> None:
    with pytest.raises(ClusterError, match=r"node n7 has no network interface eth9 .*network_interface.* it has docker0, eth0, lo"):
        interface_of(_seat(), "eth9")


@pytest.mark.parametrize("field", ["torch", "python", "code"])
def test_worker_of_another_build_is_refused_with_both_named(field: str) -> None:
    """Kills a comparison that leaves out one of the three: each changes bytes without a word."""
    here = build_here()
    refuse_other_builds([_seat()], here)
    other = here._replace(**{field: "another"})
    with pytest.raises(ClusterError, match=re.escape(f"worker 1 on node n7 runs another build: {other} in /opt/x; the driver runs {here}")):
        refuse_other_builds([_seat(), _seat(build=tuple(other))], here)


def test_look_needs_nothing_of_this_project_where_it_runs() -> None:
    """Kills a look that travels by reference: a worker with older code could not even say so."""
    code = "import pickle, sys; look = pickle.load(sys.stdin.buffer); assert 'pipeline' not in sys.modules; print(look())"
    pickled = cloudpickle.dumps(look_around())
    done = subprocess.run([sys.executable, "-c", code], input=pickled, check=False, capture_output=True)
    assert done.returncode == 0, done.stderr
    seat = Seat(*ast.literal_eval(done.stdout.decode()))
    assert Build(*seat.build) == build_here()
    assert (seat.node, seat.interfaces["lo"][0]) == (socket.gethostname(), "127.0.0.1")


def test_code_that_differs_in_one_byte_is_another_build(tmp_path, monkeypatch) -> None:
    for package in ("ganlib", "pipeline"):
        (tmp_path / package).mkdir()
        (tmp_path / package / "__init__.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    for name in [name for name in sys.modules if name.split(".")[0] == "ganlib"]:
        monkeypatch.delitem(sys.modules, name)
    before = build_here()
    (tmp_path / "pipeline" / "more.py").write_text("x = 1")
    assert build_here().code != before.code
    assert build_here()._replace(code="") == before._replace(code="")


def test_reason_of_a_traceback_is_its_last_line() -> None:
    class Controller(Exception):
        controller_failure = RuntimeError("Traceback (most recent call last):\n  File 'x'\nRuntimeError: Connection refused by n8\n")

    assert in_words({}, Controller()) == "the worker group failed: RuntimeError: RuntimeError: Connection refused by n8"
