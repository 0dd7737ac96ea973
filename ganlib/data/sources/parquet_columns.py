"""A further column of a Parquet file: a value of each row as bytes that the decoder of its modality reads."""

import io
from typing import Any

import numpy as np
import pyarrow as pa

from ganlib.data.sources import parquet_images
from ganlib.fields import IMAGE


def reader(schema: Any, column: str, *, modality: str) -> parquet_images.Reader:
    """How the values of `column`, a batch of them as a pyarrow array, become bytes.

    Images as in the image column. Of other modalities: bytes as they are, text in UTF-8, numbers and lists of numbers as .npy.

    Raises:
        ValueError: this kind of column holds no such values. Without the file's name.
    """
    if modality == IMAGE:
        return parquet_images.reader(schema, column)
    kind = schema.field(column).type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_null(kind):
        return lambda values: ((value, None) for value in values.to_pylist())
    if parquet_images.is_text(kind):
        return lambda values: ((None if value is None else value.encode(), None) for value in values.to_pylist())
    numbers = kind
    while pa.types.is_list(numbers) or pa.types.is_large_list(numbers) or pa.types.is_fixed_size_list(numbers):
        numbers = numbers.value_type
    if pa.types.is_integer(numbers) or pa.types.is_floating(numbers):
        dtype = numbers.to_pandas_dtype()
        return lambda values: ((None if value is None else _saved(value, dtype), None) for value in values.to_pylist())
    raise ValueError(f"column {column!r} is {kind}, expected bytes, text, numbers or lists of numbers")


def _saved(value: Any, dtype: Any) -> bytes:
    """A number, [W], [H][W] or [H][W][C] as .npy: [1, 1], [1, W], [H, W], [H, W, C]."""
    array = np.atleast_2d(np.array(value, dtype))
    stream = io.BytesIO()
    np.save(stream, array)
    return stream.getvalue()
