"""Your own folder of image files."""

import os
from pathlib import Path

from ganlib.data import suffixes
from ganlib.data.pack import PackWriter
from ganlib.data.raw import MAX_CLASSES, Fetched
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES
from ganlib.files import require_space

SUFFIXES = (*suffixes.READ, *suffixes.NOT_READ)  # an image that cannot be read is a broken one, never just another file


@SOURCES.register("image_folder")
class ImageFolder:
    """A folder of images, searched recursively; subfolders of the first level are the classes, files without one have no label."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        folder = Path(config.path)
        if not folder.is_dir():
            raise ValueError(f"{folder} is not a folder (params.yaml: data.path)")
        images, ignored = find_images(folder)
        if not images:
            found = f"{len(ignored):,} other files, the first {ignored[0]}" if ignored else "no files at all"
            raise ValueError(
                f"{folder} holds no images, but {found}; expected files ending in {' '.join(suffixes.READ)} (params.yaml: data.path)"
            )
        class_names = _class_names(images, folder)
        require_space(raw, needed_bytes=sum((folder / path).stat().st_size for path in images))
        number = {name: index for index, name in enumerate(class_names or ())}
        with PackWriter(raw) as pack:
            for path in images:
                label = number[path.split("/")[0]] if class_names else None
                pack.append(printable(path), label, (folder / path).read_bytes())
        names = None if class_names is None else tuple(map(printable, class_names))
        return Fetched(layout="pack", class_names=names, ignored_files=tuple(map(printable, ignored)))


def printable(path: str) -> str:
    """A file name as UTF-8, whatever its bytes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def find_images(folder: Path) -> tuple[list[str], list[str]]:
    """Images and other files below `folder` as sorted relative POSIX paths; hidden ones count as others, links are followed once."""
    images: list[str] = []
    others: list[str] = []
    seen = {folder.resolve()}
    pending = [folder]
    while pending:
        for entry in sorted(os.scandir(pending.pop()), key=lambda entry: entry.name):
            path = Path(entry.path)
            name = path.relative_to(folder).as_posix()
            if entry.is_dir() and not entry.name.startswith("."):
                if path.resolve() not in seen:
                    seen.add(path.resolve())
                    pending.append(path)
            elif entry.is_file() and not entry.name.startswith(".") and path.suffix.lower() in SUFFIXES:
                images.append(name)
            else:
                others.append(name)
    return sorted(images), sorted(others)


def _class_names(images: list[str], folder: Path) -> tuple[str, ...] | None:
    loose = [path for path in images if "/" not in path]
    if len(loose) == len(images):
        return None
    if loose:
        raise ValueError(
            f"{folder} holds {len(loose):,} images beside its class folders, the first {loose[0]}; "
            "move every image into a class folder, or none"
        )
    names = tuple(sorted({path.split("/")[0] for path in images}))
    if len(names) > MAX_CLASSES:
        raise ValueError(f"{folder} holds {len(names):,} class folders, expected at most {MAX_CLASSES:,}")
    return names
