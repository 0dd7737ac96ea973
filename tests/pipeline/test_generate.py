"""`ganpipe generate`: parts that are whole or missing, the same images however they are cut, and a manifest that can be checked."""

import json
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from ganlib import samples, sampling
from ganlib.sample_settings import DrawConfig
from ganlib.samples import Samples
from pipeline import generate
from pipeline.bulk import Bulk
from tests.pipeline.test_forms import NAMES, made

COUNTS = (3, 0, 5)
ROOT = Path(__file__).resolve().parents[2]


def bulk(out: Path, *, part: int = 20, **settings) -> Bulk:
    trained = made("mlp", counts=COUNTS)
    trained.facts["sha256"] = "a" * 64
    return Bulk(trained=trained, config=DrawConfig(**{"num_images": 50, "batch_images": 10, **settings}), out=str(out), part_images=part)


def images(out: Path) -> tuple[np.ndarray, np.ndarray]:
    parts = [Samples(path) for path in sorted(out.glob("part-*"))]
    return np.concatenate([part.gather(np.arange(len(part))) for part in parts]), np.concatenate([part.labels for part in parts])


@pytest.mark.parametrize("form", ["parquet", "png", "webdataset"])
def test_image_i_is_that_of_the_seed_and_i(form: str, tmp_path: Path) -> None:
    """Against the network and its prior. Kills: a part that begins again at image 0, a last part that is full, labels of other latents."""
    told = bulk(tmp_path / "out", format=form, seed=4)
    manifest = generate.generate(told)
    inputs = told.trained.prior.seeded(4, range(50))
    got, labels = images(tmp_path / "out")
    assert np.array_equal(got, sampling.generate(told.trained.network, inputs, batch_images=10))
    assert np.array_equal(labels, inputs.labels.numpy())
    assert [(part["first"], part["images"]) for part in manifest["parts"].values()] == [(0, 20), (20, 20), (40, 10)]
    assert json.loads((tmp_path / "out" / "manifest.json").read_text()) == manifest
    assert generate.verify(str(tmp_path / "out")) == []
    if form == "png":  # a class of which there is nothing is none of these images
        assert {path.name for path in (tmp_path / "out" / "part-00000" / "images").iterdir() if path.is_dir()} == {"left", "all"}


def test_what_was_broken_off_goes_on_and_ends_in_the_same_bytes(tmp_path: Path, monkeypatch) -> None:
    """Killed in the second part. Kills: a part without its last images taken for whole, whole parts made again, a manifest of half an export."""
    whole = generate.generate(bulk(tmp_path / "whole"))
    written, encode = [], samples.encode_png

    def dies(image: np.ndarray) -> bytes:
        written.append(1)
        if len(written) == 33:
            raise KeyboardInterrupt
        return encode(image)

    monkeypatch.setattr(samples, "encode_png", dies)
    with pytest.raises(KeyboardInterrupt):
        generate.generate(bulk(tmp_path / "out"))
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["job.json", "part-00000"]
    before = len(written)
    assert generate.generate(bulk(tmp_path / "out")) == whole
    assert len(written) - before == 30  # not the first part again


def test_another_job_is_refused_before_anything_is_written(tmp_path: Path) -> None:
    generate.generate(bulk(tmp_path / "out"))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")}
    with pytest.raises(ValueError, match=r"holds the parts of another job \(seed 1, not 2\)"):
        generate.generate(bulk(tmp_path / "out", seed=2))
    with pytest.raises(ValueError, match="no styles to truncate"):
        generate.generate(bulk(tmp_path / "new", truncation=0.5))
    with pytest.raises(ValueError, match="'top', a class without training images"):
        generate.generate(bulk(tmp_path / "new", classes=["top"]))
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("*")} == before
    assert not (tmp_path / "new").exists()
    with pytest.raises(ValueError, match="--part 25: expected a multiple of --batch 10"):
        bulk(tmp_path / "new", part=25)
    (tmp_path / "killed").mkdir()
    (tmp_path / "killed" / ".job.json.partial").write_bytes(b"{")  # by SIGKILL, at its first write
    generate.generate(bulk(tmp_path / "killed"))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.png").write_bytes(b"")
    with pytest.raises(ValueError, match=r"photos holds something else than a bulk export \(mine\.png\)"):
        generate.generate(bulk(tmp_path / "photos"))


def test_a_place_that_is_full_is_one_line_and_what_was_done_stays(tmp_path: Path) -> None:
    """A limit on the size of a file stands for the full disk. Kills: a traceback, a message without the place, half a part that is left behind."""
    limited = textwrap.dedent(f"""
        import resource
        from pathlib import Path
        from pipeline import cli, generate
        from tests.pipeline.test_generate import bulk
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        cli.run(lambda: generate.generate(bulk(Path({str(tmp_path / "out")!r}), format="webdataset")))
    """)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*part-00000 of \S+/out cannot be written: .*; mend that, and run the same command again\n", done.stderr)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["job.json"]


def test_a_changed_or_lost_file_is_named_and_made_again(tmp_path: Path, capsys) -> None:
    """Kills: a resume that takes a part with a broken file for whole."""
    generate.generate(bulk(tmp_path / "out", format="png", classes={"all": 30, "left": 20}))
    _, labels = images(tmp_path / "out")
    assert labels.tolist() == [2] * 30 + [0] * 20
    files = {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()}
    (tmp_path / "out" / "part-00001" / "images" / "all" / "000025.png").write_bytes(b"other")
    (tmp_path / "out" / "part-00002" / "samples.json").unlink()
    assert generate.verify(str(tmp_path / "out")) == ["part-00001/images/all/000025.png", "part-00002/samples.json"]
    shutil.rmtree(tmp_path / "out" / "part-00000")
    generate.generate(bulk(tmp_path / "out", format="png", classes={"all": 30, "left": 20}))
    assert re.findall(r"part-0000.(?= is made again: )", capsys.readouterr().err) == ["part-00001", "part-00002"]
    assert {path: path.read_bytes() for path in (tmp_path / "out").rglob("*") if path.is_file()} == files


def test_classes_as_words() -> None:
    """Kills: a class that is called 3 taken for number 3, and counts for some of them alone."""
    assert generate.classes_of([], NAMES) is None
    assert generate.classes_of(["left", "2"], NAMES) == ["left", 2]
    assert generate.classes_of(["left=3", "2=4"], NAMES) == {"left": 3, 2: 4}
    assert generate.classes_of(["3", "a=b"], ["3", "a=b"]) == ["3", "a=b"]
    with pytest.raises(ValueError, match="expected a whole number for each"):
        generate.classes_of(["left=3", "all"], NAMES)
