"""Lives of somebody's training: each in a place of its own, to its end or until it is killed."""

import glob
import shutil
import signal
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import psutil  # type: ignore[import-untyped]

from pipeline.doctor.checkpoints import Entry, UnreadableError, read

OUT, WORKERS = "{out}", "{workers}"
POLL_SECONDS = 0.002
MOST_COPIED_BYTES = 1 << 30
ENDS_IN_SECONDS = 30.0  # for a killed process in the middle of a call
TOLD = 1_500  # characters of what a life said

When = Literal["after", "while"]


class DiedError(ValueError):
    """A life that ended with an error of its own."""


@dataclass(frozen=True, kw_only=True)
class Script:
    """Somebody's training.

    Attributes:
        command: with `{out}` for the folder of a life; without it, each life works in a copy of `folder`. `{workers}` is how many a life has.
        checkpoint: a glob, `{out}` as in the command, relative to where a life works.
        resume: further arguments of a life that goes on.
        folder: where the command is run.
    """

    command: Sequence[str]
    checkpoint: str
    resume: Sequence[str]
    folder: Path
    limit_seconds: float

    @property
    def is_copied(self) -> bool:
        return not any(OUT in word for word in self.command)

    @property
    def takes_workers(self) -> bool:
        return any(WORKERS in word for word in self.command)


@dataclass(frozen=True)
class Place:
    """Where one training lives, perhaps several times.

    Args:
        root: what `{out}` is, or a copy of the script's folder.
    """

    script: Script
    root: Path

    @classmethod
    def new(cls, script: Script, root: Path) -> "Place":
        """
        Raises:
            ValueError: the script's folder is too large to be copied.
        """
        if not script.is_copied:
            root.mkdir()
            return cls(script, root)
        size_bytes = sum(path.stat().st_size for path in script.folder.rglob("*") if path.is_file() and ".git" not in path.parts)
        if size_bytes > MOST_COPIED_BYTES:
            raise ValueError(
                f"{script.folder} holds {size_bytes:,} bytes, too many for a copy a run; write {OUT} in the command where it writes to, as in "
                f"`--out {OUT}`"
            )
        shutil.copytree(script.folder, root, symlinks=True, ignore=shutil.ignore_patterns(".git", ".venv"))
        place = cls(script, root)
        for path in place.files():
            path.unlink()  # of a run before
        return place

    def files(self) -> list[Path]:
        """What the glob finds, sorted."""
        pattern = self.script.checkpoint.replace(OUT, glob.escape(str(self.root)))
        found = glob.glob(pattern, root_dir=None if OUT in self.script.checkpoint else self.root, recursive=True)
        return sorted(path for name in found if (path := self.root / name).is_file())

    def snapshot(self) -> dict[str, dict[str, Entry]]:
        """File, relative to the place -> its entries.

        Raises:
            UnreadableError: one is no whole checkpoint.
        """
        return {path.relative_to(self.root).as_posix(): read(path) for path in self.files()}

    def seen(self) -> frozenset[tuple[str, int, int]]:
        """What changes when a checkpoint is written."""
        found = set()
        for path in self.files():
            with suppress(FileNotFoundError):  # replaced at this moment
                status = path.stat()
                found.add((str(path), status.st_size, status.st_mtime_ns))
        return frozenset(found)

    def finish(self, *, goes_on: bool = False, command: Sequence[str] | None = None, workers: int = 1) -> int:
        """A life to its end; how often its checkpoints were seen to change.

        Raises:
            DiedError: exit code, and its last words.
        """
        changes, before = 0, self.seen()
        with self._log().open("wb") as log:
            process = self._start(log.fileno(), command or self._command(goes_on), workers)
            try:
                deadline = time.monotonic() + self.script.limit_seconds
                while process.poll() is None:
                    now = self.seen()
                    changes, before = changes + (now != before), now
                    if time.monotonic() > deadline:
                        raise DiedError(f"it did not end in {self.script.limit_seconds:g} s (--timeout)")
                    time.sleep(POLL_SECONDS)
            finally:
                _end(process)
        if process.returncode:
            raise DiedError(f"exit code {process.returncode}; it said: {self._said()}")
        return max(changes, 1)

    def kill(self, changes: int, when: When) -> bool:
        """A life that is killed (SIGKILL, with all that it started); whether it was before its end.

        Args:
            changes: of its checkpoints until then.
            when: `while` the next one is being written, or `after` the last of them, when all can be read.
        """
        before = self.seen()
        with self._log().open("wb") as log:
            process = self._start(log.fileno(), self._command(False))
            try:
                while changes > 0 and process.poll() is None:
                    now = self.seen()
                    changes, before = changes - (now != before), now
                    if changes:
                        time.sleep(POLL_SECONDS)
                while when == "after" and process.poll() is None and not self.is_whole():
                    time.sleep(POLL_SECONDS)
                if when == "while" and self.is_whole():  # that change was the end of a write: the next one is a beginning
                    before = self.seen()
                    while process.poll() is None and self.seen() == before:
                        time.sleep(POLL_SECONDS)
            finally:
                _end(process)
        return process.returncode == -signal.SIGKILL

    def is_whole(self) -> bool:
        """Whether there are checkpoints, and all can be read."""
        try:
            return bool(self.snapshot())
        except (UnreadableError, FileNotFoundError):
            return False

    def _command(self, goes_on: bool) -> list[str]:
        return [*self.script.command, *(self.script.resume if goes_on else ())]

    def _start(self, log: int, command: Sequence[str], workers: int = 1) -> subprocess.Popen[bytes]:
        words = [word.replace(OUT, str(self.root)).replace(WORKERS, str(workers)) for word in command]
        where = self.root if self.script.is_copied else self.script.folder
        return subprocess.Popen(words, cwd=where, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)

    def _log(self) -> Path:
        return self.root.with_name(f"{self.root.name}.log")

    def _said(self) -> str:
        return self._log().read_text(encoding="utf-8", errors="replace")[-TOLD:].strip() or "nothing"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill it, and what it started, also in sessions of their own, as torchrun's workers are: stopped first, so that none starts another."""
    if process.poll() is None:
        stopped: list[psutil.Process] = []
        found = [psutil.Process(process.pid)]
        while found:
            for each in found:
                with suppress(psutil.NoSuchProcess):
                    each.suspend()
            stopped += found
            with suppress(psutil.NoSuchProcess):
                found = [each for each in stopped[0].children(recursive=True) if each not in stopped]
        for each in stopped:
            with suppress(psutil.NoSuchProcess):
                each.kill()
        psutil.wait_procs(stopped[1:], timeout=ENDS_IN_SECONDS)
    process.wait()
