"""Log lines on standard error that no message's content can forge or garble."""

import logging
import re
import sys
import warnings

_LONGEST = 4000  # characters of one line
_LIBRARIES = ("alembic", "celery", "kombu", "httpx", "urllib3", "filelock", "py")  # "py.warnings"
_LIBRARY_LONGEST = 600
_UNSAFE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str, longest: int = _LONGEST) -> str:
    """Return the text with control characters written as escapes, cut to one line of bearable length."""
    text = text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"
    return _UNSAFE.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


class OneLine(logging.Formatter):
    """A record in one line. A traceback follows in indented lines, but not those of libraries."""

    def __init__(self, name: str) -> None:
        super().__init__(f"%(asctime)s {name.replace('%', '%%')} %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S")

    def format(self, record: logging.LogRecord) -> str:
        """Return the record's line, every character of it printable."""
        library = record.name.partition(".")[0] in _LIBRARIES
        record.message = record.getMessage()
        record.asctime = self.formatTime(record, self.datefmt)
        line = printable(self.formatMessage(record), _LIBRARY_LONGEST if library else _LONGEST)
        if not record.exc_info or library:
            return line
        traceback = self.formatException(record.exc_info).splitlines()
        return "\n".join([line, *(f"    {printable(item)}" for item in traceback)])


def log_to_stderr(name: str) -> None:
    """Send this process's log to standard error, under a name that tells it from its siblings."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine(name))
    logging.captureWarnings(True)
    warnings.simplefilter("ignore", PendingDeprecationWarning)  # Celery's, at each loss of its broker
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    for library in _LIBRARIES:
        logging.getLogger(library).setLevel(logging.WARNING)
