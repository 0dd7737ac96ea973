"""The data contract: what was found while preparing, whether it is good enough, and the report that says so."""

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from ganlib.data.arrow import SPLITS
from ganlib.data.raw import SourceInfo
from ganlib.data.splits import Splitting
from ganlib.data.values import Survey

SHOWN = 20  # offenders named in a message or report
SHOWN_DUPLICATES = 5
MIN_SPLIT_IMAGES = 2
TINY_CLASS_IMAGES = 10
IMBALANCE_WARNING = 0.1  # smallest class / largest class


@dataclass(frozen=True, kw_only=True)
class Converted:
    """A range of source rows after conversion; n of them were usable."""

    images: np.ndarray  # [n, C, H, W] as they are stored: uint8 of images
    labels: np.ndarray  # [n] int64, -1 without labels
    given: np.ndarray  # [n] int8 index into SPLITS of the split that the source gave, -1 without
    rows: np.ndarray  # [n] int64, number in the source
    pages: np.ndarray  # [n] int64, number in its file from 0; -1 where only one was taken
    digests: np.ndarray  # [n, 2] uint64: the first 16 bytes of the content digest
    sizes: np.ndarray  # [n, 2] int64: original height, width
    broken: tuple[tuple[str, str], ...]  # (name, reason) of the others
    broken_labels: np.ndarray  # [len(broken)] int64, -1 where there is none
    survey: Survey
    others: Mapping[str, np.ndarray] = field(default_factory=dict)  # further columns: [n, C, H, W] as they are stored


class Contract:
    """Gathers counts over the converted ranges; about 50 bytes an image are kept, no pixels.

    Args:
        size: wanted (height, width).
        on_error: `fail` makes `check` refuse broken images.
        splitting: how the images are split; says in the report which splits were given.
        value_range: what was mapped to 8 bits.
    """

    def __init__(
        self,
        *,
        class_names: tuple[str, ...] | None,
        size: tuple[int, int],
        on_error: Literal["fail", "skip"],
        splitting: Splitting,
        value_range: tuple[float, float] | None = None,
    ) -> None:
        self.class_names = class_names
        self.num_broken = 0
        self._broken: list[tuple[str, str]] = []
        self._size = size
        self._on_error = on_error
        self._splitting = splitting
        self._value_range = value_range
        self.survey = Survey()
        self._broken_by_class: dict[int, tuple[int, str, str]] = {}  # count, and name and reason of the first
        self._pages: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._splits: list[np.ndarray] = []
        self._rows: list[np.ndarray] = []
        self._digests: list[np.ndarray] = []
        self._smallest, self._largest = np.full(2, np.iinfo(np.int64).max), np.zeros(2, np.int64)
        self._num_resized = self._num_enlarged = 0

    def add(self, part: Converted, splits: np.ndarray) -> None:
        """Count a range; `splits` [n] int8 says where each image went."""
        self.num_broken += len(part.broken)
        self._broken += part.broken[: SHOWN - len(self._broken)]
        for label, (name, reason) in zip(part.broken_labels.tolist(), part.broken, strict=True):
            count, first, why = self._broken_by_class.get(label, (0, name, reason))
            self._broken_by_class[label] = (count + 1, first, why)
        self.survey.merge(part.survey)
        self._labels.append(part.labels)
        self._pages.append(part.pages)
        self._splits.append(splits)
        self._rows.append(part.rows)
        self._digests.append(part.digests)
        if len(part.sizes):
            self._smallest = np.minimum(self._smallest, part.sizes.min(axis=0))
            self._largest = np.maximum(self._largest, part.sizes.max(axis=0))
            self._num_resized += int((part.sizes != self._size).any(axis=1).sum())
            self._num_enlarged += int((part.sizes < self._size).any(axis=1).sum())

    def check(self, *, switched_off: Collection[str] = ()) -> None:
        """Raise ValueError when the data cannot be trained on: broken images under on_error=fail, or a split that is too small.

        Args:
            switched_off: splits that are to be empty: their fraction is 0.
        """
        total = sum(map(len, self._splits))
        if self.num_broken and self._on_error == "fail":
            lines = "\n".join(f"  {name}: {reason}" for name, reason in self._broken)
            first = f", the first {SHOWN}" if self.num_broken > SHOWN else ""
            raise ValueError(
                f"{self.num_broken:,} of {total + self.num_broken:,} images cannot be used{first}:\n{lines}\n"
                + "".join(f"{line}\n" for line in self._unmapped())
                + "Repair or remove them, or set data.on_error=skip to leave them out"
            )
        self._check_vanished_classes()
        counts = self.split_counts()
        small = [
            f"{split} has {count}" for split, count in counts.items() if count < MIN_SPLIT_IMAGES and (count or split not in switched_off)
        ]
        if small:
            distinct = total - self._duplicates()["extra_copies"]
            left_out = f", {self.num_broken:,} broken ones left out" if self.num_broken else ""
            raise ValueError(
                f"{total:,} images ({distinct:,} distinct{left_out}) do not fill the splits: {', '.join(small)}, expected at least "
                f"{MIN_SPLIT_IMAGES} images in each of {', '.join(SPLITS)}; add images, or raise data.val_fraction and data.test_fraction, "
                "or set one of them to 0.0 to do without that split" + "".join(f"\n{line}" for line in self._unmapped())
            )

    def _unmapped(self) -> list[str]:
        return self.survey.unmapped() if self._value_range is None else []

    def _check_vanished_classes(self) -> None:
        """Raise ValueError where every image of a class is broken: leaving out all of it is another data set, not a few files less."""
        if self.class_names is None:
            return
        left = np.bincount(_joined(self._labels, np.int64), minlength=len(self.class_names))
        gone = [
            (name, *self._broken_by_class[label])
            for label, name in enumerate(self.class_names)
            if label in self._broken_by_class and not left[label]
        ]
        if gone:
            lines = "\n".join(f"  {name}: {count:,} images, the first {first}: {reason}" for name, count, first, reason in gone[:SHOWN])
            raise ValueError(
                f"{len(gone):,} of {len(self.class_names):,} classes have no image that can be used:\n{lines}\n"
                + "".join(f"{line}\n" for line in self._unmapped())
                + "Repair or convert them, or take the class away from the data"
            )

    def split_counts(self) -> dict[str, int]:
        """Images of each split."""
        splits = _joined(self._splits, np.int8)
        return {name: int((splits == index).sum()) for index, name in enumerate(SPLITS)}

    def class_counts(self) -> dict[str, list[int] | None]:
        """Images of each class, by split; None for unlabelled data."""
        if self.class_names is None:
            return dict.fromkeys(SPLITS)
        labels, splits = _joined(self._labels, np.int64), _joined(self._splits, np.int8)
        classes = len(self.class_names)
        return {name: np.bincount(labels[splits == index], minlength=classes).tolist() for index, name in enumerate(SPLITS)}

    def report(self, source: SourceInfo, name_of: Callable[[int], str]) -> dict[str, Any]:
        """reports/data.json. `name_of` gives the name of a source row."""
        counts = self.split_counts()
        total = sum(counts.values())
        duplicates = self._duplicates(name_of)
        leaked = self._leaked()
        classes = self._classes()
        return {
            "source": source.source,
            "images": {"total": total, **counts},
            "splits": {
                "by": "given" if self._splitting.given else "content",
                "given": dict(self._splitting.given),
                "carved_from_train": list(self._splitting.carved),
                "also_in_train": leaked,
            },
            "classes": classes,
            "broken": {"count": self.num_broken, "first": [{"name": name, "reason": reason} for name, reason in self._broken]},
            "sizes": {
                "wanted": list(self._size),
                "resized": self._num_resized,
                "enlarged": self._num_enlarged,
                "smallest_height_width": self._smallest.tolist(),
                "largest_height_width": self._largest.tolist(),
            },
            "values": self.survey.report(),
            "value_range": None if self._value_range is None else list(self._value_range),
            "pages": {
                "files_with_several": self.survey.several_pages,
                "most_in_a_file": self.survey.most_pages,
                "left_out": self.survey.pages_left_out,
            },
            "followed_by_unknown_bytes": {"count": len(self.survey.followed), "first": self.survey.followed[:SHOWN]},
            "duplicates": duplicates,
            "ignored_files": {"count": source.ignored_count, "first": list(source.ignored_examples)},
            "notes": list(source.notes),
            "warnings": self._warnings(total, duplicates, classes) + self._leak_warnings(leaked, counts),
        }

    def _classes(self) -> dict[str, Any] | None:
        if self.class_names is None:
            return None
        by_split = self.class_counts()
        table = {name: {split: (by_split[split] or [])[index] for split in SPLITS} for index, name in enumerate(self.class_names)}
        totals = {name: sum(row.values()) for name, row in table.items()}
        there = {name: row for name, row in table.items() if totals[name]}
        empty = [name for name in table if name not in there]  # numbers that no label has, names without a file
        return {
            "count": len(there),
            "without_images": {"count": len(empty), "first": empty[:SHOWN]},
            "images": there,
            "balance": round(min((totals[name] for name in there), default=0) / max(max(totals.values(), default=0), 1), 6),
        }

    def _duplicates(self, name_of: Callable[[int], str] = str) -> dict[str, Any]:
        """Images with equal prepared pixels: groups of at least two, the copies beyond the first, and groups with more than one label."""
        digests = _joined(self._digests, np.uint64).reshape(-1, 2)
        labels, rows, pages = (_joined(parts, np.int64) for parts in (self._labels, self._rows, self._pages))
        order, is_copy = _equal_neighbours(digests)
        group = np.cumsum(~is_copy) - 1  # [n] number of the group, in the order of `order`
        members = np.bincount(group, minlength=0) if len(group) else np.zeros(0, np.int64)
        differs = np.zeros(len(order), bool)
        differs[1:] = is_copy[1:] & (labels[order][1:] != labels[order][:-1])
        starts = np.flatnonzero(~is_copy)
        shared = np.flatnonzero(members > 1)
        shared = shared[np.argsort(rows[order][starts[shared]], kind="stable")][:SHOWN_DUPLICATES]

        def name(index: int) -> str:
            page = int(pages[index])
            return name_of(int(rows[index])) + (f"[{page}]" if page >= 0 else "")

        return {
            "groups": int((members > 1).sum()),
            "extra_copies": int(is_copy.sum()),
            "groups_with_several_labels": len(np.unique(group[differs])),
            "first": [[name(index) for index in order[starts[g] : starts[g] + min(members[g], 5)]] for g in shared],
        }

    def _leaked(self) -> dict[str, int]:
        """Images of val and test whose pixels are in train too: none where all are split by content."""
        order, is_copy = _equal_neighbours(_joined(self._digests, np.uint64).reshape(-1, 2))
        splits = _joined(self._splits, np.int8)[order]
        group = np.cumsum(~is_copy) - 1
        is_learnt = np.bincount(group, weights=splits == SPLITS.index("train")) > 0  # [groups]
        return {name: int((is_learnt[group] & (splits == SPLITS.index(name))).sum()) for name in ("val", "test")}

    def _leak_warnings(self, leaked: dict[str, int], counts: dict[str, int]) -> list[str]:
        return [
            f"{count:,} of {counts[name]:,} {name} images have the pixels of a training image (the split is given, so none was moved): "
            "figures on it flatter what memorises; data.splits=content keeps equal images together"
            for name, count in leaked.items()
            if count
        ]

    def _warnings(self, total: int, duplicates: dict[str, Any], classes: dict[str, Any] | None) -> list[str]:
        found = []
        if self.num_broken:
            found.append(f"{self.num_broken:,} broken images were left out (data.on_error=skip)")
        survey = self.survey
        found += survey.warnings(self._value_range)
        if survey.pages_left_out:
            found.append(
                f"{survey.several_pages:,} files hold several pages or frames, up to {survey.most_pages:,}: the first of each was taken, "
                f"{survey.pages_left_out:,} were left out; data.pages=all takes them"
            )
        if survey.followed:
            found.append(
                f"{len(survey.followed):,} files go on after the end of their picture with bytes of an unknown kind, the first {survey.followed[0]}"
            )
        if self._num_enlarged:
            found.append(
                f"{self._num_enlarged:,} of {total:,} images are smaller than {list(self._size)} and were enlarged: they are blurred"
            )
        if duplicates["extra_copies"]:
            where = "each stays in its given split" if self._splitting.given else "copies share a split"
            found.append(f"{duplicates['extra_copies']:,} images are exact copies of another one; {where}")
        if duplicates["groups_with_several_labels"]:
            found.append(f"{duplicates['groups_with_several_labels']:,} groups of equal images have more than one label")
        if classes is not None:
            sums = {name: sum(row.values()) for name, row in classes["images"].items()}
            tiny = [f"{name} ({count})" for name, count in sums.items() if count < TINY_CLASS_IMAGES]
            if tiny:
                found.append(f"{len(tiny):,} classes have fewer than {TINY_CLASS_IMAGES} images: {', '.join(tiny[:SHOWN])}")
            if (empty := classes["without_images"])["count"]:
                found.append(f"{empty['count']:,} classes are named and have no image: {', '.join(empty['first'])}")
            for split in (split for split in SPLITS if any(row[split] for row in classes["images"].values())):
                missing = [name for name, row in classes["images"].items() if row[split] == 0]
                if missing:
                    found.append(f"{len(missing):,} classes have no image in the {split} split: {', '.join(missing[:SHOWN])}")
            if classes["balance"] < IMBALANCE_WARNING:
                found.append(f"the smallest class has {classes['balance']:.3g} times the images of the largest")
        return found


def _equal_neighbours(digests: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order [n] that puts equal rows of `digests` ([n, 2]) side by side, first come first, and [n] whether one equals the row before it there."""
    order = np.lexsort((np.arange(len(digests)), digests[:, 1], digests[:, 0]))
    ordered = digests[order]
    is_copy = np.zeros(len(order), bool)
    is_copy[1:] = (ordered[1:] == ordered[:-1]).all(axis=1)
    return order, is_copy


def _joined(parts: list[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)
