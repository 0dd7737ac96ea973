"""What the folders of a tree of images mean: a wrapper, splits, classes, or chunks of one set; docs/data.md has the table.

Nothing is guessed silently: what was decided stands in the notes, with the key that decides otherwise; what may mean two things is refused. The
conventions are those of torchvision's ImageFolder (folders are classes, folders above them splits), Hugging Face's imagefolder (words for splits,
files of labels beside the images, one folder alone is no class) and StyleGAN's dataset_tool.py (dataset.json, chunks of 1,000 files).
"""

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal

from ganlib.data import labels as label_files
from ganlib.data.given import split_of_folder
from ganlib.data.names import natural_key, twins
from ganlib.data.raw import MAX_CLASSES
from ganlib.data.tree import Tree, printable

Classes = Literal["auto", "none", "folders", "file"]
SHOWN = 5  # names in a message


@dataclass
class Image:
    """An image of a tree."""

    path: str  # from the tree's root
    rest: str  # below the folders of wrappers and splits
    split: str | None = None  # train, val or test, where a folder says so
    label: str | None = None

    @property
    def head(self) -> str | None:
        """Its first folder, which may be its class."""
        return self.rest.split("/", 1)[0] if "/" in self.rest else None


@dataclass
class Arranged:
    """Images in the order of their paths, all of them labelled where there are classes."""

    images: list[Image]
    class_names: tuple[str, ...] | None = None
    notes: list[str] = field(default_factory=list)
    label_files: list[str] = field(default_factory=list)  # paths of those that were read


@dataclass(frozen=True, kw_only=True)
class Arranging:
    """One tree, and what params.yaml says about its labels."""

    tree: Tree
    others: list[str]  # paths of its files that are no images
    classes: Classes
    image_column: str
    label_column: str | None

    def arrange(self, paths: list[str]) -> Arranged:
        """Give the images at `paths` (not empty) their splits and labels.

        Raises:
            ValueError: folders that may mean two things, or labels that do not fit; says what to move, or which key to set.
        """
        found = Arranged([Image(path, path) for path in paths])
        found.notes += [f"{' and '.join(map(ascii, group))} look like one name, but are two files" for group in twins(paths)[:SHOWN]]
        wrapper = self._unwrap({"": found.images})[""]
        if wrapper:
            has_more = any(image.head for image in found.images)
            hint = "" if has_more else " (data.classes: folders makes it one)"
            found.notes.append(f"{printable(wrapper[:-1])} is the only folder: it wraps the images and is no class{hint}")
        folders = self._find_splits(found, wrapper)  # folder of a split -> its images
        is_labelled = self.classes in ("auto", "file") and self._label_by_file(found, wrapper, folders)
        if not is_labelled and self.classes in ("auto", "folders"):
            self._label_by_folder(found)
        return found

    def _where(self, path: str = "") -> str:
        return printable(f"{self.tree.where}: {path}" if path else self.tree.where)

    def _unwrap(self, groups: dict[str, list[Image]]) -> dict[str, str]:
        """Take a folder that is alone off the paths of each group (folder -> its images), again and again, as long as every group has one.

        Returns:
            The folder in which each group's images now begin.
        """
        begin = {folder: folder for folder in groups}
        while True:
            heads = {folder: {image.head for image in images} for folder, images in groups.items()}
            if any(len(found) != 1 or None in found for found in heads.values()):
                return begin
            lone = {folder: str(next(iter(found))) for folder, found in heads.items()}
            is_split = "" in groups and split_of_folder(lone[""]) is not None
            is_class = self.classes == "folders" and any(image.rest.count("/") == 1 for images in groups.values() for image in images)
            if is_split or is_class or any(label_files.find(self.others, folder) for folder in begin.values()):
                return begin
            for folder, images in groups.items():
                begin[folder] += f"{lone[folder]}/"
                for image in images:
                    image.rest = image.rest.split("/", 1)[1]

    def _find_splits(self, found: Arranged, wrapper: str) -> dict[str, list[Image]]:
        """Note the split of each image whose folders say so; returns the images of each split by their folder, none where splits lie in classes."""
        by_head: defaultdict[str | None, list[Image]] = defaultdict(list)
        for image in found.images:
            by_head[image.head].append(image)
        named = {head: split for head in by_head if head is not None and (split := split_of_folder(head))}
        folders: dict[str, list[Image]] = {}
        if named and len(named) == len(by_head):
            for head, split in named.items():
                folders[f"{wrapper}{head}/"] = by_head[head]
                for image in by_head[head]:
                    image.split, image.rest = split, image.rest.split("/", 1)[1]
            self._refuse_two_of_one_split(named)
            begin = self._unwrap(folders)
            folders = {begin[folder]: images for folder, images in folders.items()}
        elif len(set(named.values())) > 1 or (named and None in by_head):
            rest = ", ".join(sorted(printable(head) for head in by_head if head and head not in named)[:SHOWN]) or "images"
            raise ValueError(
                f"{self._where(wrapper)} has folders of splits, {', '.join(sorted(named))}, and {rest} beside them; "
                f"move {rest} into one of the splits, or away"
            )
        elif None not in by_head and self._lie_in_classes(by_head):
            for image in found.images:
                head, inner, rest = image.rest.split("/", 2)
                image.split, image.rest = split_of_folder(inner), f"{head}/{rest}"
        elif named:
            found.notes.append(f"the folder {', '.join(named)} is a class: the folders beside it are no splits")
        counts = Counter(image.split for image in found.images if image.split)
        if counts:
            found.notes.append(f"split folders: {', '.join(f'{split} {count:,}' for split, count in sorted(counts.items()))} images")
        return folders

    def _refuse_two_of_one_split(self, named: dict[str, str]) -> None:
        for split in set(named.values()):
            folders = sorted(head for head, other in named.items() if other == split)
            if len(folders) > 1:
                raise ValueError(f"{self._where()} has {' and '.join(folders)}, which are both the {split} split; move them into one")

    @staticmethod
    def _lie_in_classes(by_head: dict[str | None, list[Image]]) -> bool:
        """Whether every folder holds nothing but folders of splits: cats/train, cats/test, dogs/train, ..."""
        inner = {image.rest.split("/")[1] if image.rest.count("/") > 1 else None for images in by_head.values() for image in images}
        splits = [split_of_folder(name) if name else None for name in inner]
        return None not in splits and len(set(splits)) == len(splits) > 1

    def _label_by_file(self, found: Arranged, wrapper: str, folders: dict[str, list[Image]]) -> bool:
        """Take the labels from files beside the images; whether there are such files, and have the last word."""
        groups = {wrapper: found.images} if label_files.find(self.others, wrapper) else folders
        files = {folder: path for folder in groups if (path := label_files.find(self.others, folder))}
        found.label_files = sorted(files.values())
        if inner := sorted(path for folder in folders if folder not in files and (path := label_files.find(self.others, folder))):
            raise ValueError(f"{self._where()}: {found.label_files[0]} and {inner[0]} would both label the images of a split; remove one")
        labels: dict[str, label_files.Label] = {}  # by path
        refused = ""
        for folder, path in files.items():
            entries = label_files.read(self.tree, path, image_column=self.image_column, label_column=self.label_column)
            if isinstance(entries, str):
                refused = f"{printable(path)} labels nothing: {entries}"
                found.notes.append(refused)
            else:
                below = [image.path.removeprefix(folder) for image in groups[folder]]
                matched = label_files.match(entries, below, where=self._where(path))
                labels |= {folder + rest: label for rest, label in matched.items()}
        if self.classes == "file" and not labels:
            looked = ", ".join(label_files.FILES)
            raise ValueError(
                f"data.classes=file, but {refused or f'{self._where(wrapper)} has none of {looked}, nor has a folder of splits in it'}; "
                "add it, or set data.classes: folders, or none"
            )
        if not labels:
            return bool(refused) and all(path.endswith(label_files.STYLEGAN) for path in files.values())
        names = label_files.class_names(labels.values(), where=self._where(next(iter(files.values()))))
        for image in found.images:
            image.label = names[labels[image.path]] if image.path in labels else None
        found.class_names = tuple(names.values())
        found.notes.append(f"{len(names):,} classes from {', '.join(map(printable, sorted(files.values())))}")
        self._leave_out(
            found, [image for image in found.images if image.label is None], f"have no line in {' or '.join(sorted(files.values()))}"
        )
        return True

    def _label_by_folder(self, found: Arranged) -> None:
        """Make the first folders the classes, unless they are none."""
        heads: defaultdict[str | None, set[str | None]] = defaultdict(set)  # split -> folders in it
        for image in found.images:
            heads[image.split].add(image.head)
        every = set().union(*heads.values())
        trained = heads.get("train", every)  # of the images to train on
        if every == {None}:
            if self.classes == "folders":
                raise ValueError(f"data.classes=folders, but {self._where()} has no class folders; make some, or set data.classes: none")
            return
        for split, names in heads.items():
            if None in names and len(names) > 1:
                loose = [image.path for image in found.images if image.split == split and image.head is None]
                raise ValueError(
                    f"{self._where(split or '')} holds {len(loose):,} images beside its class folders, the first {printable(loose[0])}; "
                    "move every image into a class folder, or none, or set data.classes: none"
                )
        if self.classes == "auto" and len(every - {None}) == 1:
            found.notes.append(
                f"{printable(str((every - {None}).pop()))} is the only folder of images and no class (data.classes: folders makes it one)"
            )
            return
        if trained == {None} or (self.classes == "auto" and len(trained) == 1):
            others = ", ".join(sorted(printable(name) for name in every - trained if name)[:SHOWN])
            raise ValueError(
                f"{self._where()}: the train split has {'no class folders' if trained == {None} else 'one folder'}, another split has {others}; "
                "give all splits the same class folders, or set data.classes: none"
            )
        self._decide_folders(found, [image for image in found.images if image.head in trained and image.head is not None], trained, heads)

    def _decide_folders(
        self, found: Arranged, labelled: list[Image], trained: set[str | None], heads: dict[str | None, set[str | None]]
    ) -> None:
        train = [image for image in labelled if image.split in ("train", None)] or labelled
        if self.classes == "auto" and _are_chunks(train):
            found.notes.append(
                f"the folders {_range(trained)} are chunks of one set and no classes: their files are numbered on from one to the next "
                "(data.classes: folders makes them classes)"
            )
            return
        for group in twins(name for name in set().union(*heads.values()) if name):
            raise ValueError(
                f"{self._where()}: the class folders {' and '.join(map(ascii, group))} look like one name (accents composed and decomposed); "
                "move their images into one of them"
            )
        without = {split for split, names in heads.items() if not names & trained}  # Kaggle's test: loose images, or one folder for all
        for split in sorted(map(str, without)):
            if len(names := sorted(str(name) for name in heads[split])) > 1:
                raise ValueError(
                    f"{self._where()}: the {split} split has the folders {_range(names)}, none of which is a class of the train split, "
                    f"{_range(trained)}; name them alike, or set data.classes: none"
                )
        for image in found.images:
            image.label = None if image.split in without else image.head
        names = sorted({image.label for image in found.images if image.label is not None}, key=natural_key)
        if len(names) > MAX_CLASSES:
            raise ValueError(f"{self._where()} holds {len(names):,} class folders, expected at most {MAX_CLASSES:,}")
        same = Counter(name.lower() for name in names)
        found.notes += [
            f"{count} class folders are called {printable(name)} but for their case" for name, count in same.items() if count > 1
        ]
        if all(_is_number(name) for name in names):
            found.notes.append(
                f"the folders {_range(names)} are {len(names):,} classes, ordered by number (data.classes: none if they are chunks)"
            )
        for image in found.images:
            image.label = None if image.label is None else printable(image.label)
        found.class_names = tuple(map(printable, names))
        self._leave_out(
            found, [image for image in found.images if image.label is None], "lie in none of the class folders of the train split"
        )

    def _leave_out(self, found: Arranged, unlabelled: list[Image], why: str) -> None:
        """Take splits without a single label out of `found`; an unlabelled image of another split, or of the train split, is refused."""
        without = {image.split for image in unlabelled} - {image.split for image in found.images if image.label is not None}
        if refused := [image.path for image in unlabelled if image.split in (None, "train") or image.split not in without]:
            raise ValueError(
                f"{self._where()}: {len(refused):,} images {printable(why)}, the first {printable(refused[0])}; "
                "label them, take them out, or set data.classes: none"
            )
        for split in sorted(map(str, without)):
            count = sum(image.split == split for image in unlabelled)
            found.notes.append(
                f"{count:,} images of the {split} split {printable(why)}: they were left out, as if there were no {split} split "
                "(data.classes: none takes all images, without labels)"
            )
        found.images = [image for image in found.images if image.label is not None]


def _is_number(name: str) -> bool:
    return re.fullmatch("[0-9]+", name) is not None


def _range(names: Iterable[str | None]) -> str:
    ordered = sorted((name for name in names if name is not None), key=natural_key)
    return ", ".join(map(printable, ordered if len(ordered) <= SHOWN else [*ordered[:2], "...", ordered[-1]]))


def _are_chunks(images: list[Image]) -> bool:
    """Whether folders named by numbers with leading zeros go on counting their files where the folder before stopped, as dumps of one set do.

    Class folders begin anew (GTSRB's 00000/00000_00000.ppm), or have numbers from all over the set (MNIST's 0/1.png, 0/21.png).
    """
    numbers: defaultdict[str, list[int]] = defaultdict(list)
    for image in images:
        digits = re.findall("[0-9]+", image.rest.rsplit("/", 1)[-1].rsplit(".", 1)[0])
        if image.head is None or not _is_number(image.head) or not digits:
            return False
        numbers[image.head].append(int(digits[-1]))
    ordered = [numbers[name] for name in sorted(numbers, key=natural_key)]
    is_padded = any(name != str(int(name)) for name in numbers)
    return is_padded and all(max(before) < min(after) for before, after in itertools.pairwise(ordered))
