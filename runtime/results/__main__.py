"""Print and write an experiment's results from its table descriptions, without the compiler.

python -m runtime.results STORE TABLES.json FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.files import read_json
from runtime.results import load_tables, render_text, write_results
from runtime.store import Store


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit((__doc__ or "").strip())
    root, tables, out = map(Path, sys.argv[1:])
    store, description = Store(root), read_json(tables)
    for table in load_tables(store, description):
        print(f"{render_text(table)}\n")
    written = write_results(store, description, out)
    for path in written:
        print(f"wrote {path}")
    for message in written.messages:
        print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
