"""Rows of Parquet files with images, as Hugging Face's `datasets` writes them: `image` {bytes, path} and `label`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from trainer.dataset._archive_files import MAX_MEMBER, Data
from trainer.errors import DataError
from trainer.files import parse_json

if TYPE_CHECKING:
    from pyarrow import Array, Schema

# pyarrow is imported where it is used: it takes 0.2 s.

BATCH = 32  # rows that are in memory at once, some 4 MB
BUFFER = 2**20  # bytes read at once: without a limit it is a whole row group
MAGIC = b"PAR1"  # at both ends of a file
COLUMNS = ["image.bytes", "image.path", "label"]


class Row(NamedTuple):
    """An image with its label; what is null is None."""

    number: int  # in the file, from 0
    data: Data | None
    path: str | None
    label: int | None


def check_parquet(path: Path) -> None:
    """Look at both ends of a file. Raises: DataError if it is no Parquet file, or was cut short."""
    with path.open("rb") as file:
        start = file.read(7)
        if start == b"version":
            raise DataError(f"{path} is a Git LFS pointer, not the shard itself; fetch it with git lfs pull")
        if start[:4] != MAGIC:
            raise DataError(f"{path} is no Parquet file; download it again")
        file.seek(max(path.stat().st_size - 4, 0))
        if file.read() != MAGIC:
            raise DataError(f"{path} ends early: it lacks a Parquet file's footer; download it again")


def read_rows(path: Path) -> Iterator[Row]:
    """The rows of a file, in order. Other columns are not read.

    Raises: DataError if the file is damaged, or has other columns or types than these.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    check_parquet(path)
    try:
        # Not into the page cache by mmap and not ahead: both would count as memory of this process.
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            _check_schema(path, file.schema_arrow)
            number = 0
            for batch in file.iter_batches(BATCH, columns=COLUMNS, use_threads=False):
                image = batch.column("image")
                parts = dict(zip((field.name for field in image.type), image.flatten(), strict=True))
                paths = parts["path"].to_pylist() if "path" in parts else [None] * len(batch)
                labels = batch.column("label").to_pylist()
                for row in zip(_values(parts["bytes"]), paths, labels, strict=True):
                    if row[0] is not None and len(row[0]) > MAX_MEMBER:
                        raise DataError(
                            f"{path}, row {number:,}: an image of {len(row[0]):,} bytes; no image of a data set has "
                            f"more than {MAX_MEMBER:,}"
                        )
                    yield Row(number, *row)
                    number += 1
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path} cannot be read as Parquet ({str(error).splitlines()[0]}); download it again"
        ) from None


def _values(column: Array[Any]) -> Iterator[Data | None]:
    """Binary values, without a copy: each keeps its batch in memory."""
    import numpy as np

    _, offsets, data = column.buffers()
    width = np.int64 if str(column.type).startswith("large_") else np.int32
    bounds = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1].tolist()
    content = memoryview(data or b"").cast("B")  # Arrow says that bytes are signed
    valid = column.is_valid().to_pylist()
    return (
        content[start:end] if is_valid else None
        for start, end, is_valid in zip(bounds, bounds[1:], valid, strict=False)
    )


def _check_schema(path: Path, schema: Schema) -> None:
    import pyarrow.types as types

    def field(name: str, kind: Any = None) -> Any:
        index = (kind or schema).get_field_index(name)
        return None if index < 0 else (kind or schema).field(index).type

    image, label = field("image"), field("label")
    content = field("bytes", image) if image is not None and types.is_struct(image) else None
    is_binary = content is not None and (types.is_binary(content) or types.is_large_binary(content))
    if not is_binary or label is None or not types.is_integer(label):
        has = ", ".join(f"{one.name} {one.type}" for one in schema)
        raise DataError(
            f"{path} has the columns {has}; images come as image struct<bytes: binary, path: string> and label int64"
        )
    if (name := field("path", image)) is not None and not (
        types.is_string(name) or types.is_large_string(name) or types.is_null(name)
    ):
        raise DataError(f"{path}: the path of an image is {name} and should be a string")
    if (classes := _classes(schema)) not in (None, 1000):
        raise DataError(
            f"{path} has labels of {classes:,} classes of its own, and which of ImageNet's they are is not said; "
            "save its images in train/CLASS and val/CLASS, and prepare that folder"
        )


def _classes(schema: Schema) -> int | None:
    """How many names of classes `datasets` has noted in a file; None if it has noted none."""
    try:
        noted = parse_json((schema.metadata or {})[b"huggingface"])
        return len(noted["info"]["features"]["label"]["names"])
    except (KeyError, TypeError, ValueError):
        return None
