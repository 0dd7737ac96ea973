"""Your own IDX files."""

from pathlib import Path

from ganlib.data.idx import check_pairs, copy_uncompressed, find_pairs
from ganlib.data.raw import Fetched, numbered_classes
from ganlib.data.settings import DataConfig
from ganlib.data.sources import SOURCES


@SOURCES.register("idx")
class Idx:
    """IDX files as MNIST has them, .gz or not: *images-idx3-ubyte (grey) or *images-idx4-ubyte (RGB), *labels-idx1-ubyte optional."""

    def fetch(self, config: DataConfig, raw: Path) -> Fetched:
        pairs = find_pairs(Path(config.path))
        if not pairs:
            raise ValueError(
                f"{config.path} holds no IDX images; expected names like train-images-idx3-ubyte.gz "
                "with train-labels-idx1-ubyte.gz beside it (params.yaml: data.path)"
            )

        def copy(path: Path) -> Path:
            return copy_uncompressed(path, raw, max_inflation=config.max_inflation)

        copied = [(copy(images), None if labels is None else copy(labels)) for images, labels in pairs]
        labels = check_pairs(copied)
        return Fetched(layout="idx", class_names=None if labels is None else numbered_classes(labels, where=config.path))
