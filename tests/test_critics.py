"""`alignc critics`: figures counted by hand, simulated critics of known bias, real labels of people."""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from compiler.critics import Bench, Named, named
from compiler.errors import UsageError
from runtime.files import write_rows
from runtime.job import JobError
from runtime.statistics.critics import (
    OTHER,
    SAME,
    TIE,
    Critic,
    Verdict,
    agree,
    figures,
    kappa,
    noise,
    of_pairs,
    position_bias,
)
from runtime.statistics.intervals import components
from tests.commands import alignc

# ---------------------------------------------------------------- one critic


def test_figures_are_those_counted_by_hand() -> None:
    verdicts = [
        Verdict("p", 1.0, True, OTHER),  # the longer one, shown first
        Verdict("p", 0.0, False, OTHER),  # shown first again: the orders disagree
        Verdict("q", 0.0, True, OTHER),
        Verdict("q", 0.0, False, OTHER),
        Verdict("r", 0.5, True),
        Verdict("s", None, True, unreadable=True),
        Verdict("t", None, False),
    ]
    found = figures(Critic("c", verdicts, usd=0.3))
    shares = {
        name: getattr(found, name) and (getattr(found, name).value, getattr(found, name).n)
        for name in ("decided", "ties", "unreadable", "no_reply", "swap_agreement", "consistency", "longer")
    }
    assert shares == {
        "decided": (40.0, 5),
        "ties": (20.0, 5),
        "unreadable": (20.0, 5),
        "no_reply": (20.0, 5),
        "swap_agreement": (50.0, 2),
        "consistency": None,
        "longer": (25.0, 2),
    }
    assert found.position_bias is not None and found.position_bias.mean == 50
    assert (found.pairs, found.verdicts, found.usd_per_label) == (5, 7, 0.3)  # it decided q alone


def test_noise_is_the_judges_component_of_variance() -> None:
    scores = {"p": [[1.0, 0.0]], "q": [[1.0, 1.0]], "r": [[0.5, 0.0]]}
    verdicts = [Verdict(pair, win) for pair, ((*wins,),) in scores.items() for win in wins]
    found, parts = (
        noise(verdicts),
        components({pair: [[100 * w for w in s[0]]] for pair, s in scores.items()}),
    )
    assert found is not None and found**2 == pytest.approx(parts.judge)
    assert noise([Verdict("p", 1.0, True), Verdict("p", 0.0, False)]) is None  # other orders are no repeats


def test_most_verdicts_of_a_pair_decide() -> None:
    said = [("p", 1.0), ("p", 1.0), ("p", 0.0), ("q", 1.0), ("q", 0.0), ("r", 0.7), ("s", None)]
    assert of_pairs(Verdict(*each) for each in said) == {"p": OTHER, "q": TIE, "r": OTHER}


@pytest.mark.parametrize("both", [True, False])
def test_a_critic_that_takes_the_first_unread_is_found_out(both: bool) -> None:
    """Whatever the second answer's true chance is; by pairs in both orders, and by a coin."""
    draw, verdicts = random.Random(1), []
    for number in range(3000):
        for first in (True, False) if both else (draw.random() < 0.3,):
            win = float(first if draw.random() < 0.25 else draw.random() < 0.8)
            verdicts.append(Verdict(str(number), win, first))
    found = position_bias(verdicts)
    assert found is not None and found.low is not None and found.high is not None
    assert found.low < 25 < found.high and found.high - found.low < 8


def test_one_order_tells_no_bias() -> None:
    assert position_bias([Verdict(str(i), 1.0, True) for i in range(9)]) is None
    fair = position_bias([Verdict(str(i), 1.0, order) for i in range(9) for order in (True, False)])
    assert fair is not None and fair.mean == 0 and fair.high is not None and fair.high > 20


# ---------------------------------------------------------------- two critics


def test_kappa_is_cohens() -> None:
    table = {(SAME, SAME): 20, (SAME, OTHER): 5, (OTHER, SAME): 10, (OTHER, OTHER): 15}
    found = kappa(table)
    assert found is not None and found.mean == pytest.approx(0.4) and found.n == 50
    draw, cells = random.Random(0), list(table)
    again = [kappa(Counter(draw.choices(cells, list(table.values()), k=50))) for _ in range(2000)]
    means = sorted(each.mean for each in again if each)
    assert found.low == pytest.approx(means[50], abs=0.04)
    assert found.high == pytest.approx(means[-50], abs=0.04)
    assert kappa({(SAME, SAME): 9}) is None


def test_critics_are_compared_on_the_pairs_that_both_judged() -> None:
    a = Critic("a", [Verdict("p", 1.0), Verdict("q", 0.0), Verdict("r", 0.5), Verdict("s", None)])
    b = Critic("b", [Verdict("p", 1.0), Verdict("q", 1.0), Verdict("r", 0.5), Verdict("s", 0.0)])
    found = agree(a, b)
    assert found is not None and found.agreement.n == 3
    assert found.agreement.value == pytest.approx(200 / 3)
    assert agree(a, Critic("c", [Verdict("z", 1.0)])) is None


# ---------------------------------------------------------------- files


def test_people_and_gpt4_on_real_pairs(data: Path) -> None:
    """GPT-4 agrees with itself on 84 % of the pairs, and with the official label on 66 to 72 of 100."""
    path = data / "alpaca_eval" / "human" / "alpacafarm_648_pairs.jsonl.gz"
    bench = Bench()
    for seed in range(4):
        bench.add_file(Named(path, "gpt4", f"gpt4_b1_seed{seed}"), by_coin=False)
    bench.add_file(Named(path, "seed 0", "gpt4_b1_seed0"), by_coin=False)
    bench.add_people(named(f"{path}:human_preference"))
    report = bench.report()
    gpt4, _, people = report.critics
    assert gpt4.pairs == 648 and gpt4.consistency is not None
    assert gpt4.consistency.value == pytest.approx(84.3, abs=0.05)
    assert (people.name, people.pairs) == ("humans", 100)
    agreement = next(each for each in report.agreements if (each.a, each.b) == ("seed 0", "humans"))
    assert 66 <= agreement.agreement.value <= 72 and agreement.agreement.n == 100
    assert agreement.kappa is not None and 0.1 < agreement.kappa.mean < 0.5


def test_the_same_pair_is_known_the_other_way_round(tmp_path: Path) -> None:
    row: dict[str, Any] = {"instruction": "i", "output_1": "x", "output_2": "long", "preference": 2}
    turned = {**row, "output_1": "long", "output_2": "x", "preference": 1, "is_switched_outputs": True}
    write_rows(tmp_path / "a.jsonl", [row, {**row, "instruction": "j", "preference": None}])
    write_rows(tmp_path / "b.jsonl", [turned])
    bench = Bench()
    for name in ("a", "b"):
        bench.add_file(named(f"{name}={tmp_path / name}.jsonl"), by_coin=False)
    report = bench.report()
    (agreement,) = report.agreements
    assert (agreement.agreement.value, agreement.agreement.n) == (100, 1)
    assert [one.longer and one.longer.value for one in report.critics] == [100, 100]
    assert report.critics[0].unreadable is not None and report.critics[0].unreadable.value == 50


def test_what_is_no_file_of_labels_is_told(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"there is no file x\.json: name a spec, or annotations as FILE"):
        named("x.json")
    write_rows(tmp_path / "a.jsonl", [{"instruction": "i", "preference": 1}])
    with pytest.raises(JobError, match="there is no field `person`"):
        Bench().add_people(named(f"{tmp_path / 'a.jsonl'}:person"))


# ---------------------------------------------------------------- specs

SPEC = """\
experiment: lab
llms:
  weak: {provider: simulated, error_rate: 0.5}
  strong: {provider: simulated, error_rate: 0.5, seed: 1}
  fair: {provider: simulated}
  hasty: {provider: simulated, position_bias: 0.4, error_rate: 0.1}
sources:
  tasks: {kind: world, evaluation: true, size: 300}
stages:
  prompts: {kind: prepare, source: tasks}
  ours: {kind: demonstrate, prompts: prompts, teacher: weak}
  theirs: {kind: demonstrate, prompts: prompts, teacher: strong}
  fair_labels: {kind: label, critic: fair, a: ours, b: theirs, order: both}
  labels: {kind: label, critic: hasty, a: ours, b: theirs, order: both}
  again: {kind: evaluate, completions: ours, reference: theirs, evaluator: hasty, order: both}
"""


def test_critics_of_a_spec(tmp_path: Path) -> None:
    (tmp_path / "lab.yaml").write_text(SPEC)
    assert "is not made yet" in alignc("critics", "lab.yaml", cwd=tmp_path, code=2)
    alignc("run", "lab.yaml", cwd=tmp_path)
    told = json.loads(alignc("critics", "lab.yaml", "--format", "json", cwd=tmp_path, errors=False))
    fair, hasty = told["critics"]
    assert [one["name"] for one in told["critics"]] == ["fair", "hasty"]
    # `again` shows the same pairs the other way round: the same requests, which count once.
    assert hasty["verdicts"] == fair["verdicts"] == 2 * fair["pairs"]
    assert fair["position_bias"]["mean"] == 0 and fair["swap_agreement"]["value"] == 100
    assert hasty["position_bias"]["low"] < 40 < hasty["position_bias"]["high"]
    assert hasty["swap_agreement"]["value"] < 80
    (both,) = told["agreements"]
    assert both["kappa"]["low"] > 0.1 and both["kappa"]["high"] < 0.9
    text = alignc("critics", "lab.yaml", "--select", "fair_labels", cwd=tmp_path)
    assert "position bias          +0.0 points" in text and "hasty" not in text
    rows = list(csv.DictReader(alignc("critics", "lab.yaml", "--format", "csv", cwd=tmp_path).splitlines()))
    assert [row["critic"] for row in rows] == ["fair", "hasty"]
    assert rows[0]["kappa with hasty"] == rows[1]["kappa with fair"] == str(both["kappa"]["mean"])
