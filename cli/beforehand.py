"""What can be known to fail is refused before a job is stored: a script that tries again would store it twice."""

from collections.abc import Callable, Collection
from pathlib import Path

from endmark.db.export.fields import have_fields
from endmark.jobs.broker.address import mask, parse_address, why_silent
from endmark.jobs.errors import BrokerError, SpecError, UsageError
from endmark.jobs.settings import Settings
from endmark.jobs.spec import GenerationSpec


def check_broker(settings: Settings, *, needed: bool = False) -> None:
    """Refuse a broker whose URL is none.

    Args:
        needed: whether it must answer too, since the command waits for workers.

    Raises:
        BrokerError: its URL is wrong, or it does not answer.
    """
    if settings.broker_url is None:
        return
    parse_address(settings.broker_url)
    reason = why_silent(settings.broker_url, timeout=5.0) if needed else None
    if reason is not None:
        raise BrokerError(
            f"the broker at `{mask(settings.broker_url)}` does not answer: {reason}",
            hint="start it, or unset ENDMARK_BROKER_URL and Endmark starts its own; nothing was stored",
        )


def check_folders(model: str, adapter: str | None) -> None:
    """Refuse folders that this host does not have: what runs the model here needs them.

    Raises:
        SpecError: one is not there.
    """
    for what, name in (("model", model), ("adapter", adapter)):
        if name is not None and Path(name).is_absolute() and not Path(name).is_dir():
            raise SpecError(
                f"there is no {what} folder `{name}`", hint="it must be on this host, and on those of workers"
            )


def check_fields(spec: GenerationSpec) -> Callable[[Collection[str]], None]:
    """Return what refuses `--parse`, once a dataset's columns are known, if no answer is asked to have fields.

    Raises:
        UsageError: by what is returned.
    """

    def check(columns: Collection[str]) -> None:
        if not have_fields(spec, columns):
            raise UsageError(
                "`--parse` gives the fields of JSON answers columns, and nothing asks for JSON",
                hint="say which fields there are: `--json-schema FILE`; what a prompt alone asks for is parsed by "
                "`endmark export JOB --parse`; nothing was stored",
            )

    return check
