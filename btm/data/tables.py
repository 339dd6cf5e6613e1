"""The text of columns: parquet, and what Arrow holds in memory."""

from collections.abc import Generator, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

from btm.data.rows import BadRowError, Place, Policy, checked, missing
from btm.errors import UserError, first_line
from btm.system.extras import install

_BATCH_BYTES = 16 << 20  # of a column, decoded at once
_BATCH_ROWS = 256
_BUFFER = 1 << 20  # bytes of a file that are read at once


@dataclass(frozen=True)
class Column:
    """Where the text stands in a table."""

    asked: str  # as data.text_column names it
    name: str  # of a column
    inner: tuple[str, ...]  # fields within it, if it is a struct

    @classmethod
    def of(cls, schema: Any, asked: str) -> "Column":
        """Find a column of an Arrow schema; `BadRowError` if there is none.

        A name that has dots itself comes before fields of fields; two of a name are refused too.
        """
        parts = asked.split(".")
        for n in range(len(parts), 0, -1):
            name, inner = ".".join(parts[:n]), tuple(parts[n:])
            if schema.names.count(name) > 1:
                raise BadRowError(f"two columns {name!r}", "keep one, or rename the other")
            if name in schema.names and _has(schema.field(name).type, inner):
                return cls(asked, name, inner)
        raise missing(asked, {each.name: _example(each.type) for each in schema})

    def values(self, array: Any) -> list[Any]:
        """List the values of the column's Arrow array; text that is no UTF-8 comes as bytes."""
        import pyarrow
        from pyarrow import compute

        for name in self.inner:
            array = compute.struct_field(array, name)
        try:
            return array.to_pylist()
        except UnicodeDecodeError:
            if pyarrow.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            return array.cast(pyarrow.large_binary()).to_pylist()

    def texts(self, values: list[Any], place: Place, policy: Policy) -> Iterator[str]:
        """Yield the values that are text; those before `place.number` were read before."""
        for value in values:
            place.number += 1
            try:
                if isinstance(value, str | bytes) and policy.is_too_long(value):
                    raise policy.too_long()
                text = checked(value, self.asked)
            except BadRowError as bad:
                policy.reject(place.path, place.number, bad)
                continue
            yield text


def read_parquet(place: Place, asked: str, policy: Policy) -> Iterator[str]:
    """Yield the texts of a parquet file; `asked` is data.text_column."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        raise UserError(f"{place.path}: parquet needs pyarrow; run: {install('parquet')}") from None
    try:
        file = parquet.ParquetFile(place.path, buffer_size=_BUFFER, pre_buffer=False)
    except (OSError, ValueError) as error:
        _require_of_file(error)
        policy.reject(place.path, 0, BadRowError(f"cannot be read: {first_line(error)}"))
        return
    with file:
        try:
            column = Column.of(file.schema_arrow, asked)
        except BadRowError as bad:
            policy.reject(place.path, 0, bad, file.metadata.num_rows)
            return
        for group in range(file.num_row_groups):
            try:
                with closing(_values(file, group, column, place, policy)) as lists:
                    for values in lists:
                        yield from column.texts(values, place, policy)
                        del values
            finally:
                # Arrow keeps what it frees, in the end as much as its largest batch.
                pyarrow.default_memory_pool().release_unused()


def _values(
    file: Any, group: int, column: Column, place: Place, policy: Policy
) -> Generator[list[Any], None, None]:
    """Yield the column's values of one row group; what cannot be decoded is lost to its end."""
    import pyarrow

    facts = file.metadata.row_group(group)
    end = place.number + facts.num_rows
    parts = [facts.column(i) for i in range(facts.num_columns)]
    mine = [part for part in parts if f"{part.path_in_schema}.".startswith(f"{column.name}.")]
    size = max(1, sum(part.total_uncompressed_size for part in mine))
    rows = max(1, min(_BATCH_ROWS, _BATCH_BYTES * facts.num_rows // size))
    batches = file.iter_batches(rows, row_groups=[group], columns=[column.name])
    while True:
        try:
            batch = next(batches, None)
            if batch is None:
                return
            values = column.values(batch.column(0))
        except (OSError, ValueError) as error:
            _require_of_file(error)
            why = f"row group {group + 1} cannot be read from here on: {first_line(error)}"
            policy.reject(place.path, place.number + 1, BadRowError(why), end - place.number)
            place.number = end
            return
        if batch.nbytes > _BATCH_BYTES:
            del batch  # before what a long text is used for takes its own memory
            pyarrow.default_memory_pool().release_unused()
        yield values


def _require_of_file(error: Exception) -> None:
    """Raise an error of the system again, which says nothing of the file's content."""
    if getattr(error, "errno", None):
        raise error


def _has(kind: Any, inner: tuple[str, ...]) -> bool:
    """Tell whether an Arrow type has fields of fields."""
    import pyarrow

    for name in inner:
        if not pyarrow.types.is_struct(kind) or kind.get_field_index(name) < 0:
            return False
        kind = kind.field(name).type
    return True


def _example(kind: Any) -> object:
    """Make a value of an Arrow type, so far as it can hold text."""
    import pyarrow

    types = pyarrow.types
    if types.is_struct(kind):
        fields = (kind.field(i) for i in range(kind.num_fields))
        return {each.name: _example(each.type) for each in fields}
    if types.is_dictionary(kind):
        return _example(kind.value_type)
    return "" if types.is_string(kind) or types.is_large_string(kind) else None
