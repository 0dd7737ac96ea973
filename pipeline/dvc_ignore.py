"""What DVC does not hash must not be read: a .dvcignore above data.path hides files from the dependency, not from the fetch."""

from pathlib import Path

from ganlib.data.tree import printable, read_folder

HARMLESS = {"__pycache__", "*.pyc"}  # the project's own lines: no data


def refuse_ignored(folder: Path, root: Path) -> None:
    """Raise ValueError where the .dvcignore files of the project `root` leave out a file below `folder` (a .dvcignore in it DVC refuses itself)."""
    above = [parent / ".dvcignore" for parent in (root, *folder.parents) if parent == root or root in parent.parents]
    lines = {line.strip() for file in above if file.is_file() for line in file.read_text(encoding="utf-8").splitlines()}
    if not folder.is_dir() or all(not line or line.startswith("#") or line in HARMLESS for line in lines):
        return
    from dvc.fs import LocalFileSystem  # takes most of a second
    from dvc.ignore import DvcIgnoreFilter

    files = LocalFileSystem()
    seen = {Path(parent, name) for parent, _, names in DvcIgnoreFilter(files, str(root)).walk(files, str(folder)) for name in names}
    hidden = [path for path in read_folder(folder).files if folder / path not in seen]
    if hidden:
        raise ValueError(
            f".dvcignore hides {len(hidden):,} files of {folder} from DVC, the first {printable(hidden[0])}: it would not notice when they change; "
            "move them out of data.path, or take the line out of .dvcignore"
        )
