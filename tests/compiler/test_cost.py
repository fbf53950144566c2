"""Estimates: rows and tokens through the graph, hours, dollars; every number below is worked out by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from compiler.cost.amounts import Cost, Costs, Range, exactly, observed
from compiler.cost.budget import hold, require
from compiler.cost.counts import Count, Memory, count_rows, count_source
from compiler.cost.estimate import estimate
from compiler.cost.facts import gather
from compiler.cost.flow import Facts, Lm, template_characters
from compiler.cost.models import Size, characters_per_token, size_of
from compiler.cost.prices import Price, price_of, priced, read_tables
from compiler.cost.words import dollars, duration, short
from compiler.errors import SpecError, UsageError
from compiler.output.describe import describe_jobs
from compiler.program import Program
from compiler.site.profile import Profile, load_profile
from runtime.declare import JsonlSource, ModelDecl, OpenAiLLM, ShareGptSource
from runtime.files import write_json
from runtime.spending import Spent
from runtime.store import Store
from tests.commands import alignc
from tests.compiler.specs import STUDY, compile_text

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "plan.schema.json").read_text())

# Every text of `web` has 4,000 characters and more, so that every sequence is cut at 512 tokens.
PAPER = """\
experiment: paper
models: {seven: {hub: someone/model, parameters: 7e9, chat: human_assistant}}
llms: {gpt4: {provider: openai, model: gpt-4-0314}, claude: {provider: anthropic, model: claude-v1}}
sources: {web: {kind: datasets, hub: someone/data, completion: completion}}
stages:
  all: {kind: prepare, source: web}
  prompts: {kind: prepare, source: web, split: {sft: 10%, aif: rest}}
  tune: {kind: sft, model: seven, data: all, epochs: 3, learning_rate: 1e-6, precision: bf16,
         truncation: keep_start, batch_size: 64, parallel: {processes: 8},
         resources: {gpus: 8, minutes: 60}}
  weak: {kind: sft, model: seven, data: prompts.sft, epochs: 1, learning_rate: 1e-6, precision: bf16,
         truncation: keep_start, resources: {gpus: 1}}
  samples: {kind: sample, model: weak, prompts: prompts.aif, max_new_tokens: 100, resources: {gpus: 1}}
  labels: {kind: label, critic: gpt4, a: prompts.aif, b: samples, order: ORDER}
  rlaif: {kind: dpo, model: weak, data: labels, epochs: 3, learning_rate: 1e-6, precision: bf16,
          truncation: keep_start, parallel: {processes: 8}, resources: {gpus: 8}}
"""
SEVEN = Lm(Size(7e9, 7e9, "stated"), exactly(4), "4 characters a token")
FACTS = Facts(
    sources={("web", None, False): Count(10_000, 4000, 4000, True, "counted")},
    models={"seven": SEVEN},
    prices={"gpt4": Price(30, 60, "a test")},
)
STATED = Profile(gpu_type="a100", mfu=0.4, sampling_mfu=0.05)


def paper(folder: Path, *overrides: str, order: str = "coin") -> Program:
    return compile_text(folder, PAPER.replace("ORDER", order), *overrides)


def cost_of(program: Program, costs: Costs, node: str) -> Cost:
    return next(c for i, c in costs.nodes.items() if program.graph.nodes[i].id == node)


def likely(program: Program, costs: Costs, node: str) -> dict[str, float]:
    cost = cost_of(program, costs, node)
    return {name: getattr(cost, name).likely for name in ("rows", "tokens_read", "tokens_written", "flops")}


# ---------------------------------------------------------------- rows, tokens, hours


def test_the_paper_sized_example(tmp_path: Path) -> None:
    program = paper(tmp_path)
    costs = estimate(program, (), FACTS, STATED)
    # 10,000 rows x 512 tokens x 3 epochs; 6 FLOPs x 7e9 parameters a token
    tokens = 10_000 * 512 * 3
    told = likely(program, costs, "tune")
    assert told == {"rows": 10_000, "tokens_read": tokens, "tokens_written": 0, "flops": 6 * 7e9 * tokens}
    # 8 GPUs at 40 % of 312 TFLOP/s: 646 s; 10 s of start-up and 28 GB at 0.5 GB/s: 66 s
    tune = cost_of(program, costs, "tune")
    assert tune.seconds.likely == pytest.approx(646.2 + 66.0, abs=0.1)
    assert tune.gpu_hours.likely == pytest.approx(8 * 712.2 / 3600, rel=1e-3)
    assert tune.gpu_hours.low < tune.gpu_hours.likely < tune.gpu_hours.high
    assert tune.basis[0] == "rows: counted" and "40 % of A100's 312 TFLOP/s, stated" in tune.basis[-1]


def test_rows_go_through_splits_pairs_and_preferences(tmp_path: Path) -> None:
    program = paper(tmp_path)
    costs = estimate(program, (), FACTS, STATED)
    rows = {program.graph.nodes[i].id: c.rows for i, c in costs.nodes.items()}
    assert rows == {
        "all": exactly(10_000),
        "prompts": exactly(10_000),
        "tune": exactly(10_000),
        "weak": exactly(1_000),
        "samples": exactly(9_000),
        "labels": exactly(9_000),
        "rlaif": Range(4_500, 8_100, 9_000),  # pairs on which the critic has a preference
    }


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ("", {"data.jsonl": 1000}),
        (", limit: 300", {"data.jsonl": 300}),
        (", split: {a: 10%, b: rest}", {"a.jsonl": 100, "b.jsonl": 900}),
        (", split: {a: 0.15%, b: 7}, limit: 999", {"a.jsonl": 1, "b.jsonl": 7}),
        (", split: {a: 2000}", {}),  # the job will refuse
    ],
)
def test_splits(tmp_path: Path, config: str, expected: dict[str, int]) -> None:
    from compiler.cost.flow import Flows

    head = "experiment: x\nsources: {s: {kind: world}}\nstages:\n"
    text = f"{head}  p: {{kind: prepare, source: s{config}}}\n"
    program = compile_text(tmp_path, text)
    facts = Facts(sources={("s", None, False): Count(1000, 10, None, True, "counted")})
    made: Any = Flows(program, facts).prepared(program.graph.nodes[0])
    assert {path: rows.count.likely for path, rows in made.items()} == expected


def test_dpo_costs_policy_and_reference(tmp_path: Path) -> None:
    program = paper(tmp_path)
    told = likely(program, estimate(program, (), FACTS, STATED), "rlaif")
    once = 8_100 * 2 * 512  # chosen and rejected
    assert told["tokens_read"] == 3 * once
    assert told["flops"] == 7e9 * (6 * 3 * once + 2 * once)  # the reference: one forward pass, once


def test_sampling(tmp_path: Path) -> None:
    program = paper(tmp_path)
    samples = cost_of(program, estimate(program, (), FACTS, STATED), "samples")
    # prompts are cut to 256 tokens; answers are as long as what it was trained on, at most 100 tokens
    assert samples.tokens_read.likely == 9_000 * 256 and samples.tokens_written.likely == 9_000 * 100
    read, written = 2 * 7e9 * 9_000 * 256 / (0.4 * 312e12), 2 * 7e9 * 9_000 * 100 / (0.05 * 312e12)
    assert samples.seconds.likely == pytest.approx(read + written + 66)


def test_the_studys_own_hours(tmp_path: Path) -> None:
    """Stated for 7B on 8 A100, batch 8, fp32 with TF32 (156 TFLOP/s): 1 h an epoch of SFT on 46,000
    rows, 2 h 45 for 3 epochs of DPO on 40,000 pairs. Lengths of texts are assumed."""
    lineage = ("stages.tune={batch_size: 8, epochs: 1, precision: fp32}", "stages.rlaif={precision: fp32}")
    program = paper(tmp_path, *lineage)
    facts = Facts(
        sources={("web", None, False): Count(46_000, 800, 900, True, "stated")},
        models={"seven": Lm(Size(6.74e9, 6.74e9, "stated"), exactly(4), "")},
    )
    profile = Profile(gpu_peak_tflops=156)
    costs = estimate(program, (), facts, profile)
    tune, rlaif = cost_of(program, costs, "tune"), cost_of(program, costs, "rlaif")
    assert tune.seconds.likely / 3600 == pytest.approx(1.0, rel=0.05)
    assert rlaif.seconds.likely / 3600 == pytest.approx(2.75, rel=0.2)
    # 0.62 s a step: 3 exchanges of 27 GB, more than the arithmetic takes
    assert (tune.seconds.likely - 64) / (46_000 / 8) == pytest.approx(0.62, abs=0.01)


def test_fp32_runs_at_its_own_peak_and_idle_gpus_are_paid(tmp_path: Path) -> None:
    fast = paper(tmp_path)
    slow = paper(tmp_path, "stages.tune.precision=fp32")
    idle = paper(tmp_path, "stages.tune.parallel.processes=1")
    base, fp32, one = (cost_of(p, estimate(p, (), FACTS, STATED), "tune") for p in (fast, slow, idle))
    assert (fp32.seconds.likely - 66) / (base.seconds.likely - 66) == pytest.approx(312 / 19.5)
    assert one.seconds.likely - 66 == pytest.approx(8 * (base.seconds.likely - 66))
    assert one.gpu_hours.likely == pytest.approx(8 * one.seconds.likely / 3600)


def test_equal_work_and_sealed_work_cost_nothing_more(tmp_path: Path) -> None:
    text = PAPER.replace("ORDER", "coin") + "  again: {kind: prepare, source: web}\n"
    program = compile_text(tmp_path, text)
    keys = dict(zip((n.id for n in program.graph.nodes), program.keys, strict=True))
    costs = estimate(program, {keys["tune"]}, FACTS, STATED)
    assert {program.graph.nodes[i].id for i in costs.nodes}.isdisjoint({"tune", "again"})


def test_what_nobody_knows_is_said(tmp_path: Path) -> None:
    program = paper(tmp_path)
    nothing = estimate(program, (), Facts(models={"seven": SEVEN}), STATED)
    assert "the rows of `web` are not known here" in nothing.unknown
    assert nothing.gpu_hours == exactly(0)
    sizeless = Facts(sources=FACTS.sources, prices=FACTS.prices)
    assert (
        "the size of the model `seven` is not known here" in estimate(program, (), sizeless, STATED).unknown
    )
    stated = paper(tmp_path, "stages.all.limit=500")  # the spec itself says how many
    assert likely(stated, estimate(stated, (), Facts(models={"seven": SEVEN}), STATED), "tune")["rows"] == 500


# ---------------------------------------------------------------- dollars


def test_both_orders_ask_twice_and_the_template_counts(tmp_path: Path) -> None:
    costs = {}
    for order in ("coin", "both"):
        program = paper(tmp_path, order=order)
        costs[order] = cost_of(program, estimate(program, (), FACTS, STATED), "labels")
    own, reasons = template_characters("judge/pairwise.j2")
    assert 600 < own < 800 and not reasons
    # prompt 4,000 characters, teacher 4,000, sample 100 tokens of 4; 1.02 for what is asked again
    tokens = 9_000 * 1.02 * (own + 4000 + 4000 + 400) / 4
    assert costs["coin"].tokens_read.likely == pytest.approx(tokens)
    assert costs["coin"].usd.likely == pytest.approx((tokens * 30 + 9_000 * 1.02 * 6 * 60) / 1e6)
    assert costs["both"].usd.likely == pytest.approx(2 * costs["coin"].usd.likely)
    assert "both orders" in costs["both"].basis and "price: a test" in costs["both"].basis
    thrice = paper(tmp_path, "stages.labels.repeats=3", order="both")
    again = cost_of(thrice, estimate(thrice, (), FACTS, STATED), "labels")
    assert again.usd.likely == pytest.approx(6 * costs["coin"].usd.likely)
    (tmp_path / "mine.j2").write_text(500 * "A" + "{{ first }}{{ second }}")
    mine = f"{{kind: template, path: {tmp_path}/mine.j2, max_tokens: 5, parser: {{kind: whole_reply}}}}"
    worded = paper(tmp_path, f"wordings.mine={mine}", "stages.labels.wording=mine")
    found = cost_of(worded, estimate(worded, (), FACTS, STATED), "labels")
    assert found.tokens_read.likely == pytest.approx(9_000 * 1.02 * (500 + 4000 + 4000 + 400) / 4)
    assert found.tokens_written.likely == pytest.approx(9_000 * 1.02 * 5)


def test_batches_cost_half_and_take_their_time(tmp_path: Path) -> None:
    live = cost_of(program := paper(tmp_path), estimate(program, (), FACTS, STATED), "labels")
    batched = paper(tmp_path, "llms.gpt4.mode=batch")
    cost = cost_of(batched, estimate(batched, (), FACTS, STATED), "labels")
    assert cost.usd.likely == pytest.approx(live.usd.likely / 2) and batched.keys == program.keys
    assert "half of it, in batches" in cost.basis and cost.seconds.high == 86_400


def test_the_templates_own_text_is_what_the_judge_is_sent() -> None:
    from runtime.judging import Pair, template
    from runtime.templates import names

    for name in names("judge"):
        sent = template(name).messages(Pair("i", "", "", ""), "ab")
        assert template_characters(f"judge/{name}.j2")[0] == pytest.approx(
            sum(len(m.content) for m in sent), abs=20
        )
    assert template_characters("judge/pairwise_reasons.j2")[1] or "pairwise_reasons" not in names("judge")


def test_an_unknown_price_is_never_zero(tmp_path: Path) -> None:
    program = paper(tmp_path)
    costs = estimate(program, (), Facts(sources=FACTS.sources, models=FACTS.models), STATED)
    assert costs.unpriced == ["gpt4 (gpt-4-0314)"] and costs.usd == exactly(0)
    assert cost_of(program, costs, "labels").tokens_read.likely > 0


def llm(model: str, **more: Any) -> OpenAiLLM:
    return OpenAiLLM.model_validate({"provider": "openai", "model": model, **more})


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("gpt-4-0314", (30, 60)),
        ("gpt-4-1106-preview", (10, 30)),
        ("gpt-4o-2024-05-13", (5, 15)),
        ("gpt-4o-2031-01-01", (2.5, 10)),  # a snapshot that is not listed
        ("claude-3-5-sonnet-20241022", (3, 15)),
        ("gpt-4-turbo-mine", None),
        ("local-critic", None),
    ],
)
def test_shipped_prices(model: str, price: tuple[float, float] | None) -> None:
    found = price_of(llm(model), read_tables(None))
    assert (found and (found.input, found.output)) == price


def test_whose_price_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    own = tmp_path / ".config" / "alignc" / "prices.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("as_of: 2026-01\nmodels: {gpt-4: {input: 1, output: 2}, mine: {input: 3, output: 4}}\n")
    (tmp_path / "p.yaml").write_text("models: {gpt-4: {input: 5, output: 6}}\n")
    (tmp_path / "site.yaml").write_text("prices: p.yaml\n")
    profile = load_profile(str(tmp_path / "site.yaml"), tmp_path / "spec.yaml")
    tables = read_tables(profile.prices)

    def told(declared: OpenAiLLM) -> tuple[float, str]:
        price = price_of(declared, tables)
        assert price is not None
        return price.input, price.basis

    assert told(llm("gpt-4")) == (5, "p.yaml")
    assert told(llm("mine")) == (3, "prices.yaml of 2026-01")
    assert told(llm("gpt-4o"))[0] == 2.5
    assert told(llm("gpt-4", usd_per_million_input=0, usd_per_million_output=9)) == (0, "stated")
    cached = {"mine": None, "gpt-4o": 1.25, "gpt-4o-2024-05-13": None, "claude-sonnet-4-5": 0.3}
    found = {name: price_of(llm(name), tables) for name in cached}
    assert {name: price and price.cached_input for name, price in found.items()} == cached
    own.write_text("models: {gpt-4: {input: -1}}\n")
    with pytest.raises(UsageError, match=r"prices\.yaml:1:\d+: .*output"):
        read_tables(None)


def test_jobs_are_told_prices_and_keys_stay(tmp_path: Path) -> None:
    program = paper(tmp_path)
    filled = priced(program, read_tables(None))
    (labels,) = (j for j in describe_jobs(filled) if j["id"] == "labels")
    (critic,) = labels["inputs"]["critic"]
    assert critic["declared"]["usd_per_million_input"] == 30 and filled.keys == program.keys
    assert "budget" not in labels


# ---------------------------------------------------------------- data and models at hand


def test_rows_of_a_file_are_counted_as_prepare_reads_them(tmp_path: Path) -> None:
    file = tmp_path / "d.jsonl"
    lines = [{"prompt": "p" * 10, "completion": "c" * 30}, {"prompt": "q" * 30, "completion": "c" * 50}]
    file.write_text(
        "".join(json.dumps(row) + "\n" for row in [*lines, lines[0], {"prompt": "", "completion": "x"}])
    )
    source = JsonlSource.model_validate({"kind": "jsonl", "path": str(file), "completion": "completion"})
    whole = Count(2, 20, 40, True, "counted in d.jsonl")
    assert count_source(source, None, True, Memory(None)) == whole  # one is double, one has no prompt
    assert count_source(source, 20, True, Memory(None)) == Count(1, 10, 30, True, "counted in d.jsonl")
    assert count_source(source.model_copy(update={"path": "gone"}), None, True, Memory(None)) is None
    file.write_text("{broken\n")
    assert count_rows(file, Memory(None)) is None


@pytest.mark.parametrize("form", ["jsonl", "json", "jsonl.gz"])
def test_of_a_very_large_file_the_beginning_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    import gzip
    import random

    from compiler.cost import counts

    rng = random.Random(0)
    rows = [
        {
            "id": str(i),
            "conversations": [
                {"from": "human", "value": rng.randbytes(60).hex()},
                {"from": "gpt", "value": rng.randbytes(100).hex()},
            ],
        }
        for i in range(5_000)
    ]
    text = json.dumps(rows) if form == "json" else "".join(json.dumps(row) + "\n" for row in rows)
    file = tmp_path / f"d.{form}"
    file.write_bytes(gzip.compress(text.encode()) if form.endswith("gz") else text.encode())
    source = ShareGptSource.model_validate({"kind": "sharegpt", "path": str(file)})
    monkeypatch.setattr(counts, "WHOLE", 1000)
    monkeypatch.setattr(counts, "BEGINNING", 200_000)
    found = count_source(source, None, False, Memory(None))
    assert found is not None and not found.whole and found.completion == 200
    assert found.rows == pytest.approx(5_000, rel=0.1)  # gzip reads ahead a little


def test_a_large_file_is_counted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.cost import counts

    monkeypatch.setattr(counts, "LARGE", 1)
    (tmp_path / "store").mkdir()
    memory = Memory(tmp_path / "store" / ".counts")
    file = tmp_path / "d.jsonl"
    file.write_text('{"prompt": "abcd"}\n')
    first = count_rows(file, memory)
    monkeypatch.setattr(counts, "_count", lambda rows: pytest.fail("counted again"))
    assert count_rows(file, memory) == first == Count(1, 4, None, True, "counted in d.jsonl")


def test_sizes_of_models(tmp_path: Path) -> None:
    def size(**declared: Any) -> float | None:
        found = size_of(ModelDecl.model_validate(declared))
        return found and found.active

    assert size(init={"hidden_size": 64}) == 205_248  # as a training job reports of it
    assert size(hub="mistralai/Mistral-7B-v0.1") == 7e9
    assert size(hub="HuggingFaceTB/SmolLM2-135M-Instruct") == 135e6
    assert size(hub="mistralai/Mixtral-8x7B-v0.1") == pytest.approx(13e9, rel=0.05)
    assert size(hub="someone/good-model") is None
    assert size(hub="someone/good-model", parameters=3) == 3
    header = json.dumps(
        {"__metadata__": {}, "a": {"dtype": "F32", "shape": [10, 20]}, "b": {"dtype": "F32", "shape": [5]}}
    )
    (tmp_path / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header.encode())
    assert size(path=str(tmp_path)) == 205
    (tmp_path / "m.Q4_1.gguf").write_bytes(b"x" * 1000)
    assert size(path=str(tmp_path), gguf="m.Q4_1.gguf") == 1600


def test_tokens_are_measured_where_a_tokenizer_is_at_hand(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    made = tokenizers.Tokenizer(tokenizers.models.WordLevel({"[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    made.save(str(tmp_path / "tokenizer.json"))
    declared = ModelDecl(path=str(tmp_path))
    ratio, basis = characters_per_token(declared, ["four five nine"], Memory(None))
    assert ratio == exactly(14 / 3) and "measured with its tokenizer" in basis
    assert characters_per_token(declared, [], Memory(None)) == (
        Range(3, 4, 5),
        "4 characters a token, a guess",
    )


# ---------------------------------------------------------------- history


def seal(store: Store, kind: str, key: str, **manifest: Any) -> None:
    asked = {"cpus": 1, "gpus": 0, **manifest.pop("asked", {})}
    resources = {"asked": asked, "used": {"wall_s": manifest.pop("wall_s", 10.0)}}
    write_json(
        store.artifact(kind, key) / "manifest.json",
        {"resources": resources, "inputs": {}, "config": {}, **manifest},
    )


def trained(parameters: float, rate: float) -> dict[str, Any]:
    return {
        "parameters": parameters,
        "processes": 8,
        "device": "NVIDIA A100-SXM4-80GB",
        "useful_tokens_per_s": rate,
        "seconds": {"data": 1.0, "compute": 99.0, "save": 5.0},
    }


def test_history_beats_what_is_stated(tmp_path: Path) -> None:
    program, store = paper(tmp_path), Store(tmp_path / "s")
    seal(store, "sft", "a" * 40, wall_s=150.0, summary=trained(7e9, 10_000.0))
    seal(store, "sft", "b" * 40, wall_s=1.0, summary=trained(1e6, 1.0))  # of another size: says nothing
    critic = {"section": "llms", "declared": {"provider": "openai", "model": "gpt-4-0314"}}
    told = {"requests": 10, "output_tokens": 40, "pairs": 10, "decided": 7}
    seal(store, "label", "c" * 40, summary=told, inputs={"critic": [critic]})
    (store.artifact("sft", "broken")).mkdir()
    facts = gather(program, (), store, read_tables(None))
    facts = Facts(FACTS.sources, {}, FACTS.models, FACTS.prices, facts.history)
    costs = estimate(program, (), facts, STATED)
    tune = cost_of(program, costs, "tune")
    assert tune.seconds.likely == pytest.approx(10_000 * 512 * 3 / 10_000 + 50)  # tokens / rate, and the rest
    assert tune.basis[-1].endswith("history of 1 job")
    assert tune.seconds.low < tune.seconds.likely < tune.seconds.high
    labels = cost_of(program, costs, "labels")
    assert (
        labels.tokens_written.likely == pytest.approx(9_000 * 1.02 * 4)
        and "replies: history of 1 job" in labels.basis
    )
    assert cost_of(program, costs, "rlaif").rows.likely == pytest.approx(9_000 * 0.7)


def test_only_so_many_manifests_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from compiler.cost.history import MOST, read_history

    store = Store(tmp_path / "s")
    for i in range(MOST + 30):
        seal(store, "select", f"{i:040}", summary={})
    read: list[str] = []
    manifest = Store.manifest
    monkeypatch.setattr(
        Store, "manifest", lambda self, kind, key: (read.append(key), manifest(self, kind, key))[1]
    )
    assert len(read_history(store, ["select"], {"select": ["0" * 40]}).jobs) == MOST
    assert read[0] == "0" * 40 and len(read) == MOST


def test_sealed_data_are_counted_in_the_store(tmp_path: Path) -> None:
    program, store = paper(tmp_path), Store(tmp_path / "s")
    keys = dict(zip((n.id for n in program.graph.nodes), program.keys, strict=True))
    folder = store.artifact("prepare", keys["all"])
    seal(store, "prepare", keys["all"], summary={})
    (folder / "data.jsonl").write_text('{"id": "1", "prompt": "12345678", "completion": "1234"}\n' * 3)
    facts = gather(program, {keys["all"]}, store, read_tables(None))
    tune = cost_of(program, estimate(program, {keys["all"]}, facts, STATED), "tune")
    assert tune.rows == exactly(3) and tune.basis[0] == "rows: counted in the store"


# ---------------------------------------------------------------- budgets, commands


def test_a_budget_counts_what_was_spent_and_what_is_likely_to_come(tmp_path: Path) -> None:
    program = paper(tmp_path, "budget={gpu_hours: 5, usd: 1000}")
    costs = Costs({0: Cost(gpu_hours=Range(1, 2, 9), usd=Range(0, 600, 900))})
    key = program.keys[0]

    def over(spent: Spent) -> dict[str, bool]:
        return {held.name: held.over for held in hold(program, costs, spent)}

    assert over(Spent(gpu_hours=3, usd=400)) == {"gpu_hours": False, "usd": False}
    assert over(Spent(gpu_hours=3.1, usd=401)) == {"gpu_hours": True, "usd": True}
    # a job that was stopped half-way is not paid for twice
    assert over(Spent(usd=700, unsealed_usd={key: 300})) == {"gpu_hours": False, "usd": False}
    with pytest.raises(SpecError) as caught:
        require(program, costs, hold(program, costs, Spent(gpu_hours=3.5)))
    assert "--set budget" in str(
        caught.value
    ) and "3.5 spent and 2 likely to come (at most 9) of 5 GPU-hours" in str(caught.value)
    unpriced = Costs({0: Cost(unpriced="critic (mine)")})
    with pytest.raises(SpecError, match="nobody knows the price of critic"):
        require(program, unpriced, hold(program, unpriced, Spent()))


def test_plan_tells_the_cost_and_run_refuses_what_is_over_budget(tmp_path: Path) -> None:
    text = STUDY.replace(
        "critic: {provider: simulated, error_rate: 0.05}", "critic: {provider: openai, model: gpt-4-0613}"
    )
    (tmp_path / "study.yaml").write_text(text + "budget:\n  usd: 0.01\n")
    shown = alignc("plan", "study.yaml", "--cost", cwd=tmp_path, code=1)
    assert "likely to cost" in shown and "OVER BUDGET: $0.00 spent and $" in shown
    assert "rlaif" in shown and "price: prices.yaml of" in shown
    told = json.loads(alignc("plan", "study.yaml", "--format", "json", cwd=tmp_path, code=1))
    jsonschema.validate(told, SCHEMA)
    assert told["cost"]["budget"]["usd"]["over"] and told["cost"]["usd"][1] > 0.01
    assert told["nodes"][0]["cost"]["rows"] == [500, 500, 500]
    refused = alignc("run", "study.yaml", cwd=tmp_path, code=2)
    assert (
        "study.yaml:43:8: error AC503: over budget: $0.00 spent and $" in refused and "usd: 0.01" in refused
    )
    assert sorted(p.name for p in tmp_path.iterdir()) == ["study.yaml"]
    enough = alignc("plan", "study.yaml", "--set", "budget.usd=50", cwd=tmp_path)
    assert "budget: $0.00 spent" in enough and "OVER" not in enough


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.0004, "<0.001"), (7, "7"), (999.9, "1k"), (46_100, "46.1k"), (6.74e9, "6.74G")],
)
def test_short_numbers(value: float, text: str) -> None:
    assert short(value) == text


def test_words_and_ranges() -> None:
    assert [dollars(x) for x in (0, 0.001, 12.5, 12_345)] == ["$0.00", "<$0.01", "$12.50", "$12,345"]
    assert [duration(x) for x in (0.25, 45, 119, 600, 9000, 200_000)] == [
        "0.25 s",
        "45 s",
        "119 s",
        "10 min",
        "2.5 h",
        "2.3 d",
    ]
    assert Range(1, 2, 4) / Range(1, 2, 4) == Range(0.25, 1, 4)
    assert observed([4, 1, 2]) == Range(0.8, 2, 5)
