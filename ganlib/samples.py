"""Generated images on disk as people open them: written batch by batch, read image by image, never all in memory.

Three formats hold the same PNG bytes, and `samples.json` beside them says which it is and what the images are of. What is no picture (another
modality) is written as parquet alone, a list of numbers a row:

    parquet     samples.parquet, the layout of Hugging Face: a struct column of encoded images, `datasets.load_dataset("parquet")` shows pictures
    png         images/CLASS/000000.png (images/000000.png without classes) and images/metadata.csv, an `imagefolder` with metadata
    webdataset  shards/00000.tar, ... with 000000.png, 000000.cls (with classes) and 000000.json

The one file for all of them: a format is forty lines, and a writer and its reader are read together.
"""

import csv
import difflib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image, PngImagePlugin

from ganlib import modalities
from ganlib.fields import IMAGE
from ganlib.files import write_json
from ganlib.pictures import NOTICE

Format = Literal["parquet", "png", "webdataset"]
FACTS_FILE, PARQUET_FILE = "samples.json", "samples.parquet"
IMAGES, SHARDS, METADATA_FILE = "images", "shards", "metadata.csv"
VERSION = 1  # of samples.json
OF_NUMBERS: Format = "parquet"  # the one format of what is no picture
GROUP_IMAGES, GROUP_BYTES = 2_000, 32 << 20  # of a row group of Parquet, the bytes of its pixels: what a reader holds at once
SHARD_IMAGES = 10_000
TAR_END = bytes(2 * tarfile.BLOCKSIZE)
COMPRESS_LEVEL = 1  # part of the bytes; 512x512 RGB: half the time of zlib's own 6 for 15 % more bytes
RERUN = "run `dvc repro sample`"


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What `samples.json` says of all images together.

    Attributes:
        shape: (C, H, W).
        class_names: of every class of the generator, () where it is told none.
        drawn_classes: numbers of the classes that were asked for (`sample.classes`); None: all of them, as often as the data have them.
        fed_with: the split whose image i was made into image i; None: they were drawn from latents.
        first: number of the first image, of a part of many.
        modality: of what is made (`ganlib.modalities`).
    """

    shape: tuple[int, int, int]
    seed: int
    generator_sha256: str
    class_names: tuple[str, ...] = ()
    drawn_classes: tuple[int, ...] | None = None
    truncation: float = 1.0
    fed_with: str | None = None
    first: int = 0
    modality: str = IMAGE

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of the stored rows."""
        return np.dtype(modalities.of(self.modality).dtype)

    def latents(self, generator: Mapping[str, Any]) -> dict[str, Any]:
        """Which latents the images were made of: two generators that were fed the same ones are compared image by image.

        Args:
            generator: models/generator.json.
        """
        z = generator.get("input", {}).get("z", {})
        fed = {"fed_with": self.fed_with} if self.fed_with is not None else {}
        return {"seed": self.seed, **{key: value for key, value in z.items() if key in ("shape", "distribution")}, **fed}


def asked_classes(
    wanted: Sequence[str | int] | Mapping[str | int, int] | None, names: Sequence[str], counts: Sequence[int]
) -> dict[int, int | None]:
    """`sample.classes` as class number -> images to draw of it, None for as often as the data have it; {} where all are drawn.

    A word is a class name, a number a class's number: 0 is the first of `names`.

    Args:
        names: of every class; empty for an unconditional generator.
        counts: training images of each class.

    Raises:
        ValueError: no such class, one that is named twice, one without training images, or no classes at all.
    """
    if wanted is None:
        return {}
    if not names:
        raise ValueError(
            "sample.classes names classes, but the generator is told none; set sample.classes: null, or model.conditional: true"
        )
    asked: dict[int, int | None] = {}
    for item in wanted:
        number = item if isinstance(item, int) else names.index(item) if item in names else -1
        if not 0 <= number < len(names):
            shown = ", ".join(f"{i} {name}" for i, name in enumerate(names))
            near = difflib.get_close_matches(str(item), names, n=1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise ValueError(f"sample.classes has {item!r}, which is no class of the data{hint}; legal: {shown}")
        if isinstance(item, int) and str(item) in names and names[item] != str(item):
            raise ValueError(
                f"sample.classes has {item}: class number {item} is {names[item]!r}, but another class is called {str(item)!r}; "
                f"write {names[item]!r} or {str(item)!r}, in quotation marks"
            )
        if number in asked:
            raise ValueError(f"sample.classes names the class {names[number]!r} twice")
        if not counts[number]:
            raise ValueError(f"sample.classes has {item!r}, a class without training images, which the generator never saw; leave it out")
        asked[number] = wanted[item] if isinstance(wanted, Mapping) else None
    return asked


def encode_png(image: np.ndarray) -> bytes:
    """[C, H, W] uint8 of 1, 3 or 4 channels -> PNG that says that it is synthetic; equal pixels give equal bytes."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Notice", NOTICE)
    stream = io.BytesIO()
    Image.fromarray(image[0] if len(image) == 1 else image.transpose(1, 2, 0)).save(
        stream, "png", compress_level=COMPRESS_LEVEL, pnginfo=text
    )
    return stream.getvalue()


def decode_png(data: bytes) -> np.ndarray:
    """The inverse: [C, H, W] uint8."""
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(image)
    return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)


Put = Callable[[int, np.ndarray, int | None], None]  # index, one image [C, H, W], its class
WriteFile = Callable[[str, bytes], None]  # its place in the folder, its bytes


class Store(Protocol):
    """The images of one format."""

    labels: np.ndarray | None  # [N] int64

    def __len__(self) -> int: ...

    def row(self, index: int) -> np.ndarray:
        """One image, decoded."""


class Writer:
    """Takes batches in order; holds one row group at most."""

    def __init__(self, facts: Facts, put: Put) -> None:
        self.facts = facts
        self.num_images = 0
        self._put = put

    def add(self, images: np.ndarray, labels: np.ndarray | None) -> None:
        """`images` [n, C, H, W] as they are stored, `labels` [n] int64 of a conditional generator, else None."""
        assert images.dtype == self.facts.dtype, images.dtype
        assert images.shape[1:] == self.facts.shape, images.shape
        assert (labels is not None) == bool(self.facts.class_names)
        for image, label in zip(images, [None] * len(images) if labels is None else labels.tolist(), strict=True):
            self._put(self.facts.first + self.num_images, image, label)
            self.num_images += 1


@contextmanager
def writing(folder: Path, facts: Facts, format: Format, *, write_file: WriteFile | None = None) -> Iterator[Writer]:
    """A writer into the existing, empty `folder`; what it was given is whole when the block has ended without an error.

    Args:
        write_file: for the images of a format that has a file for each; None: they are written here.

    Raises:
        ValueError: a format of pictures for what is none.
    """
    check_format(format, facts.modality)

    def write_here(place: str, data: bytes) -> None:
        (folder / place).write_bytes(data)

    with FORMATS[format].writing(folder, facts, write_file or write_here) as put:
        writer = Writer(facts, put)
        yield writer
    said = {"version": VERSION, "format": format, "notice": NOTICE, "images": writer.num_images}
    of_all = {key: list(value) if isinstance(value, tuple) else value for key, value in asdict(facts).items()}
    if facts.fed_with is None:
        del of_all["fed_with"]
    if not facts.first:
        del of_all["first"]
    if facts.modality == IMAGE:
        del of_all["modality"]
    write_json(folder / FACTS_FILE, said | of_all)


def check_format(format: Format, modality: str) -> None:
    """Raise ValueError where `sample.format` holds pictures, and the modality is none."""
    if modality != IMAGE and format != OF_NUMBERS:
        raise ValueError(
            f"sample.format={format!r} holds pictures, and data.modality={modality!r} makes rows of numbers; set sample.format: {OF_NUMBERS}"
        )


class Samples:
    """Written samples: `ganlib.metrics.interface.Images`, decoded when they are asked for.

    Raises:
        ValueError: no samples, or not what `samples.json` says; names the stage to rerun.
    """

    def __init__(self, folder: Path) -> None:
        try:
            said = json.loads((folder / FACTS_FILE).read_text(encoding="utf-8"))
            if said.pop("version") != VERSION:
                raise ValueError("unknown version")
            format, count = said.pop("format"), said.pop("images")
            said.pop("notice")
            tuples = {key: tuple(value) for key, value in said.items() if isinstance(value, list)}
            self.facts = Facts(**said | tuples)
            self._store: Store = FORMATS[format].reader(folder, self.facts)
        except (OSError, ValueError, KeyError, TypeError, pa.ArrowException, tarfile.TarError) as error:
            raise ValueError(f"the samples in {folder} cannot be read ({error}); {RERUN}") from None
        if len(self._store) != count:
            raise ValueError(f"{folder} holds {len(self._store):,} images, its {FACTS_FILE} says {count:,}; {RERUN}")

    @property
    def shape(self) -> tuple[int, int, int]:
        return self.facts.shape

    @property
    def labels(self) -> np.ndarray | None:
        """[N] int64: the classes that were asked for."""
        return self._store.labels

    @property
    def class_counts(self) -> dict[str, int]:
        """Class name -> samples that were asked to be of it; empty for an unconditional generator."""
        numbers, counts = np.unique([] if self.labels is None else self.labels, return_counts=True)
        return {self.facts.class_names[int(number)]: int(count) for number, count in zip(numbers, counts, strict=True)}

    def __len__(self) -> int:
        return len(self._store)

    def gather(self, indices: np.ndarray) -> np.ndarray:
        """[n] int64 -> [n, C, H, W] as they are stored, uint8 of images, in that order.

        Raises:
            ValueError: an image of another shape than the others.
        """
        images = np.empty((len(indices), *self.shape), self.facts.dtype)
        last = -1
        for position, index in enumerate(indices.tolist()):
            if index == last:  # a batch is filled up with its last image
                images[position] = images[position - 1]
                continue
            image, last = self._store.row(index), index
            if image.shape != self.shape:
                raise ValueError(f"sample {index} is {image.shape}, the others are {self.shape}; {RERUN}")
            images[position] = image
        return images


# ---- parquet ----


@contextmanager
def _writing_parquet(folder: Path, facts: Facts, _: WriteFile) -> Iterator[Put]:
    schema = _parquet_schema(facts)
    rows_per_group = min(GROUP_IMAGES, max(1, GROUP_BYTES // int(np.prod(facts.shape))))
    rows: list[dict[str, Any]] = []
    with pq.ParquetWriter(folder / PARQUET_FILE, schema, compression="zstd", use_dictionary=["seed", "label"]) as file:

        def put(index: int, image: np.ndarray, label: int | None) -> None:
            if facts.modality == IMAGE:
                cell: Any = {"bytes": encode_png(image), "path": f"{_name(index)}.png"}
            else:
                cell = image.ravel()
            rows.append({facts.modality: cell, "seed": facts.seed, "index": index, "label": label})
            if len(rows) == rows_per_group:
                file.write_table(pa.Table.from_pylist(rows, schema=schema))
                rows.clear()

        yield put
        if rows:
            file.write_table(pa.Table.from_pylist(rows, schema=schema))


def _parquet_schema(facts: Facts) -> pa.Schema:
    """Columns image, seed, index, label (null: unconditional); `huggingface` says what they are, as the library `datasets` writes it.

    Of another modality the first column is called as it is, and holds a row's numbers in C order.
    """
    integer = {"dtype": "int64", "_type": "Value"}
    count, is_picture = int(np.prod(facts.shape)), facts.modality == IMAGE
    numbers = {"feature": {"dtype": facts.dtype.name, "_type": "Value"}, "length": count, "_type": "Sequence"}
    features = {
        facts.modality: {"_type": "Image"} if is_picture else numbers,
        "seed": integer,
        "index": integer,
        "label": {"names": list(facts.class_names), "_type": "ClassLabel"} if facts.class_names else integer,
    }
    metadata = {
        "huggingface": json.dumps({"info": {"features": features}}, ensure_ascii=False),
        "shape": json.dumps(list(facts.shape)),
        "notice": NOTICE,
        "generator_sha256": facts.generator_sha256,
        **({"truncation": repr(facts.truncation)} if facts.truncation != 1.0 else {}),
    }
    encoded = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    first = encoded if is_picture else pa.list_(pa.from_numpy_dtype(facts.dtype), count)
    return pa.schema([(facts.modality, first), ("seed", pa.int64()), ("index", pa.int64()), ("label", pa.int64())], metadata=metadata)


class _Parquet:
    def __init__(self, folder: Path, facts: Facts) -> None:
        self._file = pq.ParquetFile(folder / PARQUET_FILE)
        self._facts = facts
        groups = [self._file.metadata.row_group(i).num_rows for i in range(self._file.num_row_groups)]
        self._starts = np.cumsum([0, *groups])
        self._group = lru_cache(maxsize=1)(self._read)
        self.labels = self._file.read(columns=["label"])["label"].to_numpy() if facts.class_names else None

    def _read(self, group: int) -> Any:
        """The encoded images of a row group, or its numbers [n, C, H, W]."""
        if self._facts.modality == IMAGE:
            return self._file.read_row_group(group, columns=["image.bytes"])["image"].combine_chunks().field("bytes")
        column = self._file.read_row_group(group, columns=[self._facts.modality])[self._facts.modality].combine_chunks()
        return column.flatten().to_numpy().reshape(-1, *self._facts.shape)

    def __len__(self) -> int:
        return int(self._starts[-1])

    def row(self, index: int) -> np.ndarray:
        group = int(np.searchsorted(self._starts, index, side="right")) - 1
        found = self._group(group)[index - int(self._starts[group])]
        return decode_png(found.as_py()) if self._facts.modality == IMAGE else found


# ---- png ----

COLUMNS = ("file_name", "seed", "index", "label", "class")


@contextmanager
def _writing_png(folder: Path, facts: Facts, write_file: WriteFile) -> Iterator[Put]:
    images = folder / IMAGES
    images.mkdir()
    names, drawn = folder_names(facts.class_names), set()
    for name in names:
        (images / name).mkdir()
    with (images / METADATA_FILE).open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(COLUMNS if names else COLUMNS[:3])

        def put(index: int, image: np.ndarray, label: int | None) -> None:
            place = f"{_name(index)}.png" if label is None else f"{names[label]}/{_name(index)}.png"
            write_file(f"{IMAGES}/{place}", encode_png(image))
            drawn.add(label)
            table.writerow([place, facts.seed, index, *([] if label is None else [label, facts.class_names[label]])])

        yield put
    for label, name in enumerate(names):  # a class of which nothing was drawn is no class of these images
        if label not in drawn:
            (images / name).rmdir()


def folder_names(class_names: Sequence[str]) -> list[str]:
    """A folder for each class, named as it is; what a file system cannot hold stands as %XX."""
    names = ["".join(f"%{ord(c):02X}" if c in '/\\:*?"<>|%' or ord(c) < 32 else c for c in name) for name in class_names]
    names = [f"%2E{name[1:]}" if name.startswith(".") else name or "%" for name in names]
    folded = [name.casefold() for name in names]  # two such folders are one on some file systems
    return [f"{name} %{i}" if folded.count(name.casefold()) > 1 else name for i, name in enumerate(names)]


class _Png:
    def __init__(self, folder: Path, facts: Facts) -> None:
        self._images = folder / IMAGES
        with (self._images / METADATA_FILE).open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        self._places = [row["file_name"] for row in rows]
        self.labels = np.array([row["label"] for row in rows], np.int64) if facts.class_names else None

    def __len__(self) -> int:
        return len(self._places)

    def row(self, index: int) -> np.ndarray:
        return decode_png((self._images / self._places[index]).read_bytes())


# ---- webdataset ----


@contextmanager
def _writing_webdataset(folder: Path, facts: Facts, _: WriteFile) -> Iterator[Put]:
    shards = folder / SHARDS
    shards.mkdir()
    with ExitStack() as stack:
        shard: BinaryIO | None = None

        def member(name: str, data: bytes) -> None:  # tarfile's own writer keeps a record of every member
            assert shard is not None
            shard.write(tar_header(name, len(data)) + data + bytes(-len(data) % tarfile.BLOCKSIZE))

        def put(index: int, image: np.ndarray, label: int | None) -> None:
            nonlocal shard
            if (index - facts.first) % SHARD_IMAGES == 0:
                if shard is not None:
                    shard.write(TAR_END)
                    shard.close()
                shard = stack.enter_context((shards / f"{(index - facts.first) // SHARD_IMAGES:05d}.tar").open("wb"))
            said: dict[str, Any] = {"seed": facts.seed, "index": index, "notice": NOTICE}
            if label is not None:
                said |= {"label": label, "class": facts.class_names[label]}
                member(f"{_name(index)}.cls", str(label).encode())
            member(f"{_name(index)}.json", json.dumps(said, ensure_ascii=False).encode())
            member(f"{_name(index)}.png", encode_png(image))

        yield put
        if shard is not None:
            shard.write(TAR_END)


@lru_cache(maxsize=1)
def _header_of_nothing() -> bytes:
    return tarfile.TarInfo("").tobuf(tarfile.USTAR_FORMAT)  # owner 0, time 0: equal images give equal shards


def tar_header(name: str, size: int) -> bytes:
    """What tarfile writes before a member with a name of at most 100 ASCII characters (POSIX.1-1988, ustar), at a tenth of the cost."""
    header = bytearray(_header_of_nothing())
    header[: len(name)] = name.encode("ascii")
    header[124:135] = b"%011o" % size
    header[148:156] = b" " * 8  # what the checksum takes itself for
    header[148:155] = b"%06o\0" % sum(header)
    return bytes(header)


class _WebDataset:
    def __init__(self, folder: Path, facts: Facts) -> None:
        self._places: list[tuple[Path, int, int]] = []  # shard, offset, size
        labels = []
        for path in sorted((folder / SHARDS).glob("*.tar")):
            with tarfile.open(path) as shard:
                for info in shard:
                    if info.name.endswith(".png"):
                        self._places.append((path, info.offset_data, info.size))
                    elif info.name.endswith(".cls"):
                        file = shard.extractfile(info)
                        assert file is not None
                        labels.append(int(file.read()))
        self.labels = np.array(labels, np.int64) if facts.class_names else None

    def __len__(self) -> int:
        return len(self._places)

    def row(self, index: int) -> np.ndarray:
        path, offset, size = self._places[index]
        with path.open("rb") as file:
            file.seek(offset)
            return decode_png(file.read(size))


def _name(index: int) -> str:
    return f"{index:06d}"


@dataclass(frozen=True)
class _Format:
    writing: Callable[[Path, Facts, WriteFile], Any]  # a context manager that gives the function `put`
    reader: Callable[[Path, Facts], Store]


FORMATS: dict[str, _Format] = {
    "parquet": _Format(_writing_parquet, _Parquet),
    "png": _Format(_writing_png, _Png),
    "webdataset": _Format(_writing_webdataset, _WebDataset),
}
