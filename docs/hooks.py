"""What MkDocs calls for each page: links to files of the source become their names, for the site has no source."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_OUTSIDE = re.compile(r"(?<!!)\[([^\]]+)\]\(\.\./([^)#]+)\)")


def on_page_markdown(markdown: str, **_: object) -> str:
    """Return a page without its links to files beside the docs; one to no file stays, and fails the build."""

    def named(link: re.Match[str]) -> str:
        text, path = link.groups()
        return text if (ROOT / path).exists() else link[0]

    return _OUTSIDE.sub(named, markdown)
