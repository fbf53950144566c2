"""The report: whole, offline, escaped, small; every number leads to its jobs; seen in a browser."""

from __future__ import annotations

import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from runtime.results import write_results
from runtime.results.asked import asked_of
from runtime.results.asked import told as asked_told
from runtime.results.curves import charts, thinned
from runtime.results.description import Description
from runtime.results.jobs import Job, survey
from runtime.results.report import MAX_BYTES, duration, moment
from runtime.store import Store
from tests.results_world import World, key_of, study, table
from tests.test_results_documents import NASTY


class Page(HTMLParser):
    """Ids, links, sources, tags and the text of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.sources: list[str] = []
        self.tags: Counter[str] = Counter()
        self.words: list[str] = []
        self._quiet = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        told = dict(attrs)
        self.tags[tag] += 1
        self._quiet = tag == "style"
        self.ids += [told["id"] or ""] if "id" in told else []
        self.links += [told["href"] or ""] if "href" in told else []
        self.sources += [told[name] or "" for name in ("src", "srcset", "data", "action") if name in told]

    def handle_endtag(self, tag: str) -> None:
        self._quiet = False

    def handle_data(self, data: str) -> None:
        if not self._quiet:
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


def report(store: Store, world: World, out: Path) -> str:
    write_results(store, world.description(), out)
    return (out / "report.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a study's results."""
    folder = tmp_path_factory.mktemp("report")
    world = study(Store(folder / "store"))
    write_results(world.store, world.description(), folder / "out")
    return folder / "out"


@pytest.fixture(scope="module")
def page(written: Path) -> Page:
    return Page((written / "report.html").read_text(encoding="utf-8"))


def test_nothing_comes_from_outside(page: Page, written: Path) -> None:
    assert all(link.startswith("#") for link in page.links)
    assert page.sources and all(source.startswith("data:image/svg+xml;base64,") for source in page.sources)
    assert not {"script", "link", "iframe", "object", "form"} & set(page.tags)
    text = (written / "report.html").read_text()
    assert "default-src 'none'" in text and "url(" not in text and "@import" not in text


def test_links_lead_somewhere_and_places_are_unique(page: Page) -> None:
    assert len(set(page.ids)) == len(page.ids)
    assert {link.removeprefix("#") for link in page.links} <= set(page.ids)


def test_findings_stand_first(page: Page) -> None:
    text = page.text
    assert "yi-6b: RLAIF beats SFT 100% by" in text
    assert text.index("RLAIF beats SFT 100%") < text.index("Each number opens the jobs")


def test_a_number_leads_to_its_jobs(page: Page) -> None:
    """yi-6b / RLAIF: node, key, spec line, both commits, host, time, and what it was made from."""
    start = page.text.index("yi-6b / RLAIF")
    card = page.text[start : page.text.index("llama-7b / SFT 10%")]
    node = "rlaif_test[base=yi-6b,seed=1]"
    for told in (
        node, key_of(node)[:12], "specs/study.yaml:31", "feed00000000", "c0ffee000000", "node7",
        "2025-10-09 08:53", "21.5 s", "Made from prompts", "3 seeds, 200 prompts", "63.0 ± 1.7 (fig3.csv)",
    ):  # fmt: skip
        assert told in card, told
    assert "#t1-1-3" in page.links and "t1-1-3" in page.ids


def test_missing_numbers_say_why(page: Page) -> None:
    assert "2 of 3 seeds" in page.text
    assert (
        "blocked by rlaif[base=llama-7b,seed=2] (failed: OutOfMemoryError: CUDA out of memory)" in page.text
    )
    assert "16 of 18 numbers in place. 102 jobs: 97 done, 1 failed, 1 blocked, 3 not run." in page.text


def test_work_that_several_stages_share_counts_once(store: Store, tmp_path: Path) -> None:
    world = World(store)
    world.node("full_test", "evaluate")
    world.seal_scores("full_test", [1.0, 0.0])
    world.nodes.append({**world.nodes[0], "id": "again_test", "stage": "again_test"})
    cells = [world.cell("full_test"), world.cell("again_test")]
    world.tables.append(table("main", {"A": "win_rate", "B": "win_rate"}, {"r": cells}))
    page = Page(report(store, world, tmp_path / "out"))
    assert "2 of 2 numbers in place. 2 nodes, 1 job: 1 done. Work: 1 min 30 s." in page.text


def test_samples_show_one_of_each_outcome(page: Page) -> None:
    assert "gpt-4-0314, reference shown first: Output (b)" in page.text
    assert {"preferred to the reference", "reference preferred"} <= {word.strip() for word in page.words}


def test_training_and_costs(page: Page) -> None:
    assert page.tags["polyline"] == 12 + 12 + 3 * 8
    assert "12 runs, ending at" in page.text
    assert "base=mistral-7b,seed=2: 0.3" in page.text and ", reward margin 0.3" in page.text
    assert "4 × NVIDIA H200 123,457 1.3% 42.1% 71.0 GiB 3.2 s 13 min 32 s 44.1 s" in page.text
    assert "weak_test 12 2,400 108,000 14,400 15.00" in page.text
    assert "all 32 6,400 288,000 38,400 40.00" in page.text


def test_spent_against_estimated(page: Page) -> None:
    """One base was made before estimates were kept, and the prompts by another experiment."""
    assert "weak 62.2 GPU-hours 40.5 (22.5–63) for 44.3 GPU-hours 9 of 9 12 weak_test" in page.text
    assert (
        "rlaif_test 0.0956 CPU-hours 10.00 dollars 0.16 (0.08–0.8) 9.60 (6.40–12.80) 8 of 8 8 all"
        in page.text
    )
    assert "Reused: 1 job, which had cost 0.00233 CPU-hours; here they cost nothing." in page.text


def test_what_a_label_costs() -> None:
    """Dollars over the labels that became preferences; an artifact that two nodes share counts once."""

    def job(id_: str, kind: str, key: str, model: str, **told: Any) -> Job:
        llm = {"provider": "openai", "model": model, "mode": "batch"}
        manifest: dict[str, Any] = {"inputs": {"critic": [{"section": "llms", "declared": llm}]}}
        tokens = {"input_tokens": 1000, "output_tokens": 10}
        summary = {"requests": 100, **tokens, "decided": 80, **told}
        return Job(
            id_, id_.partition("[")[0], kind, key, "", (), "done", "", {**manifest, "summary": summary}
        )

    jobs = [
        job("labels[seed=0]", "label", "k0", "gpt-x", dollars=2.0),
        job("labels[seed=1]", "label", "k1", "gpt-x", dollars=4.0, shared=50),
        job("same[seed=0]", "label", "k0", "gpt-x", dollars=2.0),
        job("exam", "evaluate", "k2", "gpt-y", dollars=None),
    ]
    labels, exam = asked_of(jobs)
    assert (labels.what, labels.llm, labels.jobs) == ("labels", "openai/gpt-x, in batches", 2)
    assert labels.usd_per_label == pytest.approx(6 / 160)
    assert exam.usd is None and exam.usd_per_label is None and exam.labels is None
    assert asked_told(jobs) == (
        "paid: 200 requests, 2,020 tokens, $6.00; 20% of replies shared; "
        "$0.0375 a label of openai/gpt-x, in batches (labels)"
    )
    assert asked_told(jobs[3:]) == ""


def test_texts_of_others_are_escaped(store: Store, tmp_path: Path) -> None:
    world = World(store, NASTY)
    world.node("sampled", "sample")
    world.seal("sampled", data=[{"id": NASTY, "prompt": NASTY, "completion": NASTY, "answer": NASTY}])
    world.node("a", "evaluate", ["sampled"])
    inputs = {"completions": [{"kind": "sample", "key": key_of("sampled"), "path": "data.jsonl"}]}
    world.seal(
        "a",
        metrics={"win_rate": 50.0},
        items=[{"id": NASTY, "win": 1.0, "correct": None, "length": 3}],
        verdicts=[{"id": NASTY, "reason": NASTY, "shown": ["ab"], "replies": [NASTY], "judge": NASTY}],
        inputs=inputs,
    )
    world.node(NASTY, "sft")
    world.fail(NASTY, "failed", NASTY)
    world.tables = [table(NASTY, {NASTY: "win_rate"}, {NASTY: [world.cell("a")]}, caption=NASTY)]
    text = report(store, world, tmp_path)
    assert "<script" not in text.lower()
    assert "alert(1)" in Page(text).text
    assert "a|b `c` *d* &lt;script&gt;" in text


def test_a_large_experiment_still_makes_a_small_page(store: Store, tmp_path: Path) -> None:
    world = World(store)
    rows = {}
    for r in range(60):
        cells = []
        for c in range(10):
            ids = [world_node(world, f"score_{c}[row={r},seed={s}]") for s in range(5)]
            cells.append({"members": [member(id) for id in ids]})
        rows[f"row {r}"] = cells
    for n in range(5_000):
        world.nodes.append({"id": f"train[n={n}]", "stage": "train", "kind": "sft", "key": key_of(f"t{n}")})
    columns = {f"column {c}": "win_rate" for c in range(10)}
    world.tables = [table("big", columns, rows, over=["seed"])]
    text = report(store, world, tmp_path)
    assert len(text.encode()) <= MAX_BYTES
    assert {link.removeprefix("#") for link in Page(text).links} <= set(Page(text).ids)


def world_node(world: World, id: str) -> str:
    world.nodes.append({"id": id, "stage": id.partition("[")[0], "kind": "evaluate", "key": key_of(id)})
    return id


def member(id: str) -> dict[str, str]:
    return {"node": id, "kind": "evaluate", "key": key_of(id), "field": "win_rate", "place": "s.yaml:1"}


def test_a_broken_training_log_costs_only_its_chart(store: Store, tmp_path: Path) -> None:
    world = World(store)
    world.node("train", "sft")
    world.seal("train", training=[{"step": 1, "loss": 0.5}])
    (store.artifact("sft", key_of("train")) / "training.jsonl").write_text("not json")
    assert Page(report(store, world, tmp_path)).tags["polyline"] == 0


def test_runs_that_share_their_first_steps_are_one_curve(store: Store, tmp_path: Path) -> None:
    """epochs=2 goes on from epochs=1; seed=1 differs from the first step."""
    world = World(store)
    losses = [0.9, 0.7, 0.6, 0.5]
    for name, told in {
        "train[epochs=1]": losses[:2],
        "train[epochs=2]": losses,
        "train[again=1]": losses,
        "train[seed=1]": [0.8, 0.7],
    }.items():
        world.node(name, "sft")
        world.seal(name, training=[{"step": i, "loss": loss} for i, loss in enumerate(told, 1)])
    (chart,) = charts(
        store, survey(store, Description.model_validate(world.description()).nodes).values(), 16
    )
    assert chart.runs == ("epochs=2", "seed=1")
    assert [panel.name for panel in chart.panels] == ["loss"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, ""),
        (0.04, "0.0 s"),
        (59.9, "59.9 s"),
        (61, "1 min 1 s"),
        (3600, "1 h 0 min"),
        (3599.7, "1 h 0 min"),
    ],
)
def test_duration(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


def test_moment() -> None:
    assert (moment(None), moment(1_760_000_000.0)) == ("", "2025-10-09 08:53")


def test_thinned_keeps_the_end_and_the_mean() -> None:
    points = [(float(i), float(i % 2)) for i in range(1, 101)]
    thin = thinned(points, 10)
    assert len(thin) == 10
    assert thin[-1] == (100.0, 0.5)
    assert thinned([]) == ()
    assert thinned([(1.0, 2.0)]) == ((1.0, 2.0),)


# ---------------------------------------------------------------- in a browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--hide-scrollbars",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
)  # fmt: skip


def colours(url: str, folder: Path, size: str, *flags: str) -> Counter[tuple[int, int, int]]:
    """How often each colour stands in the picture of a page."""
    from PIL import Image

    assert CHROMIUM is not None
    shot = folder / "shot.png"
    words = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", f"--window-size={size}"]
    done = subprocess.run(
        [*words, f"--screenshot={shot}", *flags, url], capture_output=True, text=True, timeout=120
    )
    assert shot.exists(), done.stderr[-2000:]
    with Image.open(shot) as picture:
        return Counter(picture.convert("RGB").get_flattened_data())


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("flags", "paper"),
    [((), (255, 255, 255)), (("--blink-settings=preferredColorScheme=0",), (23, 23, 27))],
    ids=["light", "dark"],
)
def test_the_page_is_drawn(
    written: Path, tmp_path: Path, flags: tuple[str, ...], paper: tuple[int, int, int]
) -> None:
    seen = colours(f"file://{written / 'report.html'}", tmp_path, "900,1600", *flags)
    assert seen.most_common(1)[0][0] == paper
    assert seen[0, 0x72, 0xB2] > 1000  # the first bars of the figure
    assert len(seen) > 50


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_number_opens_its_card(written: Path, tmp_path: Path) -> None:
    edge = (0x0B, 0x5C, 0xAD)  # the card's left edge, three pixels wide
    url = f"file://{written / 'report.html'}"
    opened = colours(f"{url}#t1-1-3", tmp_path, "900,1600")[edge]
    assert opened > 500
