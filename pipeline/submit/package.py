"""The commit as a package: what a cluster gets is what git holds, with the overrides written into its params.yaml."""

import configparser
import hashlib
import io
import subprocess
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ganlib.redact import redacted
from pipeline import edit

MAX_PACKAGE_BYTES = 100 * 2**20  # Ray's dashboard refuses a larger request body (DASHBOARD_CLIENT_MAX_SIZE)
JOB_SCRIPT = "infra/job.sh"
# Options of a DVC remote that are secrets.
SECRET_OPTIONS = frozenset(
    {
        *("password", "secret_access_key", "session_token", "account_key", "sas_token", "connection_string", "client_secret"),
        *("oss_key_secret", "token", "gdrive_client_secret", "key_password"),
    }
)
ZIP_TIME = (1980, 1, 1, 0, 0, 0)  # one commit with one set of overrides is one package, byte for byte: Ray uploads it once


@dataclass(frozen=True, kw_only=True)
class Package:
    """One zipped commit.

    Attributes:
        digest: sha256 of the names, permissions and bytes in it: the same whatever zlib packs them.
        remote: address of its default DVC remote; empty without one.
        tree: folder with the files in it.
    """

    path: Path
    commit: str
    size_bytes: int
    params: dict[str, Any]
    digest: str
    remote: str
    tree: Path


def head_commit(root: Path) -> str:
    """The commit that would be sent.

    Raises:
        ValueError: `root` is no git repository, or has no commit.
    """
    return git(root, "rev-parse", "--verify", "HEAD").decode().strip()


def uncommitted(root: Path) -> list[str]:
    """Changed, staged and untracked files below `root`, ignored ones left out: none of these is sent."""
    return git(root, "status", "--porcelain", "--untracked-files=all", "--", ".").decode().splitlines()


def package_commit(
    root: Path,
    folder: Path,
    *,
    overrides: Sequence[str] = (),
    validate: Callable[[dict[str, Any]], object],
    max_bytes: int = MAX_PACKAGE_BYTES,
) -> Package:
    """Zip the tracked files of HEAD below `root` into `folder`, with `key=value` overrides applied to params.yaml.

    Raises:
        ValueError: no commit, no job script in it, bad overrides or params, a secret in params.yaml or .dvc/config, a DVC remote that only this
            clone can see, or a package of `max_bytes` or more.
    """
    commit = head_commit(root)
    tree = folder / "tree"
    with tarfile.open(fileobj=io.BytesIO(git(root, "archive", "--format=tar", "HEAD"))) as archive:
        archive.extractall(tree, filter="data")
    for name in (JOB_SCRIPT, "params.yaml", "dvc.yaml", ".dvc/config"):
        if not (tree / name).is_file():
            raise ValueError(f"commit {commit[:12]} holds no {name}, which the job needs: commit it, then submit again")
    params = edit.override(tree / "params.yaml", overrides)
    validate(params)
    _refuse_secrets(params)
    remote = _remote(tree / ".dvc" / "config")
    path = folder / f"{commit[:12]}.zip"
    digest = _zip(tree, path)
    size_bytes = path.stat().st_size
    if size_bytes >= max_bytes:
        raise ValueError(_too_large(tree, size_bytes, max_bytes))
    return Package(path=path, commit=commit, size_bytes=size_bytes, params=params, digest=digest, remote=remote, tree=tree)


def _refuse_secrets(value: Any, key: str = "") -> None:
    """Raise ValueError where a value of params.yaml has a password in it: Ray hands the package to whoever asks for it."""
    if isinstance(value, dict):
        for name, inner in value.items():
            _refuse_secrets(inner, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for inner in value:
            _refuse_secrets(inner, key)
    elif isinstance(value, str) and redacted(value) != value:
        raise ValueError(
            f"{key}={redacted(value)} has a password in it, which everyone who reaches the job server could read: take it out, and give it to "
            "the nodes (their own environment, or a file there that --credentials names)"
        )


def _remote(config: Path) -> str:
    """Address of the default remote in a .dvc/config.

    Raises:
        ValueError: a secret in it, a folder relative to the clone, or no such remote.
    """
    parser = configparser.ConfigParser(interpolation=None, strict=False)
    try:
        parser.read_string(config.read_text(encoding="utf-8"))
    except (configparser.Error, ValueError) as error:
        raise ValueError(f".dvc/config cannot be read: {error}") from None
    for section in parser.sections():
        for option, value in parser.items(section):
            if option in SECRET_OPTIONS or redacted(value) != value:
                raise ValueError(
                    f".dvc/config of the commit holds a secret ({section}: {option}): move it to .dvc/config.local with `dvc remote modify "
                    "--local`, take it out of the history, and give the nodes their own"
                )
    name = parser.get("core", "remote", fallback="")
    if not name:
        return ""
    url = next(
        (parser.get(section, "url", fallback="") for section in (f"'remote \"{name}\"'", f'remote "{name}"') if section in parser), ""
    )
    if not url:
        raise ValueError(f".dvc/config of the commit names the remote {name}, but has no url for it: commit what `dvc remote add` wrote")
    if "://" not in url and not Path(url).is_absolute():
        raise ValueError(
            f"the DVC remote {name} is {url}, a folder relative to the clone, which the job's copy of it has not: give an absolute path that every "
            "node sees, or an object store (.dvc/config)"
        )
    return url


def _zip(tree: Path, path: Path) -> str:
    """Zip a folder: files sorted, times fixed, permissions kept, links to files followed. Returns the digest of what is in it."""
    digest = hashlib.sha256()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(tree.rglob("*")):
            if file.is_symlink() and not file.is_file():
                raise ValueError(f"{file.relative_to(tree)} is a link to a folder or to nothing: commit the files themselves")
            if file.is_file():
                entry = zipfile.ZipInfo(file.relative_to(tree).as_posix(), ZIP_TIME)
                entry.external_attr = (file.stat().st_mode & 0xFFFF) << 16
                data = file.read_bytes()
                archive.writestr(entry, data, zipfile.ZIP_DEFLATED)
                digest.update(f"{entry.filename}\0{file.stat().st_mode & 0o111:o}\0{len(data)}\0".encode() + data)
    return digest.hexdigest()


def _too_large(tree: Path, size_bytes: int, max_bytes: int) -> str:
    files = sorted(((file.stat().st_size, file.relative_to(tree).as_posix()) for file in tree.rglob("*") if file.is_file()), reverse=True)
    largest = "\n".join(f"  {_mib(size):>12}  {name}" for size, name in files[:5])
    return (
        f"the commit is {_mib(size_bytes)} zipped; a job package must be smaller than {_mib(max_bytes)}. Largest files:\n{largest}\n"
        "Take data and models out of git (`dvc add`, a DVC remote), then commit and submit again"
    )


def _mib(size_bytes: int) -> str:
    return f"{size_bytes / 2**20:.2f} MiB"


def git(root: Path, *arguments: str) -> bytes:
    """What git prints in `root`; ValueError where it fails."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, check=False)
    except FileNotFoundError:
        raise ValueError(f"git is not installed, or {root} is no folder: a job is sent from a git commit") from None
    if done.returncode:
        raise ValueError(f"git {arguments[0]} failed in {root}: {done.stderr.decode(errors='replace').strip()}")
    return done.stdout
