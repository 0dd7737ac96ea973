"""Data in an object store through the whole pipeline, for real: DVC tracks the lists, the store holds the shards."""

import shutil

import pytest

from ganlib.data.raw import read_source
from ganlib.storage import open_storage
from tests.ganlib.data.test_layouts import png
from tests.object_store import object_store

pytestmark = [pytest.mark.pipeline, pytest.mark.slow]
NAME = "models:/gan-digits@champion"
STAGES = ["fetch", "prepare", "reference", "calibrate", "train", "sample", "evaluate", "register"]


def test_from_shards_in_a_store_to_a_version_and_back_from_dvcs_cache(make_clone):
    clone = make_clone()
    with object_store() as store:
        clone.environment |= store.environment | {"GANPIPE_DATA_CACHE": str(clone.root / "cache")}
        clone.set(data__store_uri=f"{store.uri}/images", data__shard_mb=1, train__total_images=16_000, train__grid_interval_images=8_000)
        assert clone.repro() == STAGES
        prepared = clone.root / "data" / "prepared"
        assert sorted(path.name for path in prepared.iterdir()) == [
            "manifest.json",
            *(f"{s}.shards.json" for s in ("test", "train", "val")),
        ]
        assert list((clone.root / "cache").glob("*.arrow"))
        assert (
            "data set: the bytes of test, train, val have the digest"
            in clone.run("python", "-m", "pipeline", "lineage", "verify", NAME).stdout
        )
        before = clone.lock()
        shutil.rmtree(prepared)
        assert clone.repro() == []
        assert clone.lock() == before

    lost = clone.run("dvc", "repro", "--force", "--single-item", "evaluate", check=False, timeout=200)  # with nobody at the store's address
    assert lost.returncode != 0
    assert "s3://state/trainings/images" in lost.stdout + lost.stderr
    assert "Traceback" not in lost.stdout + lost.stderr


def test_files_in_a_store_are_fetched_once_and_again_when_told(make_clone):
    """Kills: DVC asking the store at each command, and a change there that no record shows."""
    clone = make_clone()
    with object_store() as store:
        clone.environment |= store.environment
        with pytest.MonkeyPatch.context() as patch:
            for key, value in store.environment.items():
                patch.setenv(key, value)
            files = open_storage("s3://state/photos")
            for number in range(4):
                files.write(f"class{number % 2}/{number}.png", png(number))
            clone.set(data__source="image_folder", data__source_uri="s3://state/photos")
            assert clone.repro("fetch") == ["fetch"]
            before = read_source(clone.root / "data" / "raw")
            files.write("class0/0.png", png(9))
        assert clone.repro("fetch") == []
        assert clone.repro("--force", "fetch") == ["fetch"]
        after = read_source(clone.root / "data" / "raw")
        assert before.stored is not None
        assert after.stored is not None
        assert (before.stored.num_files, before.stored.sha256 != after.stored.sha256) == (4, True)

    assert clone.repro("fetch") == []  # with nobody at the store's address
    lost = clone.run("dvc", "repro", "--force", "fetch", check=False, timeout=200)
    assert lost.returncode != 0
    assert "error: listing s3://state/photos failed: " in lost.stdout + lost.stderr
    assert "Traceback" not in lost.stdout + lost.stderr
