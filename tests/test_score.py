"""`alignc score` and `alignc power` on real and on broken files of annotations."""

from __future__ import annotations

import csv
import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from compiler.errors import UsageError
from compiler.power import Asked as Question
from compiler.power import plan
from compiler.score import Asked, gather, to_json, to_text
from runtime.files import read_rows
from runtime.interchange.alpaca_eval import COLUMNS, leaderboard_csv, read_leaderboard
from runtime.job import JobError
from tests.commands import alignc
from tests.test_length_control import REFERENCE
from tests.test_statistics import CASES, V1_CLAUDE, V1_OLD, V2, leaderboard_row

COUNTS = ("n_wins", "n_wins_base", "n_draws", "n_total", "avg_length")
RATES = ("win_rate", "standard_error", "discrete_win_rate")


def packed(data: Path, judge: str, model: str) -> Path:
    return data / "alpaca_eval" / "annotations" / judge / f"{model}.jsonl.gz"


def outputs(data: Path, model: str) -> Path:
    return data / "alpaca_eval" / "outputs" / f"{model}.jsonl.gz"


def reference(data: Path, judge: str) -> Path:
    return outputs(data, REFERENCE[judge])


def require_published(row: dict[str, Any], published: dict[str, str]) -> None:
    for name in COUNTS:
        assert int(row[name]) == int(published[name]), name
    for name in RATES:
        if published.get(name):
            assert float(row[name]) == pytest.approx(float(published[name]), abs=1e-9), name


@pytest.mark.parametrize(("judge", "model"), CASES)
def test_every_column_is_that_of_the_public_leaderboard(data: Path, judge: str, model: str) -> None:
    asked = Asked((packed(data, judge, model),), outputs=(outputs(data, model),), resamples=10)
    (found,) = gather(asked).scores
    assert found.name == model
    require_published(found.row(), leaderboard_row(data, judge, model))


def unpacked(data: Path, judge: str, model: str, path: Path) -> Path:
    """A file with all that AlpacaEval's own annotations.json holds, in its form."""
    base = list(read_rows(reference(data, judge)))
    answers = {row["instruction"]: row["output"] for row in read_rows(outputs(data, model))}
    rows = [
        {
            "instruction": (first := base[row["idx"]])["instruction"],
            "output_1": first["output"],
            "generator_1": first["generator"],
            "output_2": answers[first["instruction"]],
            "generator_2": model,
            "annotator": judge,
            "preference": float("nan") if row["preference"] is None else row["preference"],
            "price_per_example": row.get("price"),
        }
        for row in read_rows(packed(data, judge, model))
    ]
    path.write_text(json.dumps(rows))
    return path


def test_a_whole_annotations_file_needs_no_other(data: Path, tmp_path: Path) -> None:
    """By the command: the columns as CSV, the length-controlled rate with upstream's alignment."""
    path = unpacked(data, V2, "alpaca-7b_concise", tmp_path / "annotations.json")
    folder = data / "alpaca_eval"
    words = ("--difficulty", folder / "lc" / "instruction_difficulty_recovered.csv")
    weights = ("--weights", folder / "leaderboard" / "lc_weights_v2.csv", "--alignment", "position")
    told = alignc("score", path, *words, *weights, "--format", "csv", cwd=tmp_path)
    (row,) = csv.DictReader(io.StringIO(told))
    published = leaderboard_row(data, V2, "alpaca-7b_concise")
    require_published(row, published)
    name = "length_controlled_winrate"
    assert float(row[name]) == pytest.approx(float(published[name]), abs=1e-9)
    told = alignc("score", path, *words, *weights[:2], "--format", "csv", cwd=tmp_path, code=2)
    assert "does not say whose difficulties these are: give `--reference`" in told


def test_two_models_are_compared_on_the_same_prompts(data: Path) -> None:
    models = ("claude", "alpaca-7b_concise")
    report = gather(Asked(tuple(packed(data, V2, model) for model in models), reference(data, V2)))
    (one,) = report.compared
    assert (one.difference.n, one.difference.n_unpaired, one.only_a, one.only_b) == (804, 1, 119, 5)
    assert one.difference.low is not None and one.difference.low > 10 and one.mcnemar_p < 1e-20
    assert one.bootstrap_interval == pytest.approx((one.difference.low, one.difference.high), abs=0.5)
    text = to_text(report)
    assert "claude against gpt4_1106_preview\n  win rate             16.99 % ± 1.17 " in text
    assert "95 % interval 14.69 to 19.28" in text
    assert "wins, losses, draws  129, 676, 0      805 judged, 0 without a verdict" in text
    assert "claude - alpaca-7b_concise: +15.02 points" in text
    assert "804 judged, 0 without a verdict, 1 of the reference not annotated" in text
    told = json.loads(json.dumps(to_json(report)))
    assert [model["n_total"] for model in told["models"]] == [805, 804]


def test_two_judges_are_like_two_verdicts_of_one(data: Path) -> None:
    """Two judges on the same answers: their disagreement is the judge's part of the error."""
    files = tuple(packed(data, judge, "vicuna-13b") for judge in (V1_OLD, V1_CLAUDE))
    report = gather(Asked(files, role="repeats", resamples=10))
    assert report.together is not None and report.together.judge is not None
    assert report.together.repeats == 2 and report.together.n == 805
    assert "over 2 verdicts of the judge, 805 prompts" in to_text(report)
    seeds = gather(Asked(files, role="seeds", resamples=10)).together
    assert seeds is not None and seeds.run is not None and seeds.judge is None
    assert seeds.standard_error > report.together.standard_error  # of other runs too
    assert [one.name for one in report.scores] == [f"vicuna-13b ({path})" for path in files]


def test_fitting_says_what_to_install(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = data / "alpaca_eval"
    asked = Asked(
        (packed(data, V2, "claude"),),
        reference(data, V2),
        (outputs(data, "claude"),),
        difficulty=folder / "lc" / "instruction_difficulty_recovered.csv",
        gamed=folder / "lc" / "df_gamed_surrogate.csv.gz",
        resamples=10,
    )
    (found,) = gather(asked).scores
    assert found.length_controlled is not None
    assert found.length_controlled.win_rate == pytest.approx(27.2895, abs=0.01)
    monkeypatch.setitem(sys.modules, "numpy", None)
    with pytest.raises(UsageError, match=r"install `alignc\[results\]`, or give `--weights`"):
        gather(asked)


# ---------------------------------------------------------------- broken files

BROKEN = [
    ("", "holds no annotations"),
    ("[]", "holds no annotations"),
    ("[1]", "entry 1: a JSON object is needed, not int"),
    ('[{"output": "y"}]', "entry 1: there is no field `preference`; the fields are output"),
    ('[{"preference": "2"}]', "entry 1: `preference` must be a number or null, not '2'"),
    ('[{"preference": ' + "9" * 400 + "}]", "`preference` must be a number or null"),
    ("[" * 100_000, "nested too deeply"),
    ('{"preference": ' + "[" * 100_000, ":1: nested too deeply"),
    ('[{"preference": true}]', "`preference` must be a number or null"),
    ('[{"preference": 1},\n {"preference": 1]', ":2: not JSON"),
    ('{"preference": 1}\n{"preference": }', ":2: not JSON"),
    ('[{"preference": 1, "instruction": 3}]', "`instruction` must be text, not int"),
    ('[{"preference": 1, "idx": -1}]', "`idx` must be a row number from 0 on"),
]  # fmt: skip


@pytest.mark.parametrize(("content", "message"), BROKEN)
def test_broken_annotations_are_told_with_their_place(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "annotations.json"
    path.write_text(content)
    with pytest.raises(JobError) as told:
        gather(Asked((path,)))
    assert message in str(told.value) and str(path) in str(told.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", ":1: there is no column 'index'"),
        ("index,instruction_difficulty\n0,0.5\n2,1\n", ":3: the index should be 1"),
        ("index,instruction_difficulty\n0,high\n", ":2: `instruction_difficulty` must be a number"),
        ("index,instruction_difficulty\n0\n", ":2: another number of fields"),
    ],
)  # fmt: skip
def test_broken_difficulties_are_told_with_their_place(tmp_path: Path, content: str, message: str) -> None:
    annotations, difficulty = tmp_path / "annotations.json", tmp_path / "d.csv"
    annotations.write_text('[{"preference": 1, "instruction": "x"}]')
    difficulty.write_text(content)
    with pytest.raises(JobError) as told:
        gather(Asked((annotations,), difficulty=difficulty, weights=difficulty))
    assert f"{difficulty}{message}" in str(told.value)


def test_options_that_do_not_go_together(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"preference": 1, "instruction": "x"}, {"preference": 2, "instruction": "x"}]')
    for asked, message in (
        (Asked((path,), names=("a", "b")), "`--name` is given 2 times for 1 files"),
        (Asked((path,), gamed=path), "needs `--difficulty`"),
        (Asked((path,), difficulty=path), "give one of `--weights`"),
    ):
        with pytest.raises(UsageError, match=message):
            gather(asked)
    assert gather(Asked((path,))).scores[0].rate.win_rate == 50  # alone, equal prompts are only rows
    with pytest.raises(JobError, match=r"entry 2: judged already at .*entry 1"):
        gather(Asked((path, path)))
    told = alignc("score", "absent.json", cwd=tmp_path, code=2)
    assert "absent.json" in told


def test_nothing_judged_is_said(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('[{"preference": null, "instruction": "x"}]')
    told = alignc("score", path, cwd=tmp_path)
    assert "nothing was judged" in told and "0 judged, 1 without a verdict" in told


def test_leaderboards_are_read_and_written(data: Path, tmp_path: Path) -> None:
    path = data / "alpaca_eval" / "leaderboard" / f"{V2}.csv"
    rows = read_leaderboard(path)
    again = tmp_path / "leaderboard.csv"
    again.write_text(leaderboard_csv(rows))
    assert read_leaderboard(again) == rows
    assert again.read_text().splitlines()[0] == path.read_text().splitlines()[0] == "," + ",".join(COLUMNS)


# ---------------------------------------------------------------- power


def test_power_counts_prompts_and_dollars(tmp_path: Path) -> None:
    words = ("--difference", "5", "--judge", "gpt-4o", "--input-tokens", "1000", "--times", "2")
    told = alignc("power", *words, cwd=tmp_path)
    # 787 = the two-sided test of a mean at 80 %: ((1.96 + 0.84) * 50 / 5)^2, and Student's two more.
    assert "one model against a fixed rate, such as 50 %: 787 prompts, 1,574 verdicts, $4.03" in told
    assert "two models on the same prompts: 1,572 prompts, 6,288 verdicts, $16.10" in told
    assert "gpt-4o, 1000 tokens in and 6 out; prices.yaml of" in told
    for more, message in (
        (("--judge", "gpt-4o"), "stands in no file: say `--input-tokens`"),
        (("--judge", "unheard-of", "--input-tokens", "9"), "no price of 'unheard-of' is known"),
    ):
        assert message in alignc("power", "--difference", "5", *more, cwd=tmp_path, code=2)


def test_power_measures_what_files_tell(data: Path, tmp_path: Path) -> None:
    models = ("claude", "gpt-3.5-turbo-0301")
    files = tuple(packed(data, V2, model) for model in models)
    found = plan(Question(files, 2))
    single, paired = found.needs
    assert single.deviation == pytest.approx(33.16, abs=0.01)  # 1.1688 * sqrt(805)
    assert paired.basis == "correlation 0.51 on 805 prompts" and paired.prompts < single.prompts
    assert found.usd_per_verdict == pytest.approx(0.00946, abs=1e-4)
    assert paired.usd == pytest.approx(paired.verdicts * found.usd_per_verdict)
    # Against stated lengths: those of whole files, at four characters a token.
    path = unpacked(data, V2, "claude", tmp_path / "annotations.json")
    priced = plan(Question((path,), 2, judge="gpt-4o-mini"))
    assert "gpt-4o-mini, 1" in priced.price_basis and priced.usd_per_verdict is not None
    assert 5e-5 < priced.usd_per_verdict < 5e-4
