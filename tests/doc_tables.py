"""Tables of the documentation, to be held against the code."""

from __future__ import annotations

from pathlib import Path


def table(page: Path, head: str, section: str = "") -> list[list[str]]:
    """The cells of the first table of a page whose first column is called so, of those
    below the heading ``section``, if one is given."""
    text = page.read_text(encoding="utf-8")
    _, found, below = text.partition(f"{section}\n") if section else ("", "all", text)
    assert found, f"{page} has no heading {section}"
    lines = iter(below.splitlines())
    rows: list[list[str]] = []
    for line in lines:
        if line.startswith(f"| {head} |"):
            next(lines)
            for row in lines:
                if not row.startswith("|"):
                    break
                rows.append([cell.strip() for cell in row.strip().strip("|").split(" | ")])
            return rows
    raise AssertionError(f"{page} has no table that begins with {head}")


def first_cells(page: Path, head: str, section: str = "") -> list[str]:
    """What stands in the first column, without its backticks."""
    return [row[0].strip("`") for row in table(page, head, section)]
