"""The names of uploaded files, which anybody may choose."""

_NAME_MOST = 255  # characters


def file_name(given: str | None) -> str:
    """Return the name of an uploaded file, as it may be stored and shown."""
    name = "".join(sign if sign.isprintable() else "_" for sign in (given or "")[:_NAME_MOST])
    return name.strip() or "upload.jsonl"
