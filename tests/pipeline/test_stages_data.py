"""The fetch and prepare stages: whole outputs or none, and messages a person can use."""

import errno
import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ganlib import files
from ganlib.data.arrow import ArrowImages, read_manifest
from ganlib.data.readers import open_raw
from ganlib.data.settings import DataConfig
from ganlib.metrics.settings import ReferenceConfig
from pipeline import cli
from pipeline.stages.fetch import fetch, told
from pipeline.stages.prepare import prepare
from pipeline.stages.reference import reference


def png(seed: int, size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, size, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def fill(root: Path, count: int, size: tuple[int, int] = (8, 8)) -> DataConfig:
    for number in range(count):
        path = root / "data" / "incoming" / f"class{number % 2}" / f"{number:04d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(number, size))
    return DataConfig(source="image_folder", image_size=size, val_fraction=0.2, test_fraction=0.2)


def tree(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file() and "incoming" not in path.parts}


WHOLE = {
    "data/raw/files-00000.arrow",
    "data/raw/source.json",
    "data/prepared/train.arrow",
    "data/prepared/val.arrow",
    "data/prepared/test.arrow",
    "data/prepared/manifest.json",
    "reports/data.json",
}


def test_fetch_and_prepare_again_give_the_same_bytes(tmp_path: Path) -> None:
    config = fill(tmp_path, 60)
    contents = []
    for _ in range(2):
        assert fetch(config, tmp_path).class_names == ("class0", "class1")
        assert prepare(config, tmp_path)["images"]["total"] == 60
        assert tree(tmp_path) == WHOLE
        contents.append({name: (tmp_path / name).read_bytes() for name in WHOLE})
    assert contents[0] == contents[1]


def test_a_second_fetch_in_the_same_process_is_not_served_from_the_first(tmp_path: Path) -> None:
    config = fill(tmp_path, 60)
    fetch(config, tmp_path)
    prepare(config, tmp_path)
    fill(tmp_path, 70)
    fetch(config, tmp_path)
    assert prepare(config, tmp_path)["images"]["total"] == 70


def test_a_truncated_png_leaves_nothing_behind(tmp_path: Path) -> None:
    config = fill(tmp_path, 60)
    path = tmp_path / "data" / "incoming" / "class1" / "0007.png"
    path.write_bytes(path.read_bytes()[:-20])
    fetch(config, tmp_path)
    with pytest.raises(ValueError, match=r"1 of 60 images cannot be used:\n  class1/0007\.png: truncated"):
        prepare(config, tmp_path)
    assert tree(tmp_path) == {"data/raw/files-00000.arrow", "data/raw/source.json"}
    assert prepare(config.model_copy(update={"on_error": "skip"}), tmp_path)["broken"]["count"] == 1


def test_a_fetch_counts_images_where_many_lie_in_one_file(tmp_path: Path) -> None:
    """Kills: `1 files` for an archive of four images."""
    info = fetch(fill(tmp_path, 4), tmp_path)
    assert told(info, len(open_raw(tmp_path / "data" / "raw"))).startswith("fetched image_folder: 4 images in 1 file, 0.0 MB, 2 classes")


def test_what_dvcignore_hides_is_not_read(tmp_path: Path) -> None:
    """DVC would not notice a change of it. Kills a fetch that reads on, and one that minds lines about other files."""
    config = fill(tmp_path, 4)
    ignore = tmp_path / ".dvcignore"
    ignore.write_text("# nothing of ours\n*.pyc\n*.tmp\n")
    assert fetch(config, tmp_path).num_files == 1
    ignore.write_text("*.tmp\nclass1\n")
    with pytest.raises(
        ValueError, match=r"\.dvcignore hides 2 files of .*incoming from DVC, the first class1/0001\.png: it would not notice"
    ):
        fetch(config, tmp_path)


def test_an_empty_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "data" / "incoming").mkdir(parents=True)
    with pytest.raises(ValueError, match="holds no images"):
        fetch(DataConfig(source="image_folder"), tmp_path)
    assert sorted(path.name for path in (tmp_path / "data").iterdir()) == ["incoming"]


def test_one_class_of_one_image(tmp_path: Path) -> None:
    config = fill(tmp_path, 1)
    fetch(config, tmp_path)
    with pytest.raises(ValueError, match=r"1 images \(1 distinct\) do not fill the splits"):
        prepare(config, tmp_path)
    assert not (tmp_path / "data" / "prepared").exists()
    assert not (tmp_path / "reports").exists()


@pytest.mark.parametrize("off", ["val", "test"])
def test_a_split_that_is_switched_off_is_empty_and_the_others_are_whole(tmp_path: Path, off: str) -> None:
    """Few images, and none of them for a second held-out split. Kills the contract that asks every split for two images."""
    config = fill(tmp_path, 40).model_copy(update={f"{off}_fraction": 0.0})
    fetch(config, tmp_path)
    report = prepare(config, tmp_path)
    assert report["images"][off] == 0
    assert sum(report["images"][split] for split in ("train", "val", "test")) == 40
    assert not [warning for warning in report["warnings"] if f"in the {off} split" in warning]
    folder = tmp_path / "data" / "prepared"
    assert read_manifest(folder).splits[off].images == 0
    assert ArrowImages(folder / f"{off}.arrow").gather(np.empty(0, np.int64)).shape == (0, 1, 8, 8)
    found = reference(ReferenceConfig(extractor="rotation", epochs=0.01), root=tmp_path)
    assert found["images"][off] == 0
    assert [off not in entry["accuracy"] for entry in found["extractors"]] == [True]


def test_prepare_before_fetch(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="run the fetch stage first"):
        prepare(DataConfig(source="digits"), tmp_path)


# disk full


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs root, and the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_prepare_says_before_it_starts_that_the_disk_is_too_small(small_disk: Path) -> None:
    config = fill(small_disk, 40).model_copy(update={"image_size": (128, 128), "channels": 3})
    fetch(config, small_disk)
    with pytest.raises(
        OSError, match=r"not enough disk space for .*prepared.*: 1,966,400 bytes needed, [\d,]+ free; free some space"
    ) as caught:
        prepare(config, small_disk)
    assert caught.value.errno == errno.ENOSPC
    assert tree(small_disk) == {"data/raw/files-00000.arrow", "data/raw/source.json"}


@pytest.mark.parametrize("stage", ["fetch", "prepare"])
def test_a_disk_that_fills_up_while_writing(small_disk: Path, monkeypatch: pytest.MonkeyPatch, stage: str) -> None:
    monkeypatch.setattr("ganlib.data.prepare.require_space", lambda *args, **options: None)
    monkeypatch.setattr("ganlib.data.sources.image_folder.require_space", lambda *args, **options: None)
    config = fill(small_disk, 40 if stage == "prepare" else 100, (8, 8) if stage == "prepare" else (64, 64))
    config = config.model_copy(update={"image_size": (128, 128), "channels": 3})
    if stage == "prepare":
        fetch(config, small_disk)
    before = tree(small_disk)
    with pytest.raises(OSError, match=r"not enough disk space for .*: the disk ran full while writing, [\d,]+ bytes free; free some space"):
        (prepare if stage == "prepare" else fetch)(config, small_disk)
    assert tree(small_disk) == before
    assert not [path for path in (small_disk / "data").iterdir() if path.name.startswith(".")]


def test_what_was_there_stays_when_a_new_one_fails(tmp_path: Path) -> None:
    target = tmp_path / "out"

    def write(text: str) -> None:
        with files.atomic_folder(target) as folder:
            (folder / "x").write_text(text)
            assert text == "old"

    write("old")
    with pytest.raises(AssertionError):
        write("new")
    assert (target / "x").read_text() == "old"
    (tmp_path / ".out.partial").mkdir()  # of a killed process
    with files.atomic_folder(target) as folder:
        (folder / "y").write_text("new")
    assert tree(tmp_path) == {"out/y"}
    files.write_json(tmp_path / "a" / "b.json", {"z": 1})
    with pytest.raises(ValueError):
        files.write_json(tmp_path / "a" / "b.json", {"z": float("nan")})
    assert tree(tmp_path) == {"out/y", "a/b.json"}


# the rim


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (ValueError("data.path is wrong"), 1, "error: data.path is wrong\n"),
        (OSError(errno.ENOSPC, "not enough disk space for x"), 1, "error: not enough disk space for x\n"),
        (FileNotFoundError(errno.ENOENT, "No such file", "x.png"), 1, "error: [Errno 2] No such file: 'x.png'\n"),
        (KeyboardInterrupt(), 130, "interrupted\n"),
    ],
)
def test_user_errors_are_one_message(error: BaseException, code: int, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)

    def main() -> None:
        raise error

    try:
        with pytest.raises(SystemExit) as caught:
            cli.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)
    assert caught.value.code == code
    assert capsys.readouterr().err == text


def test_our_errors_keep_their_traceback() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def main() -> None:
        raise TypeError("a bug")

    try:
        with pytest.raises(TypeError):
            cli.run(main)
    finally:
        signal.signal(signal.SIGTERM, before)


RUN = """
import sys
from pathlib import Path
from ganlib.data.settings import DataConfig
from pipeline import cli
from pipeline.stages.prepare import prepare
root = Path(sys.argv[1])
config = DataConfig(source="image_folder", image_size=(64, 64), val_fraction=0.2, test_fraction=0.2)
if __name__ == "__main__":
    cli.run(lambda: prepare(config, root, processes=2))
"""


@pytest.mark.heavy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_a_stopped_prepare_leaves_no_process_and_no_output(tmp_path: Path, number: signal.Signals) -> None:
    config = fill(tmp_path, 400, (700, 700))
    fetch(config, tmp_path)
    script = tmp_path / "run.py"
    script.write_text(RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    process = subprocess.Popen([sys.executable, script, tmp_path], env=environment, start_new_session=True, stderr=subprocess.PIPE)
    partial = tmp_path / "data" / ".prepared.partial"
    deadline = time.monotonic() + 60
    while not partial.exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.3)  # into the conversion
    process.send_signal(number)
    _, message = process.communicate(timeout=60)
    assert process.returncode in ({signal.SIGTERM: (143,), signal.SIGINT: (130,), signal.SIGKILL: (-9,)}[number])
    assert b"Traceback" not in message
    assert not (tmp_path / "data" / "prepared").exists()
    assert partial.exists() == (number == signal.SIGKILL)
    deadline = time.monotonic() + 20
    while _group_is_alive(process.pid):
        assert time.monotonic() < deadline, "a converting process outlived its parent"
        time.sleep(0.05)
    prepare(config, tmp_path)
    assert tree(tmp_path) - {"run.py"} == WHOLE


AS_ONE_STARTS = """
import os, signal, time
from multiprocessing import util
started = util.spawnv_passfds
def start(path, arguments, handles):
    pid = started(path, arguments, handles)
    if b"spawn_main" in b" ".join(os.fsencode(argument) for argument in arguments):
        NOW
    return pid
util.spawnv_passfds = start
"""


@pytest.mark.heavy
@pytest.mark.parametrize(
    ("now", "code"),
    [("os.kill(os.getpid(), signal.SIGTERM)", 143), ("time.sleep(0.2); os.killpg(0, signal.SIGINT)", 130)],
    ids=["term", "ctrl-c"],
)
def test_a_prepare_that_is_stopped_while_a_process_starts_says_one_line(tmp_path: Path, now: str, code: int) -> None:
    """Kills: a signal that is obeyed between the start of a process and what it is told, and a process that hears Ctrl-C before it ignores it."""
    fetch(fill(tmp_path, 40, (700, 700)), tmp_path)
    (tmp_path / "run.py").write_text(AS_ONE_STARTS.replace("NOW", now) + RUN)
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    done = subprocess.run(
        [sys.executable, tmp_path / "run.py", tmp_path], env=environment, start_new_session=True, capture_output=True, text=True
    )
    assert done.returncode == code
    assert done.stderr == ("interrupted\n" if code == 130 else "")


def _group_is_alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True
