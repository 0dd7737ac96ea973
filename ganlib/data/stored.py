"""Your own files in an object store: brought to this disk, as the folder or the file that a source then reads as `data.path`.

What is on the disk is listed in a journal, a line each, once it is whole. Whoever is interrupted, or refused for what the files are, finds it there
again: only what the store has written since, or what the disk has lost, is brought anew.
"""

import hashlib
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NamedTuple

from ganlib.data.raw import Stored
from ganlib.data.tree import printable
from ganlib.files import require_space, sha256_file
from ganlib.storage import ADDRESSES, PART_BYTES, Address, ObjectStorage, Tag

KEY = "data.source_uri"
AT_ONCE = 8  # objects; each holds a piece of about PART_BYTES in memory
BATCH = 1000  # objects whose order of arrival is not waited for
FILES, JOURNAL = "files", "brought.jsonl"


class Listed(NamedTuple):
    """An object as a listing has it."""

    name: str
    size_bytes: int
    tag: Tag


class Objects(ObjectStorage):
    """An object store as a tree of files to be read.

    Not verbs of `ObjectStorage` itself, whose code counts as that of every training: trainings that are finished would begin anew for them.
    """

    def files(self) -> list[Listed]:
        """All objects, at any depth, in no order; none where nothing is there.

        Raises:
            ValueError: a name that no path can have, `..` in it say.
            StorageError: the store does not answer, or refuses.
        """
        from obstore.exceptions import InvalidPathError

        def all_pages() -> list[Listed]:
            try:
                entries = (entry for page in self._store.list() for entry in page)
                return [Listed(entry["path"], entry["size"], Tag(entry["e_tag"], entry["version"])) for entry in entries]
            except InvalidPathError as error:
                named = re.search(r'[Pp]ath ("[^"\n]*")', str(error))
                raise ValueError(
                    f"{self.address} has an object called {named[1] if named else '?'}: no path has `.`, `..` or nothing between two slashes; "
                    "rename or remove it"
                ) from None

        return self._ask(all_pages, f"listing {self.address}")

    def look(self, name: str) -> Listed:
        """One object; raises FileNotFoundError, or StorageError."""
        entry = self._ask(lambda: self._store.head(name), f"looking at {self._at(name)}")
        return Listed(name, entry["size"], Tag(entry["e_tag"], entry["version"]))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The bytes of an object, a few MiB at a time; raises FileNotFoundError, or StorageError."""
        what = f"reading {self._at(name)}"
        parts = self._ask(lambda: iter(self._store.get(name).stream(min_chunk_size=PART_BYTES)), what)
        while (part := self._ask(lambda: next(parts, None), what)) is not None:
            yield bytes(part)


@dataclass(frozen=True, kw_only=True)
class _Line:
    """A line of the journal: a file that is whole on this disk."""

    uri: str
    name: str
    size_bytes: int
    tag: str
    sha256: str


def check(uri: str) -> None:
    """Look at the form of an address only.

    Raises:
        ValueError: it is none of an object store's.
    """
    if uri.partition("://")[0] not in ADDRESSES:
        legal = ", ".join(ADDRESSES.values())
        raise ValueError(
            f"{KEY}={uri.partition('?')[0]!r} is no address of an object store; legal: {legal}; a folder or a file goes to data.path"
        )
    Address.parse(uri, key=KEY)


@contextmanager
def bring(uri: str, folder: Path) -> Iterator[tuple[Path, Stored]]:
    """The files at `uri`, all below it or the one of that name, on this disk while the block runs. ValueErrors of the block name `uri`.

    Args:
        folder: where they are brought to; what an earlier call left of the same address is used, all else in it is removed.

    Raises:
        ValueError: nothing is there, names that no folder can have, or an object that changed meanwhile.
        StorageError: the store does not answer, or refuses.
    """
    check(uri)
    storage, found = _listed(uri)
    lines = _bring_all(storage, uri, found, folder)
    digest = hashlib.sha256("".join(f"{line.sha256}  {line.name}\n" for line in lines).encode())
    stored = Stored(uri=uri, num_files=len(lines), size_bytes=sum(line.size_bytes for line in lines), sha256=digest.hexdigest())
    path = folder / FILES
    if storage.uri != uri:  # one file, in the folder above it
        path /= found[0].name
    try:
        yield path, stored
    except ValueError as error:
        raise ValueError(str(error).replace(str(path), uri.partition("?")[0]).replace("data.path", KEY)) from None


def _listed(uri: str) -> tuple[Objects, list[Listed]]:
    """The files below `uri`, in order, or the one that it names, and the storage to read them from."""
    storage = Objects(uri, key=KEY)
    found = _files_of(storage)
    if found:
        return storage, found
    address, mark, options = uri.partition("?")
    above, _, name = address.rstrip("/").rpartition("/")
    if Address.parse(uri, key=KEY).prefix:
        parent = Objects(f"{above}{mark}{options}", key=KEY)
        with suppress(FileNotFoundError):
            return parent, [parent.look(name)]
    raise ValueError(f"{address} holds nothing: there is no object of that name, and none below it (params.yaml: {KEY})")


def _files_of(storage: Objects) -> list[Listed]:
    """Sorted, without the empty objects that some clients write to show a folder.

    Raises:
        ValueError: a name that is a file's and a folder's, or leads out of the folder.
    """
    found = sorted(storage.files())
    folders = {file.name[:end] for file in found for end, letter in enumerate(file.name) if letter == "/"}
    for file in found:
        if any(part in ("", ".", "..") for part in file.name.split("/")) and file.name:
            raise ValueError(f"{storage.uri} has an object called {file.name!r}, which leads out of a folder; rename or remove it")
        if file.name in folders and file.size_bytes:
            raise ValueError(
                f"{storage.uri} has an object called {file.name!r} and others below {file.name + '/'!r}; no folder can: rename one"
            )
    return [file for file in found if file.name and file.name not in folders]


def _bring_all(storage: Objects, uri: str, found: Sequence[Listed], folder: Path) -> list[_Line]:
    """Bring what is not there yet; a line for each of `found`, in its order."""
    files, journal = folder / FILES, folder / JOURNAL
    whole = {line.name: line for line in _journal(journal) if line.uri == uri}
    wanted = {file.name: file for file in found}
    whole = {name: line for name, line in whole.items() if name in wanted and _is_whole(files / name, line, wanted[name])}
    _remove_others(files, whole)
    lacking = [file for file in found if file.name not in whole]
    require_space(files, needed_bytes=sum(file.size_bytes for file in lacking))
    files.mkdir(parents=True, exist_ok=True)
    stopped = threading.Event()
    with journal.open("w", encoding="utf-8") as lines:
        lines.writelines(f"{json.dumps(asdict(line))}\n" for line in whole.values())
        pool = ThreadPoolExecutor(AT_ONCE, thread_name_prefix="bring")
        try:
            for start in range(0, len(lacking), BATCH):
                batch = lacking[start : start + BATCH]
                for done in as_completed([pool.submit(_bring_one, storage, uri, file, files / file.name, stopped) for file in batch]):
                    line = whole[done.result().name] = done.result()
                    lines.write(f"{json.dumps(asdict(line))}\n")
                    lines.flush()
        finally:
            stopped.set()
            pool.shutdown(cancel_futures=True)
    return [whole[file.name] for file in found]


def _bring_one(storage: Objects, uri: str, file: Listed, path: Path, stopped: threading.Event) -> _Line:
    path.parent.mkdir(parents=True, exist_ok=True)
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with path.open("wb") as target:
            for chunk in storage.chunks(file.name):
                if stopped.is_set():
                    raise InterruptedError("stopped")  # heard by nobody: what stopped us is told
                target.write(chunk)
                digest.update(chunk)
                size_bytes += len(chunk)
    except FileNotFoundError:
        size_bytes = -1
    if size_bytes != file.size_bytes:
        raise ValueError(
            f"{storage.uri.partition('?')[0]}/{printable(file.name)} was written or removed while the files were brought; run the same command again "
            "when nobody writes there"
        )
    return _Line(uri=uri, name=file.name, size_bytes=size_bytes, tag=_words(file), sha256=digest.hexdigest())


def _words(file: Listed) -> str:
    """The version of a file as one text; "" where the store names none."""
    return "" if file.tag.e_tag is None and file.tag.version is None else json.dumps(file.tag)


def _is_whole(path: Path, line: _Line, file: Listed) -> bool:
    """Whether the file on the disk is what was brought, and that is still what the store has."""
    if not line.tag or (line.tag, line.size_bytes) != (_words(file), file.size_bytes) or not path.is_file():
        return False
    return sha256_file(path) == line.sha256


def _journal(path: Path) -> list[_Line]:
    found = []
    with suppress(FileNotFoundError):
        for text in path.read_text(encoding="utf-8").splitlines():
            with suppress(ValueError, TypeError):  # cut by a kill
                found.append(_Line(**json.loads(text)))
    return found


def _remove_others(files: Path, whole: dict[str, _Line]) -> None:
    """Leave the files that are whole, and folders with something in them."""
    if not whole:
        shutil.rmtree(files, ignore_errors=True)
        return
    for at, _, names in os.walk(files, topdown=False):
        for name in names:
            path = Path(at) / name
            if path.relative_to(files).as_posix() not in whole:
                path.unlink()
        with suppress(OSError):  # not empty
            Path(at).rmdir()
