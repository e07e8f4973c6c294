"""The tables of docs/strategies.md: which strategies they have, and where each is put."""

from pathlib import Path

_PAGE = Path(__file__).resolve().parents[1] / "docs" / "strategies.md"
STRATEGIES = (
    "baseline",
    "soft-landing",
    "eos-reward",
    "exp-decay",
    "eos-reward-published",
    "concise",
    'stop:text="\\n\\n"',
    "no-loops",
    "continue",
    "escalate",
    "rewind",
    "soft-landing;trim",
    "no-loops;soft-landing;trim",
    "whole",
    "concise;whole",
)


def write_tables(name: str, text: str) -> None:
    """Put text between the marks `<!-- NAME: … -->` and `<!-- /NAME -->` of the page."""
    page = _PAGE.read_text(encoding="utf-8")
    begin = page.index("\n", page.index(f"<!-- {name}:")) + 1
    end = page.index(f"<!-- /{name} -->")
    _PAGE.write_text(page[:begin] + text + page[end:], encoding="utf-8")
