"""Write the parts of the docs that the code already says: the README's file tree, from the module docstrings.

`python docs/generate.py` rewrites them; a test checks that they are as written.
"""

import ast
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
BEGIN, END = "<!-- tree: made by docs/generate.py -->\n```\n", "```\n<!-- /tree -->"
PACKAGES = ("jobs", "db", "worker", "cli")


def tree() -> str:
    """Return every module with the first sentence of its docstring, a line each."""
    lines = []
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py"), key=_order):
            if "versions" in path.parts:
                continue
            name = path.relative_to(ROOT)
            docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
            label = f"{name.parent}/" if name.name == "__init__.py" else f"  {name}"
            lines.append(f"{label:<38} {docstring.splitlines()[0] if docstring else ''}".rstrip())
    return "\n".join(lines) + "\n"


def _order(path: Path) -> tuple[str, bool, str]:
    """Sort a folder's own docstring before its files, and its files before its folders' ones."""
    return str(path.parent), path.name != "__init__.py", path.name


def with_tree(readme: str) -> str:
    """Return the README with the tree as it is now."""
    before, _, rest = readme.partition(BEGIN)
    _, _, after = rest.partition(END)
    return before + BEGIN + tree() + END + after


if __name__ == "__main__":
    target = ROOT / "README.md"
    target.write_text(with_tree(target.read_text(encoding="utf-8")), encoding="utf-8")
