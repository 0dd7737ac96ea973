"""What DVC keeps of a version's inputs and outs, by md5: from its cache, else from its remote; every byte is verified."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ganlib.redact import redacted
from ganlib.storage import open_storage
from pipeline.cached_outs import cache_folder

DVC_SECONDS = 60.0
FOLDER = ".dir"  # at the end of an md5: of the list of a folder


class MissingError(ValueError):
    """An object that is nowhere, or not as it was."""


@dataclass(frozen=True)
class Objects:
    """DVC's objects.

    Args:
        root: the project.
        scratch: an empty folder, for what comes from the remote.
    """

    root: Path
    scratch: Path = field(repr=False)

    @cached_property
    def cache(self) -> Path | None:
        return cache_folder(self.root)

    @cached_property
    def remote(self) -> str | None:
        """The address of DVC's default remote."""
        name = self._dvc("config", "core.remote")
        listed = dict(line.split(None, 1) for line in self._dvc("remote", "list").splitlines() if line.strip())
        address = listed.get(name, "").removesuffix("(default)").strip()
        return address or None

    def path(self, md5: str) -> Path:
        """The file of an object.

        Raises:
            MissingError: says where it was looked for.
        """
        name = f"files/md5/{md5[:2]}/{md5[2:]}"
        damaged = ""
        if self.cache is not None and (path := self.cache / name).is_file():
            if _md5(path) == md5.removesuffix(FOLDER):
                return path
            damaged = f"DVC's cache has other bytes at {path}; "
        if self.remote is not None:
            got = self.scratch / md5
            try:
                got.write_bytes(open_storage(self.remote).read(name))
            except FileNotFoundError:
                damaged += f"the remote {redacted(self.remote)} does not have it; "
            except (OSError, ValueError) as error:
                damaged += f"the remote {redacted(self.remote)} does not give it: {redacted(str(error))}; "
            else:
                if _md5(got) == md5.removesuffix(FOLDER):
                    return got
                damaged += f"the remote {redacted(self.remote)} has other bytes; "
        where = damaged or f"it is not in DVC's cache{'' if self.remote is not None else ', and there is no remote'}; "
        raise MissingError(f"object {md5}: {where.removesuffix('; ')}")

    def listed(self, md5: str) -> dict[str, str]:
        """Path -> md5 of the files of a folder; `{"": md5}` of a single file."""
        if not md5.endswith(FOLDER):
            return {"": md5}
        entries: list[dict[str, Any]] = json.loads(self.path(md5).read_bytes())
        return {entry["relpath"]: entry["md5"] for entry in entries}

    def lay(self, md5: str, target: Path) -> None:
        """Copy a file or a folder out."""
        for name, each in self.listed(md5).items():
            path = target / name if name else target
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.path(each), path)

    def _dvc(self, *arguments: str) -> str:
        if not (self.root / ".dvc").is_dir():
            return ""
        command = [sys.executable, "-m", "dvc", *arguments]
        with contextlib.suppress(OSError, subprocess.SubprocessError):  # no default remote is exit code 251
            return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True, timeout=DVC_SECONDS).stdout.strip()
        return ""


def every(objects: Objects, md5: str) -> Iterator[tuple[str, Path]]:
    """Each file of an out, verified."""
    for name, each in objects.listed(md5).items():
        yield name, objects.path(each)


def dvc_md5(path: str, files: Mapping[str, bytes]) -> str | None:
    """DVC's md5 of a file or a folder among `files`; None where there is none."""
    if path in files:
        return hashlib.md5(files[path], usedforsecurity=False).hexdigest()
    inside = sorted((name.removeprefix(f"{path}/"), data) for name, data in files.items() if name.startswith(f"{path}/"))
    entries = [{"md5": hashlib.md5(data, usedforsecurity=False).hexdigest(), "relpath": name} for name, data in inside]
    return hashlib.md5(json.dumps(entries).encode(), usedforsecurity=False).hexdigest() + FOLDER if entries else None


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()
