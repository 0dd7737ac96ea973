"""Which extractors `reference.extractor` asks for: registered names, `torchscript:PATH`, `auto`, or a list of these."""

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from ganlib.metrics import EXTRACTORS
from ganlib.metrics.imagenet import ImageNet, check_channels, weights_path
from ganlib.metrics.interface import Extractor, Images
from ganlib.metrics.torchscript import TorchScript

KEY = "reference.extractor"
AUTO = "auto"
FILE = "torchscript:"
FOLDER = "data/extractors"  # where the files are: a dep of the reference stage


def asked(extractor: str | Sequence[str]) -> tuple[str, ...]:
    """The setting as a list."""
    return (extractor,) if isinstance(extractor, str) else tuple(extractor)


def resolved(names: Sequence[str], *, channels: int, num_classes: int) -> tuple[str, ...]:
    """`names` with what `auto` stands for in its place, each once: the first is the main one.

    For RGB ImageNet's features, which see what a small classifier is blind to (benchmarks/ruler.py), and beside them the classifier where there are
    two classes or more. Else the classifier, whose FID keeps the order of faults on grey pictures, or rotation where there are no classes.

    Args:
        num_classes: with images in the train split.
    """
    learned = ("classifier",) if num_classes > 1 else ("rotation",)
    chosen = (ImageNet.name, *(name for name in learned if name == "classifier")) if channels == 3 else learned
    return tuple(dict.fromkeys(part for name in names for part in (chosen if name == AUTO else (name,))))


def kind(name: str) -> type[Extractor]:
    """The registered class behind `name`, which is not `auto`.

    Raises:
        ValueError: no such extractor, or a file that is not below FOLDER.
    """
    if name.startswith(FILE):
        path = PurePosixPath(name.removeprefix(FILE))
        if path.is_absolute() or ".." in path.parts or not path.is_relative_to(FOLDER) or path == PurePosixPath(FOLDER):
            raise ValueError(
                f"{KEY}={name!r}: the file must be below {FOLDER}, so that a changed file is measured anew; put it there and "
                f"set {KEY}: {FILE}{FOLDER}/{path.name or 'NAME.pt'}"
            )
        return TorchScript
    if name == TorchScript.name:
        raise ValueError(f"{KEY}={name!r} needs a file; set {KEY}: {FILE}{FOLDER}/NAME.pt")
    try:
        return EXTRACTORS.get(name, key=KEY)  # type: ignore[no-any-return]
    except ValueError as error:
        raise ValueError(f"{error}, auto, {FILE}{FOLDER}/NAME.pt") from None


def label(name: str) -> str:
    """What an extractor is called in keys and folders: its name, or its file's without the ending."""
    return PurePosixPath(name.removeprefix(FILE)).stem if name.startswith(FILE) else name


def check(extractor: str | Sequence[str], *, channels: int, root: Path) -> None:
    """What can be known before there are data.

    Raises:
        ValueError: unknown names, a file or a package that is missing, pictures that one cannot see, two extractors under one label.
    """
    names = asked(extractor)
    if not names or len(set(names)) < len(names):
        raise ValueError(f"{KEY}={list(names)} must name each extractor once, and one at least; set {KEY}: auto")
    for name in names:
        if name == AUTO:
            continue
        kind(name)
        if name.startswith(FILE) and not (root / name.removeprefix(FILE)).is_file():
            raise ValueError(f"{KEY}={name!r}: there is no such file; put it there, or `dvc pull` one that DVC tracks")
    if ImageNet.name in resolved(names, channels=channels, num_classes=2):
        check_channels(channels)
        weights_path()
    labels = [label(name) for name in resolved(names, channels=channels, num_classes=2)]
    if twice := sorted({each for each in labels if labels.count(each) > 1}):
        raise ValueError(f"{KEY}={list(names)}: two extractors would both be called {twice[0]!r}; rename one of the files")


def fit(name: str, images: Images, *, seed: int, epochs: float, root: Path) -> Extractor:
    """The extractor `name` (not `auto`) for the train split `images` of the project folder `root`.

    Raises:
        ValueError: these data cannot train it; a package or a file is missing.
    """
    if kind(name) is TorchScript:
        return TorchScript.of(root / name.removeprefix(FILE), images.shape)
    return kind(name).fit(images, images.labels, seed=seed, epochs=epochs)
