"""A Ray cluster of several nodes on one machine, for the tests that take nodes away: each has a network, a process table, a host name and a
/tmp/ray of its own, so that Ray takes them for as many machines; the file system is one, as it is on a cluster. A node's name resolves to
127.0.1.1 there, which is Debian's default. The job server asks for a token.

Needs root and Linux namespaces. Everything lives in namespaces of one process and ends with it, and with the process that made it.
"""

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

NAMESPACES = ("--mount", "--net", "--pid", "--uts")
TOKEN = "5f0c2b7d9e1a4c83b6d2f7a0e9c4b185"  # of no cluster but this one
RAY = {
    "RAY_AUTH_MODE": "token",
    "RAY_AUTH_TOKEN": TOKEN,
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "20",  # a node whose head is gone ends after it, and starts again
}
NETWORK = "10.78.0"
HOME = 254  # where jobs are sent from
GCS_PORT, JOB_PORT = 6379, 8265
TOOLS = ("unshare", "nsenter", "ip", "mount", "hostname")
HOLD = f"""
hostname home
ip link set lo up
ip link add br0 type bridge
ip address add {NETWORK}.{HOME}/24 dev br0
ip link set br0 up
echo ready
exec sleep infinity
"""
# A service that ends is started again, as systemd and Kubernetes do, and what it has left behind ends: `ray start` gives up after 30 s, which a
# busy machine outlasts, and leaves its children.
NODE = f"""
number=$1 hosts=$2
shift 2
hostname "n$number"
mkdir -p /tmp/ray && mount -t tmpfs none /tmp/ray
printf '127.0.0.1 localhost\\n127.0.1.1 n%s\\n' "$number" >"$hosts"
mount --bind "$hosts" /etc/hosts
until ip link show eth0 >/dev/null 2>&1; do sleep 0.1; done
ip link set lo up
ip address add "{NETWORK}.$number/24" dev eth0
ip link set eth0 up
while :; do "$@" || true; kill -KILL -1 2>/dev/null || true; sleep 1; done
"""


def missing() -> str:
    """Why there can be no such cluster here; empty: there can."""
    lacking = [tool for tool in TOOLS if shutil.which(tool) is None]
    if lacking or os.geteuid() != 0:
        return f"no namespaces here ({', '.join(lacking) or 'not root'}): apt-get install iproute2 util-linux, and run this as root"
    done = subprocess.run(["unshare", *NAMESPACES, "--fork", "true"], check=False, capture_output=True, text=True)
    return "" if done.returncode == 0 else f"no namespaces here: {done.stderr.strip()}"


def _child(parent: psutil.Process) -> psutil.Process:
    """The first child of a process, once it has one."""
    deadline = time.monotonic() + 30
    while not (children := parent.children()):
        assert parent.is_running(), "a namespace did not open"
        assert time.monotonic() < deadline, "a namespace did not open"
        time.sleep(0.02)
    return children[0]


@dataclass
class RayLab:
    """A running cluster; node 1 is its head, and `address` its job server."""

    folder: Path
    environment: Mapping[str, str]
    holder: psutil.Process
    address: str = f"http://{NETWORK}.1:{JOB_PORT}"
    nodes: dict[int, psutil.Process] = field(default_factory=dict)  # number -> the first process in its table
    started: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def start(self, number: int) -> None:
        """Switch a node on."""
        ray = ["ray", "start", "--block", "--num-cpus=1", "--object-store-memory=80000000", "--temp-dir=/tmp/ray"]
        if number == 1:
            ray = [*ray[:-1], "--head", f"--node-ip-address={NETWORK}.1", f"--port={GCS_PORT}", "--dashboard-host=0.0.0.0", *ray[-1:]]
        else:
            ray = [*ray[:-1], f"--address={NETWORK}.1:{GCS_PORT}"]
        command = ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-euc", NODE, "node"]
        with (self.folder / f"n{number}.log").open("ab") as log:
            outer = subprocess.Popen(
                [*self._enter(), *command, str(number), str(self.folder / f"n{number}.hosts"), *ray],
                env={**self.environment, **RAY},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        self.started.append(outer)
        node = _child(_child(psutil.Process(outer.pid)))  # nsenter, unshare, bash
        cable = ["ip", "link", "add", f"v{number}", "type", "veth", "peer", "name", "eth0", "netns", str(node.pid)]
        for ip in (cable, ["ip", "link", "set", f"v{number}", "master", "br0"], ["ip", "link", "set", f"v{number}", "up"]):
            subprocess.run(["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *ip], check=True)
        self.nodes[number] = node

    def cut_off(self, number: int) -> None:
        """Switch a node off, as a power cut does: all of its processes and its network are gone at once."""
        node = self.nodes.pop(number)
        unshare = node.parent()
        node.kill()
        if unshare is not None:
            psutil.wait_procs([unshare], timeout=30)
        cable = ["ip", "link", "delete", f"v{number}"]  # the kernel takes its time to do so
        subprocess.run(["nsenter", f"--net=/proc/{self.holder.pid}/ns/net", *cable], check=False, capture_output=True)

    def wait(self, *, seconds: float = 300) -> None:
        """Return once every node has joined."""
        deadline = time.monotonic() + seconds
        for number in self.nodes:
            while "Ray runtime started" not in (self.folder / f"n{number}.log").read_text(errors="replace"):
                assert time.monotonic() < deadline, f"node {number} did not start:\n{self.logs()}"
                time.sleep(0.2)

    def processes(self, number: int, word: str) -> list[psutil.Process]:
        """Those of a node whose command line has `word` in it."""
        found = []
        for process in self.nodes[number].children(recursive=True):
            with suppress(psutil.Error):
                if word in " ".join(process.cmdline()) and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def popen(self, command: Sequence[str], *, cwd: Path, log: Path) -> "subprocess.Popen[bytes]":
        """A command on the machine from which jobs are sent."""
        with log.open("ab") as output:
            self.started.append(
                subprocess.Popen(
                    [*self._enter(), "env", "-C", str(cwd), *command],
                    env={**self.environment, "RAY_AUTH_TOKEN": TOKEN, "RAY_API_SERVER_ADDRESS": self.address},
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                )
            )
        return self.started[-1]

    def logs(self) -> str:
        """The end of what each node said."""
        return "\n".join(f"--- {path.name}\n{path.read_text(errors='replace')[-1500:]}" for path in sorted(self.folder.glob("n*.log")))

    def _enter(self) -> list[str]:
        return ["nsenter", *NAMESPACES, "--target", str(self.holder.pid), "--"]


@contextmanager
def ray_lab(folder: Path, *, nodes: int, environment: Mapping[str, str]) -> Iterator[RayLab]:
    """A cluster of `nodes` nodes with a CPU each, whose Ray is on its way up.

    Args:
        environment: of the nodes and of the machine from which jobs are sent.
    """
    folder.mkdir(parents=True)
    outer = subprocess.Popen(
        ["unshare", *NAMESPACES, "--fork", "--kill-child", "--mount-proc", "bash", "-euc", HOLD], stdout=subprocess.PIPE, text=True
    )
    lab: RayLab | None = None
    try:
        assert outer.stdout is not None
        assert outer.stdout.readline() == "ready\n", "the network did not open"
        lab = RayLab(folder, environment, _child(psutil.Process(outer.pid)))
        for number in range(1, nodes + 1):
            lab.start(number)
        yield lab
    finally:
        left = psutil.Process(outer.pid).children(recursive=True)
        for namespace in left:  # the first process of a table takes all others with it
            with suppress(psutil.Error):
                namespace.send_signal(signal.SIGKILL)
        outer.kill()
        outer.communicate()
        psutil.wait_procs(left, timeout=30)
        for process in lab.started if lab is not None else []:
            process.wait(30)
