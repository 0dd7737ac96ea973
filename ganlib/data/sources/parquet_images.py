"""The image column of a Parquet file: what kinds there are, and a row of each as an encoded file."""

import io
import json
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

CHANNELS = (1, 3, 4)
Found = tuple[bytes | None, str | None]  # an encoded file (None: null, or only a path is given), and the path beside it
Reader = Callable[[Any], Iterator[Found]]
EXPECTED = (
    "encoded bytes, a struct {bytes, path} of them, paths of files, or uint8 arrays (nested lists [H][W], [H][W][C] or [C][H][W], "
    "fixed-shape tensors)"
)


def reader(schema: Any, column: str) -> Reader:
    """How the values of `column`, a batch of them as a pyarrow array, become encoded files.

    Raises:
        ValueError: this kind of column holds no images; the reader raises it at a value that is none. Without the file's name.
    """
    kind = schema.field(column).type
    if _is_bytes(kind) or pa.types.is_null(kind):
        return lambda values: ((value, None) for value in values.to_pylist())
    if is_text(kind):
        return lambda values: ((None, value) for value in values.to_pylist())
    if pa.types.is_struct(kind):
        return _struct_reader(kind, column)
    if pa.types.is_fixed_size_binary(kind):
        return _raw_reader(schema, column)
    shape = None
    if isinstance(kind, pa.BaseExtensionType):
        shape = tuple(kind.shape) if isinstance(kind, pa.FixedShapeTensorType) and kind.permutation is None else None
        kind = kind.storage_type
    depth, values = 0, kind
    while _is_list(values):
        depth, values = depth + 1, values.value_type
    if depth and not pa.types.is_integer(values):
        raise ValueError(f"column {column!r} is {kind}, expected arrays of whole numbers from 0 to 255; convert them to uint8")
    if depth == 0 or (shape is None and depth not in (2, 3)):
        unknown = " (flat lists do not say how high and wide an image is)" if depth == 1 else ""
        raise ValueError(f"column {column!r} is {kind}{unknown}, expected {EXPECTED}")
    return _array_reader(shape)


def is_text(kind: Any) -> bool:
    """Strings, whatever their layout."""
    kind = kind.value_type if pa.types.is_dictionary(kind) else kind
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _is_bytes(kind: Any) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind))


def _is_list(kind: Any) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _struct_reader(kind: Any, column: str) -> Reader:
    fields = [field.name for field in kind]
    for name, fits, expected in (("bytes", _is_bytes, "encoded bytes"), ("path", is_text, "strings")):
        if fields.count(name) > 1:
            raise ValueError(f"column {column!r} has {fields.count(name)} fields {name!r}, expected one")
        if name in fields and not (fits(found := kind.field(name).type) or pa.types.is_null(found)):
            raise ValueError(f"column {column!r}: its field {name!r} is {found}, expected {expected}")
    if not {"bytes", "path"} & set(fields):
        raise ValueError(f"column {column!r} is {kind}, expected {EXPECTED}")

    return lambda values: ((image.get("bytes"), image.get("path")) for image in (value or {} for value in values.to_pylist()))


def _raw_reader(schema: Any, column: str) -> Reader:
    """Fixed-size binary: the pixels of [C, H, W] where the file's metadata has that `shape`, as samples.parquet has; else encoded files."""
    size = schema.field(column).type.byte_width
    try:
        shape = tuple(int(length) for length in json.loads((schema.metadata or {}).get(b"shape", b"[]")))
    except (ValueError, TypeError):
        shape = ()
    if not shape:
        return lambda values: ((value, None) for value in values.to_pylist())
    if len(shape) != 3 or shape[0] not in CHANNELS or int(np.prod(shape)) != size:
        raise ValueError(f"column {column!r} has {size:,} bytes a row, which are no uint8 image of the metadata's shape {list(shape)}")

    def encoded(data: bytes | None) -> bytes | None:
        return None if data is None else _encode(np.frombuffer(data, np.uint8).reshape(shape).transpose(1, 2, 0))

    return lambda values: ((encoded(value), None) for value in values.to_pylist())


def _array_reader(shape: tuple[int, ...] | None) -> Reader:
    """Lists of lists of whole numbers, or flat ones of a known shape."""

    def encoded(value: Any) -> bytes | None:
        if not value.is_valid:
            return None
        numbers, found = _flatten(value.values)
        if numbers.size and (numbers.min() < 0 or numbers.max() > 255):
            raise ValueError(f"an array with numbers from {numbers.min()} to {numbers.max()}, expected 0 to 255")
        return _encode(_channels_last(numbers.astype(np.uint8).reshape(found if shape is None else shape)))

    return lambda values: ((encoded(value), None) for value in (values.storage if isinstance(values, pa.ExtensionArray) else values))


def _flatten(values: Any) -> tuple[np.ndarray, tuple[int, ...]]:
    """A nested list as its numbers and its shape."""
    shape = [len(values)]
    while _is_list(values.type):
        lengths = pc.list_value_length(values).unique().to_pylist()  # null where a row is null
        if len(lengths) != 1 or lengths == [None]:
            raise ValueError("an array whose rows differ in length or are null; expected one length in each dimension")
        shape.append(lengths[0])
        values = values.flatten()
    if values.null_count:
        raise ValueError(f"an array with {values.null_count:,} nulls among its numbers")
    return values.to_numpy(zero_copy_only=False), tuple(shape)


def _channels_last(image: np.ndarray) -> np.ndarray:
    """[H, W], [H, W, C] or [C, H, W] to [H, W] or [H, W, C]; an axis of 1, 3 or 4 is that of the channels.

    Raises:
        ValueError: no axis, or both, can be.
    """
    if image.ndim == 2 and image.size:
        return image
    if image.ndim == 3 and image.size:
        first, last = image.shape[0] in CHANNELS, image.shape[2] in CHANNELS
        if first != last:
            return image if last else image.transpose(1, 2, 0)
    raise ValueError(f"an array of shape {list(image.shape)}, expected [H, W], [H, W, C] or [C, H, W] with 1, 3 or 4 channels C")


def _encode(image: np.ndarray) -> bytes:
    """[H, W] or [H, W, C] uint8 as a PNG: what is packed is files."""
    stream = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(image[:, :, 0] if image.shape[2:] == (1,) else image)).save(stream, "PNG", compress_level=1)
    return stream.getvalue()
