"""The tables of the benchmarks: Markdown, written into a page between two marks."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Collection, Sequence
from pathlib import Path


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], *, words: Collection[int]) -> str:
    """A table; the columns `words` stand to the left, numbers to the right."""
    sides = [":---" if column in words else "---:" for column in range(len(header))]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, sides, *rows))


def machine() -> str:
    cpu = re.search(r"model name\s*: (.*)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{cpu[1] if cpu else platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GiB, "
        f"Python {platform.python_version()}, load {os.getloadavg()[0]:.1f} at the start"
    )


def write(path: Path, program: str, text: str) -> None:
    """Put what a program has measured between its marks in a page."""
    begin, end = f"<!-- {program} -->", f"<!-- end of {program} -->"
    page = path.read_text(encoding="utf-8")
    before, _, rest = page.partition(begin)
    _, found, after = rest.partition(end)
    if not found:
        raise SystemExit(f"{path} lacks the marks {begin} and {end}")
    path.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")
