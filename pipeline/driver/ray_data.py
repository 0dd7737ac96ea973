"""The rows of `prepare` converted by all CPUs of a Ray (Ray Data); whoever asked for them writes them, in their order.

What is converted and how is decided by `ganlib.data`, which also looks whether every range came in its turn: no byte depends on this file.
"""

import hashlib
import logging
import os
import pickle
import warnings
from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

from ganlib.data.contract import Converted
from ganlib.data.raw import read_source
from ganlib.data.rows import Elsewhere, Range, Work
from pipeline import params
from pipeline.driver.builds import code_in
from pipeline.driver.failures import ClusterError
from pipeline.driver.ray_cluster import connected
from pipeline.driver.ray_private import quiet_driver
from pipeline.driver.settings import ClusterConfig
from pipeline.params import CODE

RANGES_A_TASK = 4  # of Ray: what its start costs is little beside them, and what waits for its turn stays small
RANGES_A_ROUND = 40_000  # Ray Data keeps something of each task until its end
BLOCK_BYTES = 8 << 20  # of converted rows that travel at once
LIBRARIES = ("numpy", "pillow", "pyarrow")  # what decodes, resizes and stores


class Seen(NamedTuple):
    """What a process finds where it is; the values of two that make the same bytes are equal."""

    code: str  # sha256 of the .py files of ganlib and pipeline
    libraries: str
    source: str  # sha256 of data/raw/source.json, which names each file with its own


def elsewhere(raw: Path) -> Elsewhere | None:
    """What `cluster.prepare` of params.yaml says: None for processes of this machine."""
    cluster = params.section("cluster", ClusterConfig)
    return None if cluster.prepare == "local" else OnRay(cluster, raw.resolve())


class OnRay:
    """Converts on the Ray that `cluster` names, each range on one CPU.

    Args:
        raw: the folder that `prepare` reads, which every node sees under this path.
    """

    def __init__(self, cluster: ClusterConfig, raw: Path) -> None:
        self._cluster, self._raw = cluster, raw

    def __call__(self, work: Work) -> Generator[tuple[Range, Converted], None, None]:
        """Ranges in their order.

        Raises:
            ClusterError: no Ray, workers that die again and again, or that do not see the same files, or run another build.
            Exception: whatever the conversion has raised.
        """
        import ray.data

        logging.getLogger("ray.data").setLevel(logging.ERROR)  # which importing it has set
        with connected(self._cluster, 1):
            quiet_driver()
            try:
                for first in range(0, len(work.ranges), RANGES_A_ROUND):
                    ranges = work.ranges[first : first + RANGES_A_ROUND]
                    with closing(self._round(work, ranges)) as parts:
                        yield from zip(ranges, parts, strict=True)
            except ray.exceptions.RayTaskError as error:
                raise error.cause from None
            except ray.exceptions.RayError as error:
                reason = str(error).strip().partition("\n")[0]
                raise ClusterError(
                    f"preparing on Ray failed ({reason}); set cluster.prepare: local, or run the same command again"
                ) from None

    def _round(self, work: Work, ranges: tuple[Range, ...]) -> Generator[Converted, None, None]:
        import ray.data

        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = context.print_on_execution_start = False
        context.raise_original_map_exception = True
        context.target_max_block_size = BLOCK_BYTES
        context.execution_options.preserve_order = True
        numbers = ray.data.range(len(ranges), override_num_blocks=-(-len(ranges) // RANGES_A_TASK))
        convert = _converting(pickle.dumps((work, ranges)), self._raw, seen(self._raw))
        with warnings.catch_warnings():
            # Ray 2.64 is to name every option, and has no other name for this one, without which a worker that dies is started again for ever.
            warnings.filterwarnings("ignore", message=".*ray_remote_args")
            parts = numbers.map_batches(convert, batch_size=None, num_cpus=1, max_retries=self._cluster.max_failures)
        for table in parts.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=1):
            for part in table.column("part"):
                yield pickle.loads(part.as_buffer())


def _converting(sent: bytes, raw: Path, expected: Seen) -> Callable[[Any], Iterator[dict[str, list[bytes]]]]:
    """A function for a worker, which looks around before it reads what this build has `sent`."""

    def convert(batch: Any) -> Iterator[dict[str, list[bytes]]]:
        refuse_another(seen(raw), expected, node=os.uname().nodename, raw=raw)
        work, ranges = pickle.loads(sent)
        for number in batch["id"].tolist():
            yield {"part": [pickle.dumps(work.convert(ranges[number]), protocol=5)]}

    return convert


@cache
def seen(raw: Path) -> Seen:
    """By this process; what it has seen once holds as long as it lives."""
    from PIL import features

    decoders = [f"{name} {features.version(name)}" for name in ("jpg", "zlib", "webp", "libtiff")]
    libraries = ", ".join([*(f"{name} {version(name)}" for name in LIBRARIES), *decoders])
    try:
        read_source(raw)  # every file is there, in its size
        source = hashlib.sha256((raw / "source.json").read_bytes()).hexdigest()
    except (OSError, ValueError):
        source = ""
    return Seen(code_in(str(CODE)), libraries, source)


def refuse_another(found: Seen, expected: Seen, *, node: str, raw: Path) -> None:
    """Raise ClusterError where a worker's node sees other files than the driver, or would make other bytes."""
    if found.source != expected.source:
        what = "other files in" if found.source else "nothing of what was fetched in"
        raise ClusterError(
            f"node {node} has {what} {raw}: cluster.prepare=ray needs a folder that all nodes see; or set cluster.prepare: local"
        )
    if found != expected:
        raise ClusterError(
            f"node {node} runs another build: code {found.code[:12]}, {found.libraries}; the driver runs code {expected.code[:12]}, "
            f"{expected.libraries}. Give every node the same image, or the same requirements and commit"
        )
