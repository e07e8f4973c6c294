"""What requests ask for, checked: a batch to be made, a page of a list, how long a file is to be kept."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import FormData, QueryParams

from endmark.cli.http.refusals import Refused
from endmark.db.served_batches import NewBatch
from endmark.jobs.datasets.openai import CHAT, COMPLETION

_METADATA_MOST = 16  # pairs
_KEY_MOST, _VALUE_MOST = 64, 512  # characters
_WINDOW = re.compile(r"([0-9]{1,6})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_LONGEST_WINDOW = 30 * 86_400  # seconds
_SECONDS_TEXT = re.compile(r"[0-9]{1,9}")
_SHORTEST_LIFE, _LONGEST_LIFE = 3600, 30 * 86_400  # seconds
_NUMBER = re.compile(r"[0-9]{1,5}")


@dataclass(frozen=True, slots=True)
class Page:
    """The part of a list that is asked for."""

    after: str | None  # id of the last item of the part before
    limit: int
    ascending: bool = False  # the oldest first


def read_json(body: bytes) -> Any:  # noqa: ANN401 - any JSON value
    """Return the value of a body.

    Raises:
        Refused: it is no JSON, is nested too deeply, or holds what is no text.
    """
    try:
        values = json.loads(body)
        json.dumps(values, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise Refused(
            400, "the body has a surrogate without its pair, which is no text", "invalid_json"
        ) from error
    except RecursionError as error:
        raise Refused(400, "the body is nested too deeply", "invalid_json") from error
    except ValueError as error:
        raise Refused(400, f"the body is not JSON: {error}", "invalid_json") from error
    return values


def wanted_batch(values: Any) -> NewBatch:  # noqa: ANN401 - any JSON value
    """Return what a batch is to be.

    Raises:
        Refused: something is missing, or cannot be done.
    """
    if not isinstance(values, dict) or not isinstance(values.get("input_file_id"), str):
        raise Refused(400, "`input_file_id` is missing", "missing_input_file")
    if values.get("endpoint") not in (CHAT, COMPLETION):
        raise Refused(400, f"`endpoint` must be `{CHAT}` or `{COMPLETION}`", "invalid_endpoint")
    _check_metadata(values.get("metadata"))
    window = values.get("completion_window")
    seconds = window_seconds(window)
    return NewBatch(
        input_file_id=values["input_file_id"],
        endpoint=values["endpoint"],
        completion_window=str(window),
        seconds=seconds,
        metadata=values.get("metadata"),
        output_seconds=lifetime(values.get("output_expires_after"), "output_expires_after"),
    )


def lifetime(given: Any, name: str) -> int | None:  # noqa: ANN401 - any JSON value
    """Return the seconds after which a file expires, or None.

    Args:
        given: as the API has it, `{"anchor": "created_at", "seconds": N}`; a form's number is text.
        name: of the field.

    Raises:
        Refused: it is something else.
    """
    if given is None:
        return None
    seconds = given.get("seconds") if isinstance(given, dict) else None
    if isinstance(seconds, str) and _SECONDS_TEXT.fullmatch(seconds):
        seconds = int(seconds)
    known = (
        isinstance(given, dict) and given.get("anchor") == "created_at" and given.keys() <= {"anchor", "seconds"}
    )
    if not known or type(seconds) is not int or not _SHORTEST_LIFE <= seconds <= _LONGEST_LIFE:
        raise Refused(
            400,
            f"`{name}` must have the anchor `created_at` and from {_SHORTEST_LIFE:,} to {_LONGEST_LIFE:,} seconds",
            "invalid_expires_after",
        )
    return seconds


def upload_lifetime(form: FormData) -> int | None:
    """Return the seconds after which an uploaded file expires, or None.

    The fields are `expires_after[anchor]` and `expires_after[seconds]`, or JSON under `expires_after`.

    Raises:
        Refused: they say something else.
    """
    name = "expires_after"
    parts = {key[len(name) + 1 : -1]: value for key, value in form.items() if key.startswith(f"{name}[")}
    if parts:
        return lifetime(parts, name)
    text = form.get(name)
    return lifetime(read_json(text.encode(errors="surrogatepass")) if isinstance(text, str) else text, name)


def _check_metadata(metadata: Any) -> None:  # noqa: ANN401 - any JSON value
    """Refuse what is not a few short texts under short names."""
    if metadata is None:
        return
    if (
        not isinstance(metadata, dict)
        or len(metadata) > _METADATA_MOST
        or not all(isinstance(value, str) for value in metadata.values())
        or any(len(name) > _KEY_MOST or len(value) > _VALUE_MOST for name, value in metadata.items())
    ):
        raise Refused(
            400,
            f"`metadata` must be at most {_METADATA_MOST} texts of at most {_VALUE_MOST} characters, under names"
            f" of at most {_KEY_MOST}",
            "invalid_metadata",
        )


def window_seconds(window: Any) -> int:  # noqa: ANN401 - any JSON value
    """Return the seconds in which a batch is to be done.

    Raises:
        Refused: it is no time such as `24h`.
    """
    found = _WINDOW.fullmatch(window) if isinstance(window, str) else None
    seconds = int(found[1]) * _SECONDS[found[2]] if found else 0
    if not 1 <= seconds <= _LONGEST_WINDOW:
        raise Refused(400, "`completion_window` must be a time such as `24h`, at most `30d`", "invalid_window")
    return seconds


def wanted_page(query: QueryParams, known: Callable[[str], bool], *, limit: int, most: int) -> Page:
    """Return the part of a list that a request asks for.

    Args:
        known: whether an item of that id can be listed after.
        limit: of items, where the request gives none.
        most: of items.

    Raises:
        Refused: the limit is none, or what is to be listed after is unknown.
    """
    text, after = query.get("limit", str(limit)), query.get("after") or None
    if not _NUMBER.fullmatch(text) or not 1 <= int(text) <= most:
        raise Refused(400, f"`limit` must be from 1 to {most:,}", "invalid_limit")
    if after is not None and not known(after):
        raise Refused(400, f"`after` is `{after}`, which is not in the list", "invalid_after")
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise Refused(400, "`order` must be `asc` or `desc`", "invalid_order")
    return Page(after, int(text), order == "asc")


def listed(items: Sequence[Mapping[str, Any]], *, more: bool) -> dict[str, Any]:
    """Return a part of a list as the API has it."""
    return {
        "object": "list",
        "data": list(items),
        "first_id": items[0]["id"] if items else None,
        "last_id": items[-1]["id"] if items else None,
        "has_more": more,
    }
