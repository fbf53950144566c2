"""Print and write an experiment's results from its table descriptions, without the compiler.

python -m runtime.results STORE TABLES.json FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

from runtime.files import read_json
from runtime.results import load_results
from runtime.results.write import write_loaded
from runtime.store import Store


def main() -> None:
    if len(sys.argv) != 4:
        sys.exit((__doc__ or "").strip())
    root, tables, out = map(Path, sys.argv[1:])
    store, description = Store(root), read_json(tables)
    found = load_results(store, description)
    print(f"{found.text()}\n")
    written = write_loaded(store, found, out)
    for path in written:
        print(f"wrote {path}")
    for message in written.messages:
        print(message, file=sys.stderr)


if __name__ == "__main__":
    main()
