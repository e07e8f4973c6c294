"""Arrow's own file (Feather), which pandas, polars and R map into memory as it stands; with pyarrow."""

from typing import IO

from endmark.db.export.as_parquet import as_tables, library
from endmark.db.export.request import Export, Format


def write(handle: IO[bytes], export: Export) -> None:
    """Write the results, zstd-compressed, with the types that Parquet has them in.

    Raises:
        MissingDependency: pyarrow is not installed.
    """
    pyarrow, _ = library()
    schema, tables = as_tables(export)
    options = pyarrow.ipc.IpcWriteOptions(compression="zstd")
    with pyarrow.ipc.new_file(handle, schema, options=options) as writer:
        for table in tables:
            writer.write_table(table)


FORMATS = {"arrow": Format(write, (".arrow", ".feather"), binary=True, check=library)}
