"""Thousands of small files that are on the disk before their folder has its name, and none of them where something went wrong."""

import hashlib
import io
import os
import re
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import psutil
import pytest

from pipeline import file_writer, generate, many_files
from tests.disk import disk
from tests.pipeline.test_generate import bulk

ROOT = Path(__file__).resolve().parents[2]
FILES = {
    f"{folder}/{number:04d}.png": bytes([number % 256]) * (number * 97 % 9000) for number in range(300) for folder in ("a", "b c", "ü")
}


def fill(folder: many_files.ManyFiles) -> None:
    for name in ("a", "b c", "ü"):
        (folder.path / name).mkdir()
    (folder.path / "table.csv").write_text("told")
    for place, data in FILES.items():
        folder.write(place, data)


def below(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if os.geteuid() != 0 or subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs root, and the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def test_the_folder_holds_what_was_written_and_replaces_what_was_there(tmp_path: Path) -> None:
    """Kills: bytes of a neighbour, an empty file that is left out, a hash of something else, what was there before between the new."""
    target = tmp_path / "part"
    (tmp_path / ".part.partial" / "images").mkdir(parents=True)  # of a killed process
    target.mkdir()
    (target / "old").write_text("old")
    with many_files.durable_folder(target) as folder:
        fill(folder)
        assert below(target) == {"old": b"old"}
    assert below(target) == FILES | {"table.csv": b"told"}
    assert folder.sha256 == {place: hashlib.sha256(data).hexdigest() for place, data in FILES.items()}
    assert os.listdir(tmp_path) == ["part"]


def told(files: Mapping[str, bytes]) -> io.BytesIO:
    """As the writer is told of them."""
    return io.BytesIO(b"".join(file_writer.HEADER.pack(len(name), len(data)) + name.encode() + data for name, data in files.items()))


@pytest.mark.parametrize("way", ["together", "each"])
def test_a_power_failure_takes_nothing_of_a_folder_that_has_its_name(way: str, tmp_path: Path, monkeypatch) -> None:
    """On a real ext4, which forgets what it has not on the disk. Kills: files or folders that are never flushed, and those before the last flush;
    `syncfs` where it says nothing of errors; a flush of each file that skips some."""
    with disk(tmp_path / "whole") as place:
        root = os.open(place.path, os.O_RDONLY)
        assert file_writer.is_synced_whole(root)
        if way == "each":
            monkeypatch.setattr(file_writer, "is_synced_whole", lambda _: False)
        files = {f"{number}": bytes(number) for number in range(2 * file_writer.FILES_AT_ONCE + 99)}
        assert file_writer.write(told(files), root) == len(files)
        os.close(root)
        with many_files.durable_folder(place.path / "part") as folder:
            fill(folder)
        with many_files.durable_folder(place.path / "few") as folder:  # without a writer
            (folder.path / "table.csv").write_text("told")
        (place.path / "few" / "later").write_text("not flushed")
        place.fail_power()
        place.start()
        found = below(place.path)
    assert found == files | {f"part/{name}": data for name, data in FILES.items()} | {
        "part/table.csv": b"told",
        "few/table.csv": b"told",
    }


def test_a_power_failure_in_the_middle_leaves_no_half_of_it(tmp_path: Path, monkeypatch) -> None:
    """Kills: a name that comes before the last file; an error of the disk that is not heard."""
    monkeypatch.setattr(many_files, "PATIENCE_SECONDS", 0.1)  # nothing can be removed until the disk is back
    with disk(tmp_path / "whole") as place:
        with many_files.durable_folder(place.path / "before") as folder:
            fill(folder)
        cut = many_files.durable_folder(place.path / "part")
        fill(cut.__enter__())
        place.fail_power()
        with pytest.raises(OSError, match="Input/output error"):
            cut.__exit__(None, None, None)
        place.start()
        assert {name: data for name, data in below(place.path).items() if not name.startswith(".")} == {
            f"before/{name}": data for name, data in (FILES | {"table.csv": b"told"}).items()
        }


@pytest.mark.parametrize("way", ["together", "each"])
def test_a_file_that_the_disk_refuses_late_is_said(way: str, tmp_path: Path, monkeypatch) -> None:
    """A disk that has less than it says takes files, and cannot flush them. Kills: an error in a thread that nobody asks."""
    if way == "each":
        monkeypatch.setattr(file_writer, "is_synced_whole", lambda _: False)
    with disk(tmp_path / "small", real_bytes=4 << 20) as place:
        root = os.open(place.path, os.O_RDONLY)
        try:
            with pytest.raises(OSError, match=r"Input/output error|Read-only file system"):
                file_writer.write(told({f"{number}": os.urandom(8000) for number in range(1000)}), root)
        finally:
            os.close(root)


@pytest.mark.parametrize(
    ("system", "release", "magic", "expected"),
    [
        ("linux", "6.1.0-13-amd64", 0xEF53, True),
        ("linux", "5.8", 0xEF53, True),
        ("linux", "5.7.19", 0xEF53, False),  # syncfs says nothing of errors
        ("linux", "6.1.0", 0x6969, False),  # NFS
        ("darwin", "23.1.0", 0xEF53, False),
    ],
)
def test_where_all_files_are_flushed_together(system: str, release: str, magic: int, expected: bool) -> None:
    """Kills: `syncfs` where it promises less than `fsync`."""
    assert file_writer.is_enough(system, release, magic) is expected


def test_a_file_system_that_is_not_known_gets_each_file_flushed(small_disk: Path) -> None:
    """tmpfs. Kills: the first number of statfs(2) read as something else."""
    folder = os.open(small_disk, os.O_RDONLY)
    try:
        assert not file_writer.is_synced_whole(folder)
    finally:
        os.close(folder)


@pytest.mark.parametrize("end", ["error", "writer killed", "few", "no folder"])
def test_where_something_went_wrong_nothing_is_left(end: str, tmp_path: Path, monkeypatch) -> None:
    """Kills: half a folder with its name, a writer that goes on, one that was killed and is not missed, a traceback without a reason."""
    started = []
    begin = many_files.ManyFiles._start
    monkeypatch.setattr(many_files.ManyFiles, "_start", lambda self: started.append(begin(self)) or started[-1])
    expected = {
        "error": pytest.raises(KeyboardInterrupt),
        "writer killed": pytest.raises(ChildProcessError, match=r"the process that writes its files ended \(-9\)"),
        "few": pytest.raises(AssertionError, match="'files': 900"),
        "no folder": pytest.raises(FileNotFoundError, match=r"part\.partial/none/0\.png"),
    }
    with expected[end], many_files.durable_folder(tmp_path / "part") as folder:
        fill(folder)
        if end == "error":
            raise KeyboardInterrupt
        if end == "writer killed":
            started[0].kill()
        if end == "few":
            folder.sha256["more.png"] = ""
        if end == "no folder":
            folder.write("none/0.png", b"")
    assert os.listdir(tmp_path) == []
    assert [process.poll() for process in started] != [None]


def test_a_disk_that_fills_up_is_said_and_a_larger_one_gets_the_same(small_disk: Path, tmp_path: Path) -> None:
    """Kills: files that are cut off and counted as written, a message without the place, half a part that stays and fills the disk."""
    with pytest.raises(
        OSError, match=r"not enough disk space for \S+/part-00002: the disk ran full while writing, [\d,]+ bytes free; free some"
    ):
        generate.generate(bulk(small_disk, format="png", num_images=100))
    assert sorted(os.listdir(small_disk)) == ["job.json", "part-00000", "part-00001"]
    subprocess.run(["mount", "-o", "remount,size=8m", small_disk], check=True)
    assert generate.generate(bulk(small_disk, format="png", num_images=100)) == generate.generate(
        bulk(tmp_path / "out", format="png", num_images=100)
    )
    assert below(small_disk) == below(tmp_path / "out")


KILLED = """
import sys
from pathlib import Path
from ganlib import samples
from pipeline import generate
from tests.disk import disk
from tests.pipeline.test_generate import bulk
encode, made = samples.encode_png, []
def slow(image):
    made.append(1)
    if len(made) == 1900:
        print("half", flush=True)
        sys.stdin.read()
    return encode(image)
samples.encode_png = slow
generate.generate(bulk(Path(sys.argv[1]), format="png", num_images=2000, part=1000))
"""


@pytest.mark.heavy
def test_killed_in_the_middle_and_again_is_the_same_bytes(tmp_path: Path) -> None:
    """SIGKILL while a part is written. Kills: a writer that outlives it and writes into the next one's folder, and half a part that counts."""
    out = tmp_path / "out"
    command = [sys.executable, "-W", "ignore", "-c", KILLED, str(out)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as killed:
        assert killed.stdout.readline() == b"half\n"
        [writer] = psutil.Process(killed.pid).children()
        deadline = time.monotonic() + 60
        while not list((out / ".part-00001.partial").rglob("*.png")):
            assert time.monotonic() < deadline
        if sys.platform == "linux":
            writer.suspend()  # in the middle of a call, for one: it does not see that nobody tells it anything
        killed.send_signal(signal.SIGKILL)
    while writer.is_running() and writer.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sorted(os.listdir(out)) == [".part-00001.partial", "job.json", "part-00000"]
    generate.generate(bulk(out, format="png", num_images=2000, part=1000))
    generate.generate(bulk(tmp_path / "whole", format="png", num_images=2000, part=1000))
    assert below(out) == below(tmp_path / "whole")


def test_a_file_that_the_place_does_not_take_is_one_line(tmp_path: Path) -> None:
    """A limit on the size of a file, which the writer has from who starts it. Kills: a traceback, and an error of the writer that nobody hears."""
    limited = textwrap.dedent(f"""
        import resource
        from pathlib import Path
        from ganlib.sample_settings import DrawConfig
        from pipeline import bulk, cli, generate
        from tests.pipeline.test_forms import made
        trained = made("mlp", conditional=False, size=96)
        trained.facts["sha256"] = "a" * 64
        config = DrawConfig(num_images=20, batch_images=10, format="png")
        wanted = bulk.Bulk(trained=trained, config=config, out={str(tmp_path / "out")!r}, part_images=20)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
        cli.run(lambda: generate.generate(wanted))
    """)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", limited], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 1
    assert re.fullmatch(r"error: .*part-00000 of \S+/out cannot be written: File too large; mend .*\n", done.stderr), done.stderr
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["job.json"]
