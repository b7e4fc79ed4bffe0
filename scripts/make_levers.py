"""Write the table of levers in docs/plan.md from the levers themselves. --check only compares, as CI does."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from oomph.cli.markdown import table
from oomph.planning.lever import Lever
from oomph.planning.levers import levers
from oomph.planning.upgrades import UPGRADES

PAGE = Path(__file__).parents[1] / "docs" / "plan.md"
COLUMNS = ("lever", "what is paid", "speed and quality", "source")


def rows(found: Iterable[Lever]) -> str:
    cells = [[one.name, one.price.words, one.cost, f"<{one.source}>"] for one in found]
    return table(COLUMNS, cells)


def page(text: str) -> str:
    """The page with its tables filled in."""
    for name, found in {"levers": levers(), "upgrades": UPGRADES}.items():
        begin, end = f"<!-- begin: {name} -->", "<!-- end -->"
        if begin not in text:
            sys.exit(f"docs/{PAGE.name} has no place for {name}: {begin}")
        before, _, rest = text.partition(begin)
        _, _, after = rest.partition(end)
        text = f"{before}{begin}\n{rows(found)}\n{end}{after}"
    return text


def main() -> None:
    old = PAGE.read_text(encoding="utf-8")
    new = page(old)
    if "--check" not in sys.argv:
        PAGE.write_text(new, encoding="utf-8")
    elif new != old:
        sys.exit(f"docs/{PAGE.name} is out of date: run python scripts/make_levers.py")


if __name__ == "__main__":
    main()
