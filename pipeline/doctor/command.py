"""`ganpipe doctor --checkpoint GLOB -- COMMAND`: does a training that is killed and resumed end in the bytes of one that never was?

    ganpipe doctor --checkpoint '{out}/*.safetensors' -- python train.py --out {out}
    ganpipe doctor --checkpoint 'runs/**/*.pt' --resume --resume-from-last -- python train.py

COMMAND is run to its end, once more, once more on what it left (it has nothing to do: what it writes is what it read), then killed after a checkpoint
and resumed, then killed while it writes one and resumed. What GLOB finds is compared byte for byte (safetensors, torch with weights_only, npz, json),
and the first tensor or number that differs is named, with what kind of state it is. Resuming is running COMMAND again.

`{out}` stands for a fresh folder a training. Without it, every training has a copy of the current folder. Where a training is to end in the same
bytes whoever runs it, `{workers}` stands for how many do (`torchrun --nproc-per-node {workers}`): 1 in all of these lives, 2 in one more, and 2 that
go on where 1 was killed. Exit code 1: something differs.
"""

import argparse
import re
import shlex
import sys
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from pipeline.doctor.checkpoints import CLOCKS, Difference, Entry, UnreadableError, differences, kind
from pipeline.doctor.runs import OUT, WORKERS, DiedError, Place, Script, When

Snapshot = Mapping[str, Mapping[str, Entry]]
MUST_SAVE = ("RNG", "sampler")  # what is forgotten most: no error, and other numbers
LIMIT_SECONDS = 600.0
MOST_SHOWN = 8
KILLS: Mapping[When, str] = {"after": "killed after a checkpoint and resumed", "while": "killed while it wrote a checkpoint and resumed"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """What is wrong.

    Attributes:
        where: in which life.
        differences: causes before their consequences; none where it could not go on at all.
    """

    where: str
    words: str
    differences: Sequence[Difference] = field(default=())

    @property
    def kind(self) -> str:
        """Of the first difference; "resume" where there is none to compare."""
        return self.differences[0].kind if self.differences else "resume"

    def lines(self) -> list[str]:
        more = len(self.differences) - MOST_SHOWN
        told = [f"  {each.in_words()}" for each in self.differences[:MOST_SHOWN]]
        return [f"{self.where}: {self.words}", *told, *([f"  and {more} more"] if more > 0 else [])]


def examine(script: Script, scratch: Path, *, ignore: re.Pattern[str] | None = None, also: Sequence[str] | None = None) -> Finding | None:
    """The first thing that is wrong with resuming; None: nothing is.

    Args:
        also: another command that should come to the same (two workers).

    Raises:
        ValueError: it fails on its own, leaves no checkpoint, or none that can be read; it is over before it can be killed.
    """
    first = Place.new(script, scratch / "whole")
    try:
        changes = first.finish()
        expected = first.snapshot()
    except (DiedError, UnreadableError) as problem:
        raise ValueError(f"undisturbed, before anything was killed: {problem}") from None
    if not expected:
        raise ValueError(f"--checkpoint {script.checkpoint!r} finds nothing after an undisturbed run; expected a glob of what it writes")
    again = Place.new(script, scratch / "again")
    again.finish()
    unlike = differences(expected, again.snapshot(), ignore=ignore)
    clocks = [re.escape(each.name.partition(": ")[2]) for each in unlike if CLOCKS.search(each.name)]
    ignore = re.compile("|".join([*(f"^{name}$" for name in clocks), *([ignore.pattern] if ignore else [])])) if clocks else ignore
    if unlike := differences(expected, again.snapshot(), ignore=ignore):
        words = "two undisturbed runs differ, so no resume can be judged: seed what draws, or name what may differ with --ignore"
        return Finding(where="undisturbed", words=words, differences=unlike)
    return next(_lives(script, scratch, first, expected, changes, ignore, also), None)


def _lives(
    script: Script,
    scratch: Path,
    first: Place,
    expected: Snapshot,
    changes: int,
    ignore: re.Pattern[str] | None,
    also: Sequence[str] | None,
) -> Iterator[Finding]:
    try:
        first.finish(goes_on=True)
    except DiedError:
        pass  # some refuse to go on where nothing is left to do
    else:
        yield from _compared("finished, and resumed", expected, first, ignore, "what it writes is not what it has read: it is not restored")
    for when, where in KILLS.items():
        place = _killed(script, scratch, changes, when)
        if place is None:
            continue
        try:
            place.finish(goes_on=True)
        except DiedError as problem:
            yield Finding(where=where, words=f"it cannot be resumed: {problem}")
            return
        yield from _compared(where, expected, place, ignore, f"it does not end as an undisturbed one does{_hint(expected)}")
    if script.takes_workers:
        yield from _on_two(script, scratch, expected, changes, ignore)
    if also is not None:
        place = Place.new(script, scratch / "also")
        try:
            place.finish(command=also)
        except DiedError as problem:
            yield Finding(where=f"`{shlex.join(also)}`", words=f"it does not end: {problem}")
            return
        yield from _compared(f"`{shlex.join(also)}`", expected, place, ignore, "it does not end as the command does")


def _on_two(script: Script, scratch: Path, expected: Snapshot, changes: int, ignore: re.Pattern[str] | None) -> Iterator[Finding]:
    whole, gone_on = Place.new(script, scratch / "two"), _killed(script, scratch / "to-two", changes, "after")
    assert gone_on is not None
    for where, place, goes_on in (("on two workers", whole, False), ("killed on one worker and resumed on two", gone_on, True)):
        try:
            place.finish(goes_on=goes_on, workers=2)
        except DiedError as problem:
            yield Finding(where=where, words=f"it does not end: {problem}")
            return
        yield from _compared(where, expected, place, ignore, "it does not end as one worker does")


def _killed(script: Script, scratch: Path, changes: int, when: When) -> Place | None:
    """A training that was killed in the middle, or as early as its checkpoints let it be; None where it wrote the last one too fast.

    While it writes: of several that were killed, one whose checkpoint is only half there, where there is such a one.

    Raises:
        ValueError: it was over after its first one.
    """
    scratch.mkdir(exist_ok=True)
    found = None
    for number, count in enumerate((max(1, changes // 2), max(1, changes // 4), 1, 1)):
        place = Place.new(script, scratch / f"killed-{when}-{number}")
        if place.kill(count, when):
            found = place
            if when == "after" or not place.is_whole():
                break
    if found is None and when == "after":
        raise ValueError("it was over before it could be killed; let it train longer, and write a checkpoint early")
    return found


def _compared(where: str, expected: Snapshot, place: Place, ignore: re.Pattern[str] | None, words: str) -> Iterator[Finding]:
    try:
        found = differences(expected, place.snapshot(), ignore=ignore)
    except UnreadableError as problem:
        yield Finding(where=where, words=str(problem))
        return
    if found:
        yield Finding(where=where, words=words, differences=found)


def _hint(expected: Snapshot) -> str:
    kinds = {kind(name) for entries in expected.values() for name in entries}
    lacking = [each for each in MUST_SAVE if each not in kinds]
    return f"; no entry looks like {' or '.join(lacking)} state: what is not saved starts anew" if lacking else ""


def main(argv: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="ganpipe doctor",
        usage="ganpipe doctor --checkpoint GLOB [options] -- COMMAND ...",
        description=textwrap.dedent(__doc__ or ""),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--checkpoint", metavar="GLOB", required=True, help="what the command leaves")
    parser.add_argument("--resume", metavar="ARGUMENTS", default="", help="added to COMMAND when it is to go on")
    parser.add_argument("--also", metavar="COMMAND", help="another way to the same result: on two workers, say")
    parser.add_argument("--ignore", metavar="REGEX", help="names of entries that may differ; clocks are found by themselves")
    parser.add_argument("--timeout", type=float, default=LIMIT_SECONDS, metavar="SECONDS", help="for one life")
    parser.add_argument("command", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    options = parser.parse_args(argv)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    if not command:
        parser.error("no COMMAND after --")
    script = Script(
        command=command,
        checkpoint=options.checkpoint,
        resume=shlex.split(options.resume),
        folder=Path.cwd(),
        limit_seconds=options.timeout,
    )
    if OUT in options.checkpoint and script.is_copied:
        parser.error(f"--checkpoint has {OUT}, and COMMAND has not: where does it write to?")
    with tempfile.TemporaryDirectory(prefix="doctor-") as scratch:
        ignore = re.compile(options.ignore) if options.ignore else None
        finding = examine(script, Path(scratch), ignore=ignore, also=shlex.split(options.also) if options.also else None)
    looked = "on one worker and on two, killed" if script.takes_workers else "killed"
    print("\n".join(finding.lines()) if finding else f"{looked} and resumed, it ends in the bytes of an undisturbed run")
    if not finding and not script.takes_workers:
        print(f"one worker; write {WORKERS} in COMMAND for their number, and two are compared with one")
    sys.exit(finding is not None)
