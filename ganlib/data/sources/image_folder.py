"""Your own folder of image files."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ganlib.data import suffixes
from ganlib.data.arrange import Arranging
from ganlib.data.pack import PackWriter
from ganlib.data.raw import Fetched
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES
from ganlib.data.tree import Tree, open_zip, printable, read_folder
from ganlib.files import require_space

SUFFIXES = (*suffixes.READ, *suffixes.NOT_READ)  # an image that cannot be read is a broken one, never just another file


@SOURCES.register("image_folder")
class ImageFolder:
    """A folder or a zip of images: class folders, splits above them, a file of labels, StyleGAN's dump, or plain files (docs/data.md)."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        with _opened(Path(config.path), config.max_inflation) as (tree, beside):
            images, others = split_images(tree.files)
            ignored = [*others, *tree.left_out, *beside]
            if not images:
                found = f"{len(ignored):,} other files, the first {printable(min(ignored))}" if ignored else "no files at all"
                raise ValueError(
                    f"{tree.where} holds no images, but {found}; expected files ending in {' '.join(suffixes.READ)} (params.yaml: data.path)"
                )
            arranged = Arranging(
                tree=tree, others=others, classes=config.classes, image_column=config.image_column, label_column=config.label_column
            ).arrange(images)
            ignored = sorted(set(ignored) - set(arranged.label_files))
            require_space(raw, needed_bytes=sum(tree.size_bytes(image.path) for image in arranged.images))
            number = {name: index for index, name in enumerate(arranged.class_names or ())}
            with PackWriter(raw) as pack:
                for image in arranged.images:
                    label = None if image.label is None else number[image.label]
                    pack.append(printable(image.path), label, tree.read(image.path), image.split)
            inside = [f"all images are from the archive {printable(Path(tree.where).name)}"] if Path(tree.where).is_file() else []
            return Fetched(
                layout="pack",
                class_names=arranged.class_names,
                ignored_files=tuple(map(printable, ignored)),
                notes=(*inside, *arranged.notes),
            )


@contextmanager
def _opened(path: Path, max_inflation: int) -> Iterator[tuple[Tree, list[str]]]:
    """The files at `path`, a folder or a zip archive, or in the one archive of a folder without images; and what lies beside the archive."""
    if path.is_file():
        with open_zip(path, max_inflation=max_inflation) as archive:
            yield archive, []
        return
    if not path.is_dir():
        raise ValueError(f"{path} is not a folder, nor a zip archive (params.yaml: data.path)")
    tree = read_folder(path)
    images, others = split_images(tree.files)
    zips = [name for name in others if name.lower().endswith(".zip")]
    if images or not zips:
        yield tree, []
        return
    if len(zips) > 1:
        raise ValueError(
            f"{path} holds {len(zips):,} zip archives, {', '.join(map(printable, zips[:5]))}; set data.path to one, or unpack them"
        )
    with open_zip(path / zips[0], max_inflation=max_inflation) as archive:
        yield archive, [name for name in (*others, *tree.left_out) if name != zips[0]]


def split_images(files: list[str]) -> tuple[list[str], list[str]]:
    """Images, by the ending of their name, and the other files; both in order."""
    images = [path for path in files if Path(path).suffix.lower() in SUFFIXES]
    return images, sorted(set(files) - set(images))
