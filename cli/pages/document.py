"""A page as one file that needs no network and runs nothing that a model has written.

Templates escape every text by themselves. A content security policy with the hashes of the page's one style and
one script forbids all else.
"""

import base64
import hashlib
import json
from collections.abc import Mapping
from functools import cache

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from endmark.jobs.spelling import as_percent, counted

_STYLE = "pages.css"


def page(template: str, *, script: str | None = None, **values: object) -> str:
    """Return a page as HTML.

    Args:
        template: its name in the folder of templates.
        script: the name of its script there, if it has one.
        values: what the template shows; texts are escaped.
    """
    style, code = _asset(_STYLE), _asset(script) if script is not None else None
    allowed = f"style-src 'sha256-{_hash(style)}'"
    if code is not None:
        allowed += f"; script-src 'sha256-{_hash(code)}'"
    policy = f"default-src 'none'; {allowed}; base-uri 'none'; form-action 'none'"
    # Made of files of this package, with nothing of the user's.
    own = {"policy": policy, "style": style, "script": code}
    safe = {name: None if value is None else Markup(value) for name, value in own.items()}  # noqa: S704
    text = templates().get_template(template).render(**safe, **values)
    return text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be written


def embedded(values: Mapping[str, object]) -> Markup:
    """Return values for the page's script, as JSON that cannot end the element it stands in."""
    text = json.dumps(values, ensure_ascii=True, separators=(",", ":"))
    return Markup(text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026"))  # noqa: S704


def ticked(text: str) -> Markup:
    """Return a text, escaped, in which backticks mark code."""
    parts = escape(text).split("`")
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if at % 2 else part for at, part in enumerate(parts)
    )


@cache
def templates(*packages: str) -> Environment:
    """Return the templates of some packages, and behind them those of this one."""
    made = Environment(
        loader=ChoiceLoader([PackageLoader(name) for name in (*packages, "endmark.cli.pages")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["ticked"] = ticked
    made.filters.update(percent=as_percent, counted=counted)
    return made


@cache
def _asset(name: str) -> str:
    """Return a style or script of this package."""
    return source(templates(), name)


def source(environment: Environment, name: str) -> str:
    """Return a file among the templates as it is written."""
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def _hash(text: str) -> str:
    """Return the hash by which the policy knows a text."""
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
