"""Markdown, CSV and LaTeX of tables, kept as golden files; figures; the folder that is written."""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from runtime.results import load_tables, write_results
from runtime.results.bars import panels
from runtime.results.documents import CSV_HEADER, csv_text, escape_latex, escape_markdown, latex, markdown
from runtime.results.figure import draw
from runtime.results.style import PALETTE, for_dark_pages
from runtime.results.table import Table
from runtime.store import Store
from tests.golden import check_golden
from tests.results_world import World, study, table

# What the texts of a spec could hold to break each of the formats.
NASTY = 'a|b `c` *d* <script>alert(1)</script> & $x_1^2$ {#%~\\} [l](http://x) "q"\nnext, line'


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> World:
    return study(Store(tmp_path_factory.mktemp("study")))


@pytest.fixture(scope="module")
def tables(studied: World) -> list[Table]:
    return load_tables(studied.store, studied.description())


@pytest.mark.parametrize(("format", "render"), [("md", markdown), ("csv", csv_text), ("tex", latex)])
def test_documents_are_as_kept(tables: list[Table], format: str, render: object) -> None:
    assert callable(render)
    for each in tables:
        check_golden(f"results/{each.name}.{format}", render(each))


def nasty(store: Store) -> list[Table]:
    world = World(store)
    world.node("a", "evaluate")
    world.node("b", "evaluate")
    world.seal_scores("a", [1.0, 0.0])
    world.fail("b", "failed", NASTY)
    printed = [{"row": NASTY, "column": NASTY, "value": 1.0, "standard_error": None, "source": NASTY}]
    compared = [
        {"label": f"{NASTY} - B", "row": NASTY, "column": "", "field": "win_rate",
         "a": [world.member("a")], "b": [world.member("b")]}
    ]  # fmt: skip
    world.tables = [
        table(
            NASTY, {NASTY: "win_rate", "B": "win_rate"}, {NASTY: [world.cell("a"), world.cell("b")]},
            caption=NASTY, row_header=NASTY, published=printed, comparisons=compared,
        )
    ]  # fmt: skip
    return load_tables(store, world.description())


def test_no_text_breaks_markdown(store: Store) -> None:
    lines = markdown(nasty(store)[0]).splitlines()
    head, rule, row = lines[2:5]
    for line in (head, rule, row):
        unescaped = line.replace("\\\\", "").replace("\\|", "")
        assert unescaped.count("|") == 5
    assert "<script>" not in "".join(lines).replace("\\<script\\>", "")
    assert "](" not in "".join(lines).replace("\\](", "")


def test_no_text_breaks_csv(store: Store) -> None:
    rows = list(csv.DictReader(io.StringIO(csv_text(nasty(store)[0]))))
    assert [row["level"] for row in rows] == ["cell", "member", "published", "cell", "member", "comparison"]
    assert tuple(rows[0]) == CSV_HEADER
    assert all(None not in row and None not in row.values() for row in rows)
    assert rows[4]["note"].startswith("failed: a|b `c` *d* <script>")


def test_no_text_breaks_latex(store: Store) -> None:
    text = latex(nasty(store)[0])
    bare = text.replace("\\\\", "").replace("\\{", "").replace("\\}", "")
    assert bare.count("{") == bare.count("}")
    row = next(line for line in text.splitlines() if line.startswith("    a\\textbar"))
    assert row.replace("\\&", "").count("&") == 3
    assert "%" not in row.replace("\\%", "")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("50% of A_1 & B", r"50\% of A\_1 \& B"),
        ("{a}\\b", r"\{a\}\textbackslash{}b"),
        ("57.5 ± 1.8 [0.9]", r"57.5 $\pm$ 1.8 {[}0.9{]}"),
        ("−3.0 – ~^", r"$-$3.0 -- \textasciitilde{}\textasciicircum{}"),
    ],
)
def test_escape_latex(text: str, expected: str) -> None:
    assert escape_latex(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("57.5 ± 1.8 [0.9]", "57.5 ± 1.8 [0.9]"),
        ("[a](b)", r"[a\](b)"),
        ("a_b|c", r"a\_b\|c"),
        ("R&D &amp;", r"R&D \&amp;"),
    ],
)
def test_escape_markdown(text: str, expected: str) -> None:
    assert escape_markdown(text) == expected


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles(tables: list[Table], store: Store, tmp_path: Path) -> None:
    bodies = "\n".join(latex(each) for each in [*tables, *nasty(store)])
    document = tmp_path / "all.tex"
    document.write_text(
        "\\documentclass{article}\\usepackage{booktabs}\\usepackage[T1]{fontenc}\n"
        f"\\begin{{document}}\n{bodies}\n\\end{{document}}\n"
    )
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", document.name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout[-3000:]


# ---------------------------------------------------------------- figures


def test_a_figure_has_a_panel_for_each_metric_and_a_bar_for_each_cell(tables: list[Table]) -> None:
    (one,), (rate, length) = (panels(each) for each in tables)
    assert [len(one.bars), len(rate.bars), len(length.bars)] == [12, 3, 3]
    assert [label for label, _ in one.series] == ["SFT 10%", "SFT 100%", "RLAIF"]
    edges = sorted((bar.x - bar.width / 2, bar.x + bar.width / 2) for bar in one.bars)
    assert all(left[1] <= right[0] + 1e-9 for left, right in itertools.pairwise(edges))


def test_bars_side_by_side_have_different_colours(tables: list[Table]) -> None:
    (one,) = panels(tables[0])
    assert tuple(colour for _, colour in one.series) == PALETTE[:3]


@pytest.mark.parametrize("format", ["svg", "pdf", "png"])
def test_figures_are_the_same_bytes_each_time(tables: list[Table], format: str) -> None:
    assert draw(tables[0], format) == draw(tables[0], format)  # type: ignore[arg-type]


def test_figures_leave_the_settings_of_matplotlib_alone(tables: list[Table]) -> None:
    import matplotlib

    def settings() -> dict[str, object]:
        names = set(matplotlib.rcParams) - {"backend"}  # to look at the backend is to choose one
        return {name: matplotlib.rcParams[name] for name in names}

    before = settings()
    draw(tables[1])
    assert settings() == before
    assert "matplotlib.pyplot" not in sys.modules


def test_a_figure_follows_the_page_into_the_dark(tables: list[Table]) -> None:
    light = draw(tables[0])
    dark = for_dark_pages(light)
    assert b"prefers-color-scheme: dark" in dark and b"prefers-color-scheme" not in light


# ---------------------------------------------------------------- the folder


def test_everything_is_written(studied: World, tmp_path: Path) -> None:
    written = write_results(studied.store, studied.description(), tmp_path / "out")
    endings = ("md", "csv", "tex", "png", "svg", "pdf")
    expected = [f"{name}.{ending}" for name in ("fig3", "methods") for ending in endings]
    assert [path.name for path in written] == [*expected, "report.html"]
    assert sorted(os.listdir(tmp_path / "out")) == sorted(path.name for path in written)
    assert written.messages == ()


def test_the_same_scores_give_the_same_bytes_in_another_process(studied: World, tmp_path: Path) -> None:
    """Also where Python orders its sets otherwise."""
    (tmp_path / "told.json").write_text(json.dumps(studied.description()))
    code = (
        "import json,sys;from pathlib import Path;from runtime.store import Store;"
        "from runtime.results import write_results;"
        "store, told, out = map(Path, sys.argv[1:]);"
        "write_results(Store(store), json.loads(told.read_text()), out)"
    )
    for seed in ("1", "2"):
        words = [sys.executable, "-c", code, studied.store.root, tmp_path / "told.json", tmp_path / seed]
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[1])}
        subprocess.run(words, check=True, env=environment, timeout=120)
    names = os.listdir(tmp_path / "1")
    assert len(names) == 13
    for name in names:
        assert (tmp_path / "1" / name).read_bytes() == (tmp_path / "2" / name).read_bytes(), name


def test_without_matplotlib_all_but_the_figures_is_written(
    studied: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    written = write_results(studied.store, studied.description(), tmp_path)
    assert {path.suffix for path in written} == {".md", ".csv", ".tex", ".html"}
    (message,) = written.messages
    assert "matplotlib" in message and "alignc[results]" in message


def test_loading_and_text_need_no_matplotlib() -> None:
    code = "import sys, runtime.results; sys.exit('matplotlib' in sys.modules or 'jinja2' in sys.modules)"
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, timeout=60).returncode == 0


def test_names_of_tables_make_safe_and_different_file_names(store: Store, tmp_path: Path) -> None:
    world = World(store)
    world.tables = [
        table(name, {"A": "win_rate"}, {"r": [None]}) for name in ("../x y", "..-x-y", "", "report")
    ]
    written = write_results(store, world.description(), tmp_path / "out")
    documents = [path.name for path in written if path.suffix == ".md"]
    assert documents == ["x-y.md", "x-y-2.md", "table.md", "report-2.md"]
    assert {path.parent for path in written} == {tmp_path / "out"}


def test_published_values_without_a_cell_are_told(store: Store, tmp_path: Path) -> None:
    world = World(store)
    lost = [{"row": "no such row", "column": "A", "value": 47.6}]
    world.tables = [table("t", {"A": "win_rate"}, {"r": [None]}, published=lost)]
    written = write_results(store, world.description(), tmp_path / "out")
    assert written.messages == ("Table t: the published value 47.6 of no such row / A has no cell.",)


def test_an_experiment_without_tables_still_has_a_report(store: Store, tmp_path: Path) -> None:
    written = write_results(store, World(store).description(), tmp_path)
    assert [path.name for path in written] == ["report.html"]
