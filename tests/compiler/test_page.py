"""The plan as a page: whole, offline, escaped, small; what opens in it is seen in a browser."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import Span
from compiler.output import page
from compiler.output.emit import SIGNS
from compiler.output.page import MAX_BYTES, CostWords, to_html
from compiler.planning.causes import recipes
from compiler.planning.plan import Plan, State, make_plan
from compiler.program import Program
from compiler.site.profile import Profile
from runtime.store import Store
from tests.commands import alignc
from tests.compiler.specs import HEAD, STUDY, compile_text
from tests.test_results_report import CHROMIUM, QUIET, Page

NASTY = "</script><script>alert(1)</script><img src=x onerror=alert(2)> \"q\" 'r' & {{ 7 * 7 }}"


def html(plan: Plan, costs: CostWords | None = None) -> str:
    return to_html(plan, Profile(), Store(Path("/store")), costs)


def data(text: str) -> Any:
    """What the page's script reads."""
    return json.loads(re.findall(r'<script type="application/json" id="plan">(.*?)</script>', text, re.S)[0])


def unfolded(runs: list[int]) -> list[int]:
    found: list[int] = []
    for number in runs:
        found += [number] if number >= 0 else range(found[-1] + 1, found[-1] + 1 - number)
    return found


def at(column: Any, i: int) -> Any:
    return column[i] if isinstance(column, list) else column


def listed(told: Any) -> dict[str, dict[str, Any]]:
    """Every node on the page by its id: number, key, action, reason and needs."""
    found: dict[str, dict[str, Any]] = {}
    for stage in told["stages"]:
        for i, step in enumerate(unfolded(stage["steps"])):
            inside = ",".join(f"{name}={labels[at(which, i)]}" for name, labels, which in stage["axes"])
            why = at(stage["why"], i)
            found[stage["name"] + (f"[{inside}]" if inside else "")] = {
                "step": step,
                "key": stage["keys"][i * told["digits"] : (i + 1) * told["digits"]],
                "action": told["actions"][stage["actions"][i]][0],
                "why": why if isinstance(why, list) else [why],
                "needs": unfolded(stage["needs"][i]),
            }
    return found


def large(groups: int) -> str:
    """A spec of 36 nodes for each group, and three."""
    return (
        HEAD
        + f"""\
axes: {{group: [{", ".join(map(str, range(groups)))}]}}
stages:
  prompts: {{kind: prepare, source: tasks, split: {{sft: 10%, aif: 70%, validation: 10%, test: 10%}}}}
  answers: {{kind: demonstrate, prompts: prompts.sft, teacher: weak}}
  others: {{kind: demonstrate, prompts: prompts.aif, teacher: weak}}
  tune:
    {{kind: sft, model: tiny, data: answers, epochs: 3, seed: "${{group}}",
     sweep: {{learning_rate: [1e-3, 2e-3, 3e-3, 4e-3, 5e-3, 6e-3, 7e-3, 8e-3, 9e-3, 1e-2]}}}}
  score: {{kind: evaluate, model: tune, prompts: prompts.validation}}
  best: {{kind: select, from: tune, by: score.accuracy}}
  samples: {{kind: sample, model: best, prompts: prompts.aif}}
  labels: {{kind: label, critic: weak, a: others, b: samples}}
  rlaif: {{kind: dpo, model: best, data: labels, epochs: 3, learning_rate: 1e-4}}
  test: {{kind: evaluate, model: rlaif, prompts: prompts.test}}
"""
    )


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    """A plan with every action."""
    program = compile_text(tmp_path_factory.mktemp("study"), STUDY.replace("    checkpoint_every: 2\n", ""))
    keys = keys_by_id(program)
    state = State(
        sealed=frozenset(keys[i] for i in ("corpus", "prompts", "base", "answers")),
        failed={keys["others"]: "out of disk"},
        busy={keys["tune[seed=0,learning_rate=0.001]"]: "at work on n1, process 3"},
    )
    return make_plan(program, state, on_slurm=True)


@pytest.fixture(scope="module")
def big(tmp_path_factory: pytest.TempPathFactory) -> Plan:
    return make_plan(compile_text(tmp_path_factory.mktemp("big"), large(139)), State(), max_array=1000)


def keys_by_id(program: Program) -> dict[str, str]:
    return dict(zip((n.id for n in program.graph.nodes), program.keys, strict=True))


def test_every_node_is_there(study: Plan) -> None:
    told = data(html(study))
    found = listed(told)
    assert {s.action for s in study.steps} == {"run", "reuse", "wait", "blocked"}
    for index, step in enumerate(study.steps):
        node = found.pop(step.node.id)
        text, *named = node["why"]
        parts = [study.steps[i].node.id for i in named]
        assert (node["step"], node["key"], node["action"]) == (index, step.key, step.action)
        assert node["needs"] == list(step.needs)
        assert told["strings"][text].replace("\x01", "{}").format(*parts) == step.why
    assert not found


def test_reasons_lead_to_the_nodes_they_name(study: Plan) -> None:
    found = listed(data(html(study)))
    (named,) = found["best[seed=0]"]["why"][1:]
    assert study.steps[named].node.id == "tune[seed=0,learning_rate=0.001]"
    assert found["others"]["why"][1:] == []


def test_graph_and_table_stand_without_script(study: Plan) -> None:
    seen = Page(html(study))
    stages = list(study.program.graph.by_stage)
    needed = {(study.steps[i].node.stage, s.node.stage) for s in study.steps for i in s.needs}
    needed = {(need, stage) for need, stage in needed if need != stage}
    assert seen.tags["path"] == len(needed)
    for stage in stages:
        assert seen.links.count(f"#stage={stage}") == 2, stage  # a box and a line of the table
    assert "tune [seed=2, learning_rate=2]" in seen.text
    assert "its last try failed: out of disk" in seen.text
    for action, words in page.WORDS.items():
        count = sum(s.action == action for s in study.steps)
        assert (f"{SIGNS.get(action)} {count} {words}" in seen.text) == bool(count), action


def test_jobs_with_their_scripts(study: Plan) -> None:
    told = data(html(study))
    assert [j["name"] for j in told["jobs"]] == [j.name for j in study.jobs]
    job = next(j for j in told["jobs"] if j["name"] == "study.tune")
    assert job["call"] == "sbatch study.tune.sh"
    assert "#SBATCH --array=0-2" in [told["strings"][line] for line in job["lines"]]
    assert unfolded(job["steps"]) == [
        i for i, s in enumerate(study.steps) if s.node.stage == "tune" and s.action == "run"
    ]


def test_legs_of_one_run_are_one_task(tmp_path: Path) -> None:
    """Nine checkpoints of a run have one time limit together."""
    text = html(make_plan(compile_text(tmp_path, STUDY), State()))
    job = next(j for j in data(text)["jobs"] if j["name"] == "study.tune")
    assert (len(unfolded(job["steps"])), job["sizes"]) == (12, 3)
    row = text[text.index('<a href="#stage=tune">') :].partition("</tr>")[0]
    assert '<td class="r">48 CPU-h</td>' in row


def test_a_selection_is_what_the_page_is_about(tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY)
    chosen = [i for i, n in enumerate(program.graph.nodes) if n.stage in ("corpus", "prompts")]
    seen = Page(html(make_plan(program, State(), selected=frozenset(chosen)))).text
    assert "2 nodes of 58 selected in 2 stages" in seen and "+ 2 to run" in seen


def test_what_has_changed_is_told(tmp_path: Path) -> None:
    old = recipes(compile_text(tmp_path, STUDY))
    program = compile_text(tmp_path, STUDY, "stages.rlaif.beta=0.2")
    state = State(sealed=frozenset(node["key"] for node in old.values()))
    seen = Page(html(make_plan(program, state, past=old))).text
    assert "~ 6 to run again" in seen
    change = "beta 0.1 -> 0.2, --set stages.rlaif.beta:1; 2 stages after it (4 nodes)"
    assert f"Changed since the last run: {change}" in seen


def test_nothing_comes_from_outside(study: Plan) -> None:
    text = html(study)
    seen = Page(text)
    assert all(link.startswith("#") for link in seen.links) and not seen.sources
    assert not {"link", "iframe", "object", "img"} & set(seen.tags) and seen.tags["script"] == 2
    assert not re.search(r"https?://|url\(|@import", text)
    script = re.findall(r"<script>(.*?)</script>", text, re.S)[0]
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in text and "default-src 'none'" in text


@pytest.fixture
def nasty(tmp_path: Path) -> Plan:
    """A spec, an axis and a failure that try to be HTML."""
    text = HEAD + (
        f"axes:\n  who: [{json.dumps(NASTY)}, b]\n"
        "stages:\n"
        "  prompts: {kind: prepare, source: tasks}\n"
        f"  answers:  # {NASTY}\n"
        f'    {{kind: demonstrate, prompts: prompts, teacher: weak, note: "${{who}}"}}\n'
    )
    program = compile_text(tmp_path, text, name="a<b>&'\".yaml")
    return make_plan(program, State(failed={keys_by_id(program)["prompts"]: NASTY}))


def test_texts_of_others_are_escaped(nasty: Plan) -> None:
    text = html(nasty)
    seen = Page(text)
    assert seen.tags["script"] == 2 and seen.tags["img"] == 0
    assert "{{ 7 * 7 }}" in seen.text
    told = data(text)
    assert f"answers[who={NASTY}]" in listed(told)
    assert f"  answers:  # {NASTY}" in told["stages"][1]["lines"]
    assert any(NASTY in string for string in told["strings"])


def test_five_thousand_nodes_stay_small(big: Plan) -> None:
    text = html(big)
    assert len(big.steps) == 5007
    assert len(text.encode()) < MAX_BYTES / 2
    assert set(listed(data(text))) == {s.node.id for s in big.steps}
    assert data(text)["digits"] == 40


def test_what_is_left_out_is_told(big: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "MAX_BYTES", 100_000)
    text = html(big)
    assert len(text.encode()) <= 100_000
    told = data(text)
    tune = next(s for s in told["stages"] if s["name"] == "tune")
    assert len(unfolded(tune["steps"])) == 100 and tune["left_out"] == 1290 and told["digits"] == 12
    assert f"it lists {len(listed(told)):,} of the nodes" in Page(text).text
    assert "5,007 nodes in 12 stages" in Page(text).text


@pytest.mark.parametrize(
    ("numbers", "folded"),
    [
        ([], []),
        ([7], [7]),
        ([5, 6, 7, 8], [5, -3]),
        ([3, 2, 1], [3, 2, 1]),
        ([0, 1, 5, 6, 9], [0, -1, 5, -1, 9]),
    ],
)
def test_runs_are_folded(numbers: list[int], folded: list[int]) -> None:
    assert page._runs(numbers) == folded
    assert unfolded(folded) == numbers


@pytest.mark.parametrize(
    ("text", "line", "lines"),
    [
        ("stages:\n  a: {kind: x}\n  b: {kind: y}\n", 2, ["  a: {kind: x}"]),
        (
            "stages:\n  a:\n    kind: x\n\n    epochs: 3\n\n  b: 1\n",
            2,
            ["  a:", "    kind: x", "", "    epochs: 3"],
        ),
        ("stages:\n  a:\n    kind: x\n  # about b\n  b: 1\n", 2, ["  a:", "    kind: x"]),
        ("stages:\n  a:\n    # why\n    kind: x\ntables: 1\n", 2, ["  a:", "    # why", "    kind: x"]),
    ],
)
def test_lines_of_a_stage(text: str, line: int, lines: list[str]) -> None:
    assert page._excerpt(Span("s.yaml", line, 3, 4), {"s.yaml": text}) == lines


def test_overrides_stand_with_the_lines_they_change(tmp_path: Path) -> None:
    program = compile_text(tmp_path, STUDY, "stages.score.temperature=0.5")
    told = {s["name"]: s["set"] for s in data(html(make_plan(program, State())))["stages"]}
    assert told["score"] == told["score~samples"] == ["--set stages.score.temperature=0.5"]
    assert told["tune"] == []


def test_the_command_prints_it(tmp_path: Path) -> None:
    (tmp_path / "study.yaml").write_text(STUDY)
    text = alignc("plan", "study.yaml", "--format", "html", cwd=tmp_path)
    assert len(listed(data(text))) == 58 and text.rstrip().endswith("</html>")


# ---------------------------------------------------------------- in a browser


def opened(text: str, fragment: str, folder: Path) -> Page:
    """The page as it is once its script has run."""
    assert CHROMIUM is not None
    (folder / "plan.html").write_text(text, encoding="utf-8")
    words = [CHROMIUM, *QUIET, f"--user-data-dir={folder / 'profile'}", "--dump-dom"]
    url = f"file://{folder / 'plan.html'}#{fragment}"
    done = subprocess.run([*words, url], capture_output=True, text=True, timeout=120, check=True)
    return Page(
        done.stdout[done.stdout.index('<section id="open"') : done.stdout.index('<section id="graph"')]
    )


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_stage_opens_to_its_nodes(study: Plan, tmp_path: Path) -> None:
    seen = opened(html(study), "stage=tune", tmp_path)
    assert seen.text.startswith(
        "close tune [seed=2, learning_rate=2] + 3 to run > 1 queued or running sft, 4 nodes"
    )
    assert "reads base answers read by score~samples best" in seen.text
    assert "sweep: {learning_rate: [1e-3, 5e-4]}" in seen.text and "#SBATCH --array=0-2" in seen.text
    assert seen.text.endswith("learning_rate \\ seed 0 1 0.001 > + 0.0005 + + Show more (0 rows left)")


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_checkpoint_opens_to_its_runs_task(tmp_path: Path) -> None:
    text = html(make_plan(compile_text(tmp_path, STUDY), State()))
    seen = opened(text, "node=tune[seed=1,learning_rate=0.001,epoch=4]", tmp_path).text
    assert "study.tune, task 2 of 0-3" in seen
    assert "study.tune, 4 tasks" in opened(text, "stage=tune", tmp_path).text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_costs_are_told_where_they_are_known(study: Plan, tmp_path: Path) -> None:
    index = next(i for i, s in enumerate(study.steps) if s.node.id == "labels[seed=1]")
    text = html(study, CostWords(["about $3 of $5"], {"labels": "$2 to $4"}, {index: "$1 to $2"}))
    assert "about $3 of $5" in Page(text).text and "$2 to $4" in Page(text).text
    assert "cost $1 to $2" in opened(text, "node=labels[seed=1]", tmp_path).text
    assert "cost" not in opened(text, "node=labels[seed=0]", tmp_path).text


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_a_node_opens_among_five_thousand(big: Plan, tmp_path: Path) -> None:
    seen = opened(html(big), "node=tune[group=77,learning_rate=0.003]", tmp_path)
    key = next(s.key for s in big.steps if s.node.id == "tune[group=77,learning_rate=0.003]")
    card = seen.text[seen.text.index("tune[group=77,learning_rate=0.003]") :]
    for told in (key, "needs answers", "score~samples[group=77,learning_rate=0.003]", "task 772 of 0-999"):
        assert told in card, told
    assert seen.tags["tr"] == 1 + 139 + 1  # a row for each group, and the opened node


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
@pytest.mark.parametrize(
    ("fragment", "told", "rows"),
    [
        ("action=blocked&find=RLAIF", '3 nodes with "RLAIF" in the name, blocked', 4),
        ("stage=tune&action=wait", "1 node, queued or running. Show all of the stage", 2),
        ("find=score", '8 nodes with "score" in the name', 9),
        ("node=gone", "This page lists no node gone", 0),
    ],
)
def test_nodes_are_found(study: Plan, tmp_path: Path, fragment: str, told: str, rows: int) -> None:
    seen = opened(html(study), fragment, tmp_path)
    assert told in seen.text and seen.tags["tr"] == rows


@pytest.mark.browser
@pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
def test_nothing_of_a_spec_becomes_html(nasty: Plan, tmp_path: Path) -> None:
    seen = opened(html(nasty), "stage=answers", tmp_path)
    assert seen.tags["img"] == seen.tags["script"] == 0
    assert "onerror=alert(2)" in seen.text
