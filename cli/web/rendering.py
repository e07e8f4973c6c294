"""Pages as text, and the headers that every answer to a browser has."""

from jinja2 import Environment

from endmark.cli.pages.document import source, templates
from endmark.cli.progress import duration, percent
from endmark.db.export import FORMATS
from endmark.jobs.spelling import ago, size, speed
from endmark.jobs.strategies import REGISTRY

# No text of a model or a dataset can run, load or send anything.
_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": _POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",  # under a stricter one, browsers would not say where a form comes from
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}
EXPORTS = tuple(name for name, format in FORMATS.items() if format.beside is None)  # formats of one file
ASSETS = {"pages.css": "text/css", "live.js": "text/javascript", "icon.svg": "image/svg+xml"}


def rendered(template: str, **values: object) -> str:
    """Return a page, or a part of one, as HTML; texts are escaped."""
    text = _environment().get_template(template).render(**values)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written


def asset(name: str) -> str:
    """Return the style, the script or the icon."""
    return source(_environment(), name)


def _environment() -> Environment:
    """Return the templates with their filters."""
    made = templates("endmark.cli.web")
    made.filters.update(thousands="{:,}".format, duration=duration, bytes=size, ago=ago, speed=speed)
    made.globals.update(
        percent=percent,
        known_strategies={name: item.summary for name, item in REGISTRY.items()},
        export_formats=EXPORTS,
    )
    return made
