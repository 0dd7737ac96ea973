"""Files of labels beside the images: StyleGAN's dataset.json; metadata.csv, metadata.jsonl and labels.csv as Hugging Face's imagefolder reads them.

https://github.com/NVlabs/stylegan3 (dataset_tool.py), https://huggingface.co/docs/datasets/image_dataset
"""

import csv
import io
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ganlib.data.names import composed, natural_key
from ganlib.data.raw import MAX_CLASSES
from ganlib.data.tree import Tree

STYLEGAN = "dataset.json"
TABLES = ("metadata.csv", "metadata.jsonl", "labels.csv")
FILES = (STYLEGAN, *TABLES)
FILE_COLUMN = "file_name"  # or whatever data.image_column names
Label = int | str


@dataclass(frozen=True)
class Entry:
    """A line of a file of labels."""

    name: str  # of the image, from the folder of the file of labels
    label: Label
    place: str  # for messages


def find(others: Iterable[str], folder: str) -> str | None:
    """The file of labels that lies right in `folder` ("" or with its slash), from the paths `others`.

    Raises:
        ValueError: several.
    """
    found = sorted(set(others) & {folder + name for name in FILES})
    if len(found) > 1:
        raise ValueError(f"{' and '.join(found)} would both label the images beside them; remove one")
    return found[0] if found else None


def read(tree: Tree, path: str, *, image_column: str, label_column: str | None) -> list[Entry] | str:
    """The labels in the file `path` of `tree`, or a sentence that says why it has none.

    Raises:
        ValueError: damaged, or labels that are no classes; names file and line.
    """
    where = f"{tree.where}: {path}"
    try:
        text = tree.read(path).decode("utf-8-sig")
        if path.endswith(STYLEGAN):
            return _stylegan(json.loads(text), where)
        rows = _json_lines(text) if path.endswith(".jsonl") else _csv(text)
        return _table(list(rows), where, image_column=image_column, label_column=label_column)
    except (UnicodeDecodeError, json.JSONDecodeError, csv.Error) as error:
        raise ValueError(f"{where} cannot be read: {error}; write it anew as UTF-8 text, or remove it") from None


def _stylegan(values: Any, where: str) -> list[Entry] | str:
    labels = values.get("labels") if isinstance(values, dict) else None
    if labels is None:
        return "it has no labels"
    if not isinstance(labels, list) or not all(isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str) for pair in labels):
        raise ValueError(f'{where}: expected {{"labels": [["00000/img00000000.png", 6], ...]}} or null as its labels')
    return [Entry(name, _checked(label, f"{where}: {name}"), name) for name, label in labels]


def _csv(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    reader = csv.DictReader(io.StringIO(text, newline=""), strict=True)
    for row in reader:
        yield f"line {reader.line_num}", row


def _json_lines(text: str) -> Iterator[tuple[str, dict[str, Any]]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            yield f"line {number}", json.loads(line)


def _table(rows: list[tuple[str, dict[str, Any]]], where: str, *, image_column: str, label_column: str | None) -> list[Entry] | str:
    if not rows:
        return "it is empty"
    if not all(isinstance(row, dict) for _, row in rows):
        raise ValueError(f"{where}: expected an object with {FILE_COLUMN} and {label_column or 'a label'} on every line")
    columns = list(dict.fromkeys(str(column) for _, row in rows for column in row))
    file_column = next((column for column in (FILE_COLUMN, image_column) if column in columns), None)
    if label_column is None:
        return "data.label_column is null"
    if file_column is None or label_column not in columns:
        missing = f"{FILE_COLUMN} or {image_column}" if file_column is None else label_column
        key = "image_column" if file_column is None else "label_column"
        return f"it has no column {missing}, but {', '.join(columns)} (params.yaml: data.{key})"
    entries = []
    for place, row in rows:
        name, label = row.get(file_column), row.get(label_column)
        if not isinstance(name, str) or not name:
            raise ValueError(f"{where}, {place}: {file_column} is {name!r}, expected the path of an image")
        entries.append(Entry(name, _checked(label, f"{where}, {place}"), place))
    return entries


def _checked(label: Any, place: str) -> Label:
    if isinstance(label, bool) or not isinstance(label, int | str) or label == "":
        raise ValueError(
            f"{place} has the label {label!r}, expected a whole number or a name; mend it, or set data.classes: folders, or none (params.yaml)"
        )
    return label


def match(entries: list[Entry], images: list[str], *, where: str) -> dict[str, Label]:
    """The label of each image that has one.

    Args:
        images: paths from the folder of the file of labels. An entry is a path, or a bare name that one image alone has, with or without its ending;
            composed and decomposed accents are the same.

    Raises:
        ValueError: an entry without an image, of several images, or against another entry.
    """
    known: dict[str, set[str]] = {}
    for image in images:
        path = composed(image)
        bare = path.rsplit("/", 1)[-1]
        for alias in {path, path.rsplit(".", 1)[0], bare, bare.rsplit(".", 1)[0]}:
            known.setdefault(alias, set()).add(image)
    exact = {composed(image): image for image in images}
    labels: dict[str, Label] = {}
    missing = []
    for entry in entries:
        name = composed(entry.name.replace("\\", "/").removeprefix("./"))
        found = {exact[name]} if name in exact else known.get(name, set())
        if not found:
            missing.append(entry)
            continue
        if len(found) > 1:
            raise ValueError(f"{where}, {entry.place}: {entry.name} may be {' or '.join(sorted(found)[:2])}; write its path")
        image = next(iter(found))
        if labels.setdefault(image, entry.label) != entry.label:
            raise ValueError(f"{where}, {entry.place}: {image} has the label {entry.label!r} here and {labels[image]!r} before")
    if missing:
        raise ValueError(
            f"{where} names {len(missing):,} images that are not there, the first {missing[0].name}; bring them, or take their lines out"
        )
    return labels


def class_names(labels: Iterable[Label], *, where: str) -> dict[Label, str]:
    """The name of each distinct label, in the order of the classes: numbers by size, names sorted naturally.

    Raises:
        ValueError: numbers and names mixed, or so many labels that they are no classes.
    """
    distinct = set(labels)
    if len({type(label) for label in distinct}) > 1:
        raise ValueError(f"{where} has numbers and names as labels; write all of them alike")
    if len(distinct) > MAX_CLASSES:
        raise ValueError(f"{where} has {len(distinct):,} distinct labels, expected at most {MAX_CLASSES:,} classes")
    ordered = sorted(distinct, key=lambda label: natural_key(label) if isinstance(label, str) else ((label,), ""))
    return {label: str(label) for label in ordered}
