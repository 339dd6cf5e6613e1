"""The text column of Arrow files and streams; `datasets.save_to_disk` writes the latter."""

from collections.abc import Iterator
from typing import Any

from btm.data.rows import BadRowError, Place, Policy
from btm.data.tables import Column
from btm.errors import UserError, first_line
from btm.system.extras import install

_ROWS = 256  # that are made strings of Python at once
_FILE = b"ARROW1"  # how the format for files begins; that for streams has no such mark


def read_arrow(place: Place, asked: str, policy: Policy) -> Iterator[str]:
    """Yield the texts of an Arrow file or stream, which is mapped; `asked` is data.text_column."""
    try:
        import pyarrow
    except ImportError:
        raise UserError(f"{place.path}: Arrow needs pyarrow; run: {install('parquet')}") from None
    with pyarrow.memory_map(str(place.path)) as mapped:
        try:
            schema, batches = _batches_of(mapped)
            column = Column.of(schema, asked)
            for batch in batches:
                array = batch.column(schema.get_field_index(column.name))
                for begin in range(0, len(array), _ROWS):
                    yield from column.texts(column.values(array.slice(begin, _ROWS)), place, policy)
        except BadRowError as bad:
            policy.reject(place.path, 0, bad)
        except (OSError, ValueError) as error:
            rest = BadRowError(f"cannot be read from here on: {first_line(error)}")
            policy.reject(place.path, place.number + 1, rest)


def _batches_of(mapped: Any) -> tuple[Any, Iterator[Any]]:
    """Give the schema and the record batches of Arrow's format for files or for streams."""
    from pyarrow import ipc

    is_file = mapped.read(len(_FILE)) == _FILE
    mapped.seek(0)
    if not is_file:
        stream = ipc.open_stream(mapped)
        return stream.schema, iter(stream)
    file = ipc.open_file(mapped)
    return file.schema, (file.get_batch(i) for i in range(file.num_record_batches))
