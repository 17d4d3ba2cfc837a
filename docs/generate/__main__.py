"""Renews in all pages what they take from elsewhere: `python -m docs.generate` after a change."""

from __future__ import annotations

import sys

from docs.generate.figures import machine_text, measure_tables, readme_table, versions_table
from docs.generate.patterns import patterns_text
from docs.generate.regions import ROOT, pages, renewed
from docs.generate.settings_table import settings_table

MAKERS = {
    "patterns": patterns_text,
    "settings": settings_table,
    "machine": machine_text,
    "versions": versions_table,
    "measures": measure_tables,
    "comparison": readme_table,
}


def main() -> int:
    """Writes the pages that are out of date, and names them."""
    for page in pages():
        text = page.read_text(encoding="utf-8")
        if (new := renewed(text, MAKERS)) != text:
            page.write_text(new, encoding="utf-8")
            print(f"renewed {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
