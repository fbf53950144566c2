"""Golden files: compare a text with the one that is kept, or keep it anew with UPDATE_GOLDEN=1."""

from __future__ import annotations

import os
from pathlib import Path

GOLDEN = Path(__file__).parent / "golden"


def check_golden(name: str, text: str) -> None:
    """Assert that `text` is what tests/golden/<name> holds."""
    path = GOLDEN / name
    if os.environ.get("UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    assert path.exists(), f"{path} is missing: UPDATE_GOLDEN=1 pytest writes it"
    assert text == path.read_text(encoding="utf-8"), f"{path} differs: UPDATE_GOLDEN=1 pytest updates it"
