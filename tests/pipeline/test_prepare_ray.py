"""`cluster.prepare: ray`: the local path's bytes and words, whoever converts."""

import json
import os
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from pipeline.driver import ray_data
from pipeline.driver.failures import ClusterError
from tests.clones import Clone

ROOT = Path(__file__).resolve().parents[2]
IMAGES = 240


def test_a_node_with_other_files_or_another_build_is_refused(tmp_path: Path) -> None:
    """Kills: rows of another fetch, or none, where data/raw is a node's own; another Pillow that resizes in other bytes."""
    expected = ray_data.Seen("a" * 64, "pillow 12", "s")
    for found, line in (
        (
            expected._replace(source=""),
            r"node n2 has nothing of what was fetched in \S+: cluster.prepare=ray needs a folder that all nodes see",
        ),
        (expected._replace(source="t"), r"node n2 has other files in \S+: cluster.prepare=ray needs"),
        (
            expected._replace(libraries="pillow 11"),
            r"node n2 runs another build: code a{12}, pillow 11; the driver runs code a{12}, pillow 12",
        ),
        (expected._replace(code="b"), r"node n2 runs another build: code b, "),
    ):
        with pytest.raises(ClusterError, match=line):
            ray_data.refuse_another(found, expected, node="n2", raw=tmp_path)
    ray_data.refuse_another(expected, expected, node="n2", raw=tmp_path)
    assert ray_data.seen(tmp_path).source == ""


@pytest.mark.slow
@pytest.mark.chaos
def test_two_nodes_write_what_one_process_writes(tmp_path: Path) -> None:
    """Two real raylets beside a head without a CPU: broken images skipped and refused, shards in a store, a worker killed, another data/raw.

    Kills: parts in the order in which they are done, broken images that are lost or told otherwise, a part that comes twice after a retry.
    """
    done = subprocess.run(
        [sys.executable, __file__, str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"},
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    told = json.loads(done.stdout.splitlines()[-1])
    local, *others = told["skip"]
    assert local["report"]["broken"]["count"] == 2
    assert sorted(local["files"]) == ["manifest.json", "test.arrow", "train.arrow", "val.arrow"]
    assert others == [local, local]  # with a worker killed, and without
    assert told["killed"] > 0
    assert told["store"][0] == told["store"][1]
    assert sorted(told["store"][0]["files"])[1:] == ["test.shards.json", "train.shards.json", "val.shards.json"]
    assert told["fail"][0] == told["fail"][1]
    assert re.match(r"ValueError: 2 of 240 images cannot be used:\n  class0/0120\.png: truncated", told["fail"][0])
    assert re.match(r"ClusterError: node \S+ has other files in", told["elsewhere"])


@pytest.mark.slow
@pytest.mark.pipeline
def test_where_is_nobodys_dependency(make_clone) -> None:
    """`dvc repro prepare` on a Ray of its own: the same dvc.lock, and turning to it reruns nothing."""
    clone: Clone = make_clone()
    assert clone.repro("prepare") == ["fetch", "prepare"]
    before = clone.lock()
    clone.set(cluster__prepare="ray")
    assert clone.repro("prepare") == []
    done = clone.run("dvc", "repro", "--force", "--single-item", "prepare")
    assert "prepared 1,797 images" in done.stdout
    assert clone.lock() == before


def main(root: Path) -> None:
    import psutil
    from ray.cluster_utils import Cluster

    from ganlib.data import prepare as preparing
    from ganlib.files import sha256_file
    from pipeline.driver.settings import ClusterConfig
    from pipeline.stages.fetch import fetch
    from pipeline.stages.prepare import prepare
    from tests.pipeline.test_stages_data import fill

    preparing.TASK_BYTES = 16 << 10  # many ranges
    config = fill(root, IMAGES, (64, 64)).model_copy(update={"on_error": "skip"})
    for number in (7, 120):
        path = root / "data" / "incoming" / f"class{number % 2}" / f"{number:04d}.png"
        path.write_bytes(path.read_bytes()[:-20])
    fetch(config, root)
    node = {"object_store_memory": 100 * 2**20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "num_cpus": 0})
    for _ in range(2):
        cluster.add_node(**node, num_cpus=1)
    there = ray_data.OnRay(ClusterConfig(address=cluster.address, prepare="ray"), root / "data" / "raw")
    killed: list[int] = []

    def kill_one() -> None:
        deadline = time.monotonic() + 100
        while not killed and time.monotonic() < deadline:
            for process in psutil.process_iter(["cmdline"]):
                if "MapBatches" in " ".join(process.info["cmdline"] or ()) and not killed:
                    process.kill()
                    killed.append(process.pid)
            time.sleep(0.002)

    def outcome(config, elsewhere):
        try:
            report = prepare(config, root, elsewhere=elsewhere)
        except ValueError as error:
            return f"{type(error).__name__}: {error}"
        return {"report": report, "files": {path.name: sha256_file(path) for path in (root / "data" / "prepared").iterdir()}}

    told = {"skip": [outcome(config, None)]}
    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    told["skip"].append(outcome(config, there))
    killer.join()
    told["skip"].append(outcome(config, there))
    stored = config.model_copy(update={"store_uri": str(root / "store"), "shard_mb": 1})
    told["store"] = [outcome(stored, where) for where in (None, there)]
    told["fail"] = [outcome(config.model_copy(update={"on_error": "fail"}), where) for where in (None, there)]
    with (root / "data" / "raw" / "source.json").open("a") as file:  # the driver has read it, new workers have not
        file.write("\n")
    told["elsewhere"] = outcome(config, there)
    cluster.shutdown()
    print(json.dumps({**told, "killed": len(killed)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
