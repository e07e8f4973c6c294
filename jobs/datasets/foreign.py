"""Files that are no dataset, told by their first bytes, and what to do with each."""

import re

_CSV = "save it as CSV in UTF-8"
_TABLE = "write it as CSV, JSONL or Parquet"
_UNPACK = "unpack it, and give the file inside"
_UTF8 = "save it as UTF-8"
_SIGNS = (  # the surest first
    (rb"SQLite format 3\0", "is an SQLite database", "write the table as CSV: `sqlite3 -header -csv FILE QUERY`"),
    (rb"\xd0\xcf\x11\xe0", "is an old Excel workbook (.xls)", _CSV),
    (rb"PK\x03\x04.{26}mimetypeapplication/vnd\.oasis", "is an OpenDocument file (.ods)", _CSV),
    (rb"PK\x03\x04.*?(?:\[Content_Types\]\.xml|xl/)", "is an Excel workbook (.xlsx)", _CSV),
    (rb"PK\x03\x04.*?(?:data\.pkl|\.npy)", "is a file of PyTorch or NumPy", _TABLE),
    (rb"PK\x03\x04|PK\x05\x06", "is a zip archive", _UNPACK),
    (rb"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (rb"Rar!", "is a RAR archive", _UNPACK),
    (rb".{257}ustar", "is a tar archive", _UNPACK),
    (rb"\x1f\x8b|BZh[1-9]1AY&SY|\xfd7zXZ\0|\x28\xb5\x2f\xfd", "is compressed twice", "decompress it once"),
    (rb"ARROW1|FEA1|\xff\xff\xff\xff", "is an Arrow or Feather file", "write it as Parquet or CSV"),
    (rb"ORC", "is an ORC file", "write it as Parquet or CSV"),
    (rb"Obj\x01", "is an Avro file", "write it as JSONL or Parquet"),
    (rb"\x80[\x02-\x05]", "is a Python pickle", f"{_TABLE}: a pickle runs code when it is read"),
    (rb"\x93NUMPY", "is a NumPy array", _TABLE),
    (rb"\x89HDF", "is an HDF5 file", _TABLE),
    (rb"GGUF", "is a model in GGUF", "give a dataset here, and the model with `--model`"),
    (rb"%PDF-", "is a PDF document", "save its text as `.txt`, one prompt a line"),
    (rb"(?i:\s*<!doctype html|\s*<html)", "is a web page", "download the file itself"),
    (rb"\xff\xfe\0\0|\0\0\xfe\xff|\0\0\0[^\0]|[^\0]\0\0\0", "is UTF-32 text", _UTF8),
    (rb"\xff\xfe|\xfe\xff|\0|.\0", "is UTF-16 text", _UTF8),
)


def foreign_kind(head: bytes) -> tuple[str, str] | None:
    """Return what a file is that begins so and is no dataset, with what to do; None if it may be one."""
    for sign, what, fix in _SIGNS:
        if re.match(sign, head, re.DOTALL):
            return what, fix
    return None
