"""What a worker runs and where: looked at before the process group opens, compared with the driver's, and its network interface chosen."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

from pipeline.driver.failures import ClusterError

INTERFACES = ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME")  # what gloo and NCCL read, once, when the process group opens


class Build(NamedTuple):
    """What must be the same in every worker and the driver: other code or another torch gives other bytes, without a word."""

    torch: str
    python: str
    code: str  # sha256 of the .py files of ganlib and pipeline

    def __str__(self) -> str:
        return f"torch {self.torch}, Python {self.python}, code {self.code[:12]}"


class Seat(NamedTuple):
    """What a worker finds where it is.

    Attributes:
        folder: where its code lies.
        address: of the node, as Ray has it.
        interfaces: name -> addresses, of the node.
        chosen: what INTERFACES say there already; empty: nothing.
    """

    node: str
    address: str
    build: tuple[str, str, str]
    folder: str
    interfaces: Mapping[str, Sequence[str]]
    chosen: str


def code_in(folder: str) -> str:
    """sha256 of the .py files of ganlib and pipeline in `folder`."""
    return _digest_of_code()(folder)


def _digest_of_code() -> Callable[[str], str]:
    """A function that travels by value, as `look_around`'s."""

    def digest_of(folder: str) -> str:
        import hashlib
        from pathlib import Path

        digest, root = hashlib.sha256(), Path(folder)
        for package in ("ganlib", "pipeline"):
            for path in sorted((root / package).rglob("*.py")):
                digest.update(path.relative_to(root).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
        return digest.hexdigest()

    return digest_of


def look_around() -> Callable[[], tuple[object, ...]]:
    """A function for a worker that returns a Seat's values. Its own module need not be there, or not as it is here: it travels by value."""
    digest_of = _digest_of_code()

    def look() -> tuple[object, ...]:
        import importlib.util
        import os
        import platform
        from pathlib import Path

        import psutil  # type: ignore[import-untyped]
        import ray.util
        import torch

        found = importlib.util.find_spec("ganlib")
        folder = Path(found.origin).parent.parent if found is not None and found.origin else Path("nowhere")
        interfaces = {name: [entry.address for entry in entries] for name, entries in psutil.net_if_addrs().items()}
        return (
            os.uname().nodename,
            ray.util.get_node_ip_address() if ray.is_initialized() else "",
            (torch.__version__, platform.python_version(), digest_of(str(folder))),
            str(folder),
            interfaces,
            os.environ.get("GLOO_SOCKET_IFNAME") or os.environ.get("NCCL_SOCKET_IFNAME", ""),
        )

    return look


def build_here() -> Build:
    """Of this process."""
    return Build(*Seat(*look_around()()).build)  # type: ignore[arg-type]  # as `look` returns them


def refuse_other_builds(seats: Sequence[Seat], build: Build) -> None:
    """Raise ClusterError where a worker runs something else than the driver, naming both."""
    for rank, seat in enumerate(seats):
        theirs = Build(*seat.build)
        if theirs != build:
            raise ClusterError(
                f"worker {rank} on node {seat.node} runs another build: {theirs} in {seat.folder}; the driver runs {build}. "
                "Give every node the same image, or the same requirements and commit"
            )


def interface_of(seat: Seat, named: str | None) -> str:
    """The network interface for a worker's process group: the one that is named, else what the node itself says, else that of Ray's address.

    Left to itself, gloo takes that of the host's name, which Debian resolves to 127.0.1.1: no other node gets there. Empty: none has Ray's address
    (it is translated), so nothing is chosen.

    Raises:
        ClusterError: the node has none of that name.
    """
    if named is not None and named not in seat.interfaces:
        raise ClusterError(
            f"node {seat.node} has no network interface {named} (params.yaml: cluster.network_interface); it has {', '.join(sorted(seat.interfaces))}"
        )
    return named or seat.chosen or next((name for name, addresses in seat.interfaces.items() if seat.address in addresses), "")
