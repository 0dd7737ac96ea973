"""`make chaos KILLS=100`: kill -9, again and again, anywhere in `dvc repro train`, and in the end the same bytes in dvc.lock.

    python tests/chaos/chaos.py --kills 100
    python tests/chaos/chaos.py --kills 20 --seed 7 --state-uri s3

A temporary clone of this project trains once undisturbed on the digits. Copies of it are then disturbed: a victim (a training worker, all of them,
Ray's node, Ray's head, the stage's driver, dvc, its whole process group) dies at a moment (while it starts, while it trains, while a checkpoint is
written, after the last step), both chosen by the seed. What ends without success is run again, by the same command. A copy that gets through is
compared with the undisturbed one and the next copy begins, until there were enough kills. It runs unattended and touches no process but its own.

The last line is JSON. Exit code 1: hashes differ, a process was left over, or nothing moved for a long time. Long, because a script that kills is
best read in one piece.
"""

import argparse
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parents[2]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

from ganlib.storage import FolderStorage, open_storage  # noqa: E402
from tests.clones import Clone, new_clone  # noqa: E402
from tests.object_store import object_store  # noqa: E402

RECIPE: dict[str, object] = {
    "train__total_images": 48_000,
    "train__history_interval_images": 400,
    "train__grid_interval_images": 12_000,
    "train__checkpoint_interval_images": 1600,
}
STRIDE_IMAGES = 6_000  # a life trains for up to so many images before it is taken
START_SECONDS = 12.0  # a life that is to die young dies within this time
END_SECONDS = 2.0  # and one that has made its last step within this
STALL_SECONDS = 300.0  # nothing new for so long: something hangs
MAX_FAILURES = 5  # of the command in a row without any kill
VICTIMS = ("worker", "workers", "driver", "dvc", "group", "node", "head")
MOMENTS = ("training", "training", "training", "training", "writing", "writing", "starting")


class Stuck(RuntimeError):
    """The training did not get through; with the last output."""


@dataclass(frozen=True)
class Kill:
    """What the seed has chosen for one kill."""

    victim: str
    moment: str
    share: float  # of STRIDE_IMAGES or the seconds above
    pick: float  # which one, where there are several


def kills(seed: int) -> Iterator[Kill]:
    """The choices of a seed: every victim once in each seven kills, in an order of its own."""
    choose = random.Random(seed)
    while True:
        for victim in choose.sample(VICTIMS, len(VICTIMS)):
            moment = choose.choice(MOMENTS)
            if victim in ("driver", "dvc", "group") and choose.random() < 0.15:
                moment = "ending"
            yield Kill(victim, moment, choose.random(), choose.random())


@dataclass
class Sight:
    """What the state folder shows of a training."""

    uri: str
    lives: int = 0  # how often training began or went on
    since_images: int = 0  # where the last life began
    images: int = 0  # seen, by the last log line
    events: list[dict[str, Any]] = field(default_factory=list)
    _looked: float = 0.0

    def __post_init__(self) -> None:
        self.storage = open_storage(self.uri)
        self.is_local = isinstance(self.storage, FolderStorage)

    def look(self, *, now: bool = False) -> bool:
        """Read what is new; whether anything is."""
        if not now and time.monotonic() < self._looked + (0.02 if self.is_local else 0.25):
            return False
        before = (len(self.events), self.images)
        self.events = self._lines("events.jsonl")
        begun = [event for event in self.events if event.get("kind") in ("start", "resumed")]
        self.lives, self.since_images = len(begun), begun[-1]["images_seen"] if begun else 0
        history = self._lines("history.jsonl")
        self.images = history[-1]["images_seen"] if history else 0
        self._looked = time.monotonic()
        return before != (len(self.events), self.images)

    def checkpoints(self) -> list[str]:
        return self.storage.names("checkpoints")

    def is_writing(self, before: list[str]) -> bool:
        """Whether a checkpoint is half there: a temporary folder, or objects of one that was not there before."""
        if self.is_local:
            folder = Path(self.uri) / "checkpoints"
            return any(path.name.startswith(".step-") for path in folder.iterdir()) if folder.is_dir() else False
        return bool(set(self.checkpoints()) - set(before))

    def _lines(self, name: str) -> list[dict[str, Any]]:
        try:
            text = self.storage.read(name).decode()
        except FileNotFoundError:
            return []
        lines = []
        for line in text[: text.rfind("\n") + 1].splitlines():
            with contextlib.suppress(json.JSONDecodeError):  # torn by a kill
                lines.append(json.loads(line))
        return lines


class Family:
    """The processes of one clone, found by its folder: in their environment, command line or current folder, or by a parent that is one of them."""

    def __init__(self, folder: Path) -> None:
        self.mark = str(folder)
        self._known: dict[int, float] = {}  # pid -> when it started: a lost child of Ray has overwritten all other traces

    def members(self) -> list[psutil.Process]:
        """Alive, oldest first."""
        running = {}
        for process in psutil.process_iter(["pid", "ppid", "create_time", "status"]):
            if process.info["status"] != psutil.STATUS_ZOMBIE:
                running[process.pid] = process
        ours = {pid for pid, process in running.items() if self._known.get(pid) == process.info["create_time"] or self._is_marked(process)}
        grown = True
        while grown:
            more = {pid for pid, process in running.items() if process.info["ppid"] in ours} - ours
            ours |= more
            grown = bool(more)
        ours.discard(os.getpid())
        self._known |= {pid: running[pid].info["create_time"] for pid in ours}
        return sorted((running[pid] for pid in ours), key=lambda process: (process.info["create_time"], process.pid))

    def _is_marked(self, process: psutil.Process) -> bool:
        try:
            with open(f"/proc/{process.pid}/environ", "rb") as file:
                if f"HOME={self.mark}\0".encode() in file.read():
                    return True
            return any(f"{self.mark}/" in part for part in (*process.cmdline(), process.cwd() + "/"))
        except (OSError, psutil.Error):
            return False

    def end(self) -> None:
        """Kill what is alive, until nothing is."""
        deadline = time.monotonic() + 60
        while (alive := self.members()) and time.monotonic() < deadline:
            for process in alive:
                with contextlib.suppress(psutil.Error):
                    process.kill()
            psutil.wait_procs(alive, timeout=5)


def is_driver(process: psutil.Process) -> bool:
    command = process.cmdline()
    return "pipeline.stages.train" in command and "-m" in command


def is_worker(process: psutil.Process) -> bool:
    command = process.cmdline()
    return bool(command) and command[0].startswith("ray::") and "TrainWorker" in command[0]


FIND: dict[str, Callable[[psutil.Process], bool]] = {
    "worker": is_worker,
    "workers": is_worker,
    "driver": is_driver,
    "node": lambda process: process.name() == "raylet",
    "head": lambda process: process.name() == "gcs_server",
}


class Round:
    """One copy of the clone, disturbed until it gets through."""

    def __init__(self, template: Clone, folder: Path, uri: str) -> None:
        folder.mkdir()
        self.clone = template.copy(folder / "clone", home=folder)
        self.clone.environment["RAY_TMPDIR"] = str(folder / "r")
        self.uri = uri
        if "://" in uri:
            self.clone.set(train__state_uri=uri.rpartition("/")[0])
        self.sight = Sight(uri if "://" in uri else str(folder / "clone" / "state" / uri))
        self.family = Family(folder)
        self.log = folder / "output.txt"
        self.process: subprocess.Popen | None = None
        self.followed: list[str] = []
        self.failures = 0
        self.failures_in_a_row = 0
        self.torn = 0
        self._sign = time.monotonic()
        self._lives_then = 0
        self._killed_at = time.monotonic()

    def start(self) -> None:
        with self.log.open("ab") as log:
            log.write(f"\n--- dvc repro train, {time.strftime('%H:%M:%S')}\n".encode())
            log.flush()
            self.process = subprocess.Popen(
                ["dvc", "repro", "train"],
                cwd=self.clone.root,
                env=self.clone.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._sign = time.monotonic()

    def wait_for(self, is_due: Callable[[], bool], *, poll_seconds: float = 0.02) -> bool:
        """Until it is due (True) or the command got through (False). A command that failed is run again.

        Raises:
            Stuck: it fails again and again, or nothing moves.
        """
        while True:
            lives = self.sight.lives
            if self.sight.look():
                self._sign = time.monotonic()
                if self.sight.lives > lives:
                    self.failures_in_a_row = 0
                    last = self.sight.events[-1]
                    self.followed.append(
                        f"{last.get('kind')} at {self.sight.since_images:,} after {time.monotonic() - self._killed_at:.1f} s"
                        + (f", {last['computed_again']:,} again" if last.get("computed_again") else "")
                    )
            if self.process is None:
                self.start()
            if is_due():
                return True
            assert self.process is not None
            code = self.process.poll()
            if code == 0:
                self.sight.look(now=True)
                return False
            if code is not None:
                self.followed.append(f"exit {code}, run again")
                if code != -signal.SIGKILL:
                    self.failures += 1
                    self.failures_in_a_row += 1
                if self.failures_in_a_row > MAX_FAILURES:
                    raise Stuck(f"the command failed {MAX_FAILURES} times in a row without any kill; {self.tail()}")
                self.start()
            if time.monotonic() > self._sign + STALL_SECONDS:
                raise Stuck(f"nothing moved for {STALL_SECONDS:.0f} s at {self.sight.images:,} images; {self.tail()}")
            time.sleep(poll_seconds)

    def victims_at(self, kill: Kill) -> list[psutil.Process] | None:
        """Wait for the moment of `kill`; whom it hits, or None where the command got through before."""
        found: list[psutil.Process] = []

        def are_there() -> bool:
            found[:] = self.victims(kill)
            return bool(found)

        if kill.moment == "starting":
            start = self._killed_at + kill.share * START_SECONDS
            return found if self.wait_for(lambda: time.monotonic() > start and are_there(), poll_seconds=0.1) else None
        if kill.moment == "ending":
            if not self.wait_for(lambda: any(event.get("kind") == "finished" for event in self.sight.events)):
                return None
            until = time.monotonic() + kill.share * END_SECONDS
            return found if self.wait_for(lambda: time.monotonic() > until and are_there(), poll_seconds=0.1) else None

        def is_far_enough() -> bool:
            sight = self.sight
            return sight.lives > self._lives_then and sight.images >= sight.since_images + kill.share * STRIDE_IMAGES

        if not self.wait_for(lambda: is_far_enough() and are_there()):
            return None
        if kill.moment == "writing":  # a matter of milliseconds: the victims are known by then
            before = self.sight.checkpoints()
            if not self.wait_for(lambda: self.sight.is_writing(before), poll_seconds=0.0005):
                return None
        return found

    def victims(self, kill: Kill) -> list[psutil.Process]:
        """Whom it would hit now, perhaps nobody."""
        assert self.process is not None
        if kill.victim in ("dvc", "group"):
            return [psutil.Process(self.process.pid)] if self.process.poll() is None else []
        found = []
        for process in self.family.members():
            with contextlib.suppress(psutil.Error):
                if FIND[kill.victim](process):
                    found.append(process)
        if kill.victim == "worker":
            return found[int(kill.pick * len(found)) :][:1]
        return found if kill.victim == "workers" else found[-1:]  # the newest: an older one is on its way out

    def strike(self, kill: Kill, victims: list[psutil.Process]) -> bool:
        """Kill -9; whether anybody was still there."""
        hit = False
        for victim in victims:
            with contextlib.suppress(psutil.Error, ProcessLookupError):
                if kill.victim == "group":
                    os.killpg(victim.pid, signal.SIGKILL)
                else:
                    victim.kill()
                hit = True
        if hit:
            self.torn += kill.moment == "writing" and self.sight.is_local and self.sight.is_writing([])
            self._lives_then, self._killed_at, self._sign = self.sight.lives, time.monotonic(), time.monotonic()
            self.followed = []
        return hit

    def tail(self) -> str:
        return f"last output:\n{self.log.read_text(errors='replace')[-4000:]}"

    def close(self) -> list[str]:
        """End; the command lines of what was still alive some time after the command had got through."""
        deadline = time.monotonic() + 30
        while (alive := self.family.members()) and time.monotonic() < deadline:
            time.sleep(0.2)
        left = []
        for process in alive:
            with contextlib.suppress(psutil.Error):
                left.append(" ".join(process.cmdline())[:160] or process.name())
        self.family.end()
        return left


class Chaos:
    """Kill until there were enough kills.

    Attributes:
        template: a clone with prepared data, in which nothing is trained.
        scratch: a folder with a short name: Ray's sockets lie below it.
        state: "folder", or the address below which each round gets a state of its own.
    """

    def __init__(self, template: Clone, scratch: Path, *, state: str = "folder") -> None:
        self.template = template
        self.scratch = scratch
        self.state = state
        self.by_victim: Counter[str] = Counter()
        self.by_moment: Counter[str] = Counter()
        self.totals: Counter[str] = Counter()
        self.left: list[str] = []
        self.differences: list[str] = []
        code = "from pipeline import identity, preflight; p = preflight.load(); print(identity.identity(p).key[:16])"
        self.key = template.run("python", "-c", code).stdout.split()[-1]

    def new_round(self, name: str) -> Round:
        uri = self.key if self.state == "folder" else f"{self.state}/{name}/{self.key}"
        return Round(self.template, self.scratch / name, uri)

    def undisturbed(self) -> dict[str, str]:
        """Output path -> hash of a training that nobody touched."""
        quiet = self.new_round("quiet")
        try:
            quiet.wait_for(lambda: False)
            if quiet.failures:
                raise Stuck(f"the undisturbed training failed; {quiet.tail()}")
            assert {"models", "reports/training/history.csv"} <= set(quiet.clone.lock())
            return quiet.clone.lock()
        finally:
            self.left += quiet.close()

    def run(self, count: int, seed: int) -> dict[str, Any]:
        """`count` kills with the choices of `seed`; the summary."""
        print(f"seed {seed}", flush=True)
        start = time.monotonic()
        expected = self.undisturbed()
        print(f"undisturbed: {time.monotonic() - start:.0f} s, {len(expected)} hashes", flush=True)
        plan, done, rounds = kills(seed), 0, 0
        kill = next(plan)
        start = time.monotonic()
        while done < count:
            rounds += 1
            disturbed = self.new_round(str(rounds))
            line = ""
            try:
                while done < count:
                    victims = disturbed.victims_at(kill)
                    if victims is None:
                        break
                    followed = list(disturbed.followed)
                    if not disturbed.strike(kill, victims):
                        continue
                    self._tell(line, followed)
                    done += 1
                    self.by_victim[kill.victim] += 1
                    self.by_moment[kill.moment] += 1
                    line = f"{done:>4}/{count}  {kill.victim:<7}  {kill.moment:<8}  at {disturbed.sight.images:>7,} images"
                    kill = next(plan)
                else:
                    disturbed.wait_for(lambda: False)
                self._tell(line, disturbed.followed)
                found = disturbed.clone.lock()
                different = sorted(path for path in expected.keys() | found.keys() if expected.get(path) != found.get(path))
                self.differences += [f"round {rounds}: {path}" for path in different]
                print(f"round {rounds}: " + ("hashes equal" if not different else f"DIFFERENT: {', '.join(different)}"), flush=True)
                for event in disturbed.sight.events:
                    self.totals["resumes"] += event.get("kind") == "resumed"
                    self.totals["images_computed_twice"] += event.get("computed_again", 0)
                self.totals["runs_that_failed"] += disturbed.failures
                self.totals["torn_checkpoints"] += disturbed.torn
                left = disturbed.close()
                if left:
                    print(f"round {rounds}: left over: {left}", flush=True)
                self.left += left
            finally:
                disturbed.family.end()
        return {
            "kills": done,
            "resumes": self.totals["resumes"],
            "images_computed_twice": self.totals["images_computed_twice"],
            "hashes_equal": not self.differences,
            "seed": seed,
            "by_victim": dict(sorted(self.by_victim.items())),
            "by_moment": dict(sorted(self.by_moment.items())),
            "torn_checkpoints": self.totals["torn_checkpoints"],
            "runs_that_failed": self.totals["runs_that_failed"],
            "processes_left": len(self.left),
            "rounds": rounds,
            "seconds": round(time.monotonic() - start),
        }

    def _tell(self, line: str, followed: list[str]) -> None:
        if line:
            print(f"{line}  ->  {'; '.join(followed) or 'the next kill'}", flush=True)


def prepared_clone(scratch: Path) -> Clone:
    """A clone with the digits prepared."""
    (scratch / "home").mkdir()
    clone = new_clone(scratch / "template", scratch / "home")
    clone.run("dvc", "repro", "prepare")
    return clone


@contextlib.contextmanager
def short_folder() -> Iterator[Path]:
    """A temporary folder whose name leaves room for Ray's sockets."""
    folder = Path(tempfile.mkdtemp(prefix="chaos-", dir="/tmp"))
    try:
        yield folder
    finally:
        Family(folder).end()
        shutil.rmtree(folder, ignore_errors=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=None, help="of the choices; the clock by default")
    parser.add_argument("--state-uri", choices=["folder", "s3"], default="folder", help="s3: on an object store started for it")
    args = parser.parse_args()
    seed = args.seed if args.seed is not None else int(time.time())
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # unwinds: nothing is left behind
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(short_folder())
        clone = prepared_clone(scratch)
        clone.set(**RECIPE)
        state = "folder"
        if args.state_uri == "s3":
            store = stack.enter_context(object_store())
            clone.environment |= store.environment
            os.environ.update(store.environment)
            state = store.uri
        try:
            summary = Chaos(clone, scratch, state=state).run(args.kills, seed)
        except Stuck as problem:
            sys.exit(f"error: {problem}\nseed {seed}")
    print(json.dumps(summary))
    sys.exit(not summary["hashes_equal"] or summary["processes_left"] > 0)


if __name__ == "__main__":
    main()
