"""Specs by the thousand, to show that none gives a traceback or a hang.

python -m tests.compiler.fuzz 20000 [FIRST_SEED]    prints what was found; exit code 1 if anything was
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import re
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from compiler.errors import CODES, SpecError, render
from compiler.frontend.spec import TOP
from compiler.manual.findings import to_json, to_sarif
from compiler.program import compile_spec
from runtime.stage import stage_kinds
from tests.compiler.specs import STUDY
from tests.golden import GOLDEN
from tests.specs import LIGHT, TINY

ROOT = Path(__file__).parents[2]
HANG_S = 20.0  # processor seconds for one spec; the largest takes a fifth of a second

# What fingers and editors leave behind, and what only malice does.
WORDS = [
    *("${seed}", "${seed.x}", "${", "}", "[", "]", "{", ":", ",", "- ", "null", "true", "-1", "0", "1e999"),
    *(".nan", "kind", "stages", "axes", "&a ", "*a", "<<: *a", "!!map", "!!binary x", "\t", '"', "'", "~"),
    *("#", "|", "---", "prompts.sft", "prompts.", ".", "at", "tune", "sweep", "at: {seed: 0}", "package:"),
    *("test", "package:x.y", "~nobody/x", '"\\0"', "é", "\u2028", "\x85", "\x1b", "\ud7ff", "💥"),
    *("${seed}${seed}", "a~b", "a/b", "x" * 5000),
]  # fmt: skip


@dataclass
class Case:
    """A spec with its included files and overrides."""

    files: dict[str, str]
    overrides: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        return json.dumps({"files": self.files, "overrides": self.overrides}, indent=1)


class Hang(Exception):
    """A spec took too long."""


@contextlib.contextmanager
def guarded(seconds: float = HANG_S) -> Iterator[None]:
    """Raises Hang where the block uses more processor time."""

    def stop(*_: object) -> None:
        raise Hang

    before = signal.signal(signal.SIGVTALRM, stop)
    signal.setitimer(signal.ITIMER_VIRTUAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)
        signal.signal(signal.SIGVTALRM, before)


def check(case: Case, folder: Path) -> str:
    """Compile a case: it is right, or every finding can be told in every form. Returns the first code."""
    for name, text in case.files.items():
        (folder / name).write_text(text, encoding="utf-8", errors="replace", newline="")
    path = str(folder / "spec.yaml")
    with guarded():
        try:
            program = compile_spec(path, case.overrides)
            found, texts = program.warnings, program.texts
        except SpecError as error:
            found, texts = error.diagnostics, error.texts
            assert any(d.severity == "error" for d in found)
        for d in found:
            assert d.code in CODES and d.message and d.span.line > 0 and d.span.column < d.span.end
            assert not re.search(r"[\x00-\x08\x0b-\x1f\x7f]", render(d, texts))
        json.dumps([to_json(path, found), to_sarif(path, found)]).encode()
    return found[0].code if found else "right"


# ---------------------------------------------------------------- mutation of real specs


def corpus() -> list[Case]:
    """Specs that people wrote, with what they include."""
    files = [*ROOT.glob("specs/*.yaml"), *(GOLDEN / "errors").glob("*.yaml")]
    texts = [STUDY, LIGHT, TINY, *(p.read_text(encoding="utf-8") for p in sorted(files))]
    texts += re.findall(
        r"```yaml\n(.*?)```", (ROOT / "docs" / "tutorial.md").read_text(encoding="utf-8"), re.S
    )
    cases = [Case({"spec.yaml": text}) for text in texts]
    head, stages = STUDY.partition("stages:\n")[::2]
    cases.append(
        Case({"spec.yaml": "include: [lib.yaml]\nexperiment: a\nstages:\n" + stages, "lib.yaml": head})
    )
    return cases


def mutate(text: str, random_: random.Random) -> str:
    """A few edits of the kind that typing makes: words swapped, dropped, doubled, replaced."""
    for _ in range(random_.choice([1, 1, 2, 4])):
        tokens = re.split(r"( |\n)", text)
        i = random_.randrange(len(tokens))
        edit = random_.randrange(5)
        if edit == 0:
            tokens[i] = random_.choice(WORDS)
        elif edit == 1:
            del tokens[i]
        elif edit == 2:
            tokens.insert(i, random_.choice(tokens))
        elif edit == 3:
            j = random_.randrange(len(tokens))
            tokens[i], tokens[j] = tokens[j], tokens[i]
        else:
            j = random_.randrange(len(text) + 1)
            tokens = [text[:j], random_.choice(WORDS), text[j + random_.randrange(3) :]]
        text = "".join(tokens) or "x"
    return text


def _places(tree: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Paths of everything in a tree of plain data."""
    yield path
    items = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in items:
        yield from _places(value, (*path, key))


def _at(tree: Any, path: tuple[Any, ...]) -> Any:
    for step in path:
        tree = tree[step]
    return tree


def transplant(tree: Any, random_: random.Random) -> Any:
    """Edits that keep a spec YAML: values moved, removed, wrapped, renamed or replaced."""
    for _ in range(random_.randint(1, 3)):
        paths = [p for p in _places(tree) if p]
        if not paths:
            return tree
        path = random_.choice(paths)
        parent, last = _at(tree, path[:-1]), path[-1]
        edit = random_.randrange(6)
        if edit == 0:
            del parent[last]
        elif edit == 1:
            parent[last] = json.loads(json.dumps(_at(tree, random_.choice(paths))))
        elif edit == 2:
            parent[last] = random_.choice([[parent[last]], {"x": parent[last]}, [], {}, None])
        elif edit == 3:
            parent[last] = random_.choice(
                [*WORDS, *(p[-1] for p in paths), 0, -1, 1e300, float("inf"), 2**70]
            )
        elif edit == 4 and isinstance(parent, dict):
            parent[random_.choice([*WORDS, *map(str, (p[-1] for p in paths))])] = parent.pop(last)
        elif isinstance(parent, dict):
            parent[str(random_.choice(paths)[-1])] = parent[last]
    return tree


def _override(text: str, random_: random.Random) -> str:
    try:
        paths = [p for p in _places(yaml.safe_load(text)) if p]
        path = [str(step) for step in random_.choice(paths)]
    except (yaml.YAMLError, IndexError, TypeError, ValueError):
        path = ["stages", "tune", "epochs"]
    if random_.random() < 0.3:
        path.insert(random_.randrange(len(path) + 1), random_.choice(WORDS))
    return ".".join(path) + random_.choice(["=", "=", "=", ""]) + random_.choice([*WORDS, *path])


def mutated(random_: random.Random, cases: list[Case]) -> Case:
    """A real spec with slips in it: in the text, in its tree, in an included file, in a `--set`."""
    case = random_.choice(cases)
    files = dict(case.files)
    name = random_.choice(list(files))
    if random_.random() < 0.5:
        files[name] = mutate(files[name], random_)
    else:
        with contextlib.suppress(yaml.YAMLError):
            tree = transplant(yaml.safe_load(files[name]), random_)
            files[name] = yaml.safe_dump(tree, sort_keys=False, default_flow_style=random_.random() < 0.5)
    overrides = [_override(files[name], random_) for _ in range(random_.choice([0, 0, 0, 0, 1, 2]))]
    return Case(files, overrides)


# ---------------------------------------------------------------- generation from the grammar


def generated(random_: random.Random) -> Case:
    """A spec made of the language's own words, mostly of the right shape and seldom right."""
    g = _Grammar(random_)
    tree = g.spec()
    files = {"spec.yaml": tree}
    if random_.random() < 0.3:
        files["lib.yaml"] = g.spec()
        tree["include"] = random_.choice([["lib.yaml"], "lib.yaml", ["lib.yaml", "lib.yaml"], ["spec.yaml"]])
    flow = random_.random() < 0.5
    texts = {n: yaml.safe_dump(t, sort_keys=False, default_flow_style=flow) for n, t in files.items()}
    overrides = [_override(texts["spec.yaml"], random_) for _ in range(random_.choice([0, 0, 0, 0, 1]))]
    return Case(texts, overrides)


class _Grammar:
    """Random sections, stages and tables over a small stock of names, so that they often meet."""

    AXES = ("seed", "base", "size")
    DECLARED = ("tiny", "other", "tasks", "file", "weak", "gpt")
    STAGES = ("prep", "ask", "tune", "score", "best", "draw", "label", "pref", "exam")
    SPLITS = ("sft", "val", "test")

    def __init__(self, random_: random.Random) -> None:
        self.r = random_

    def often(self, share: float, value: Callable[[], Any], otherwise: Callable[[], Any]) -> Any:
        return value() if self.r.random() < share else otherwise()

    def spec(self) -> dict[str, Any]:
        sections: dict[str, Any] = {
            "experiment": self.often(0.95, lambda: "e", self.scalar),
            "axes": {a: self.axis() for a in self.some(self.AXES, 0.9)},
            "models": {
                "tiny": {"init": {}, "chat": "plain"},
                "other": {"hub": "a/b", "chat": self.often(0.9, lambda: "chatml", self.scalar)},
            },
            "sources": {
                "tasks": {"kind": "world", "size": 50},
                "file": {"kind": "jsonl", "path": self.word()},
            },
            "llms": {"weak": {"provider": "simulated"}, "gpt": {"provider": "openai", "model": self.word()}},
            "stages": {name: self.stage(name) for name in self.some(self.STAGES, 0.95)},
            "tables": self.often(0.6, lambda: {"t": self.table()}, dict),
        }
        if self.r.random() < 0.1:
            sections[self.r.choice([*TOP, "x"])] = self.scalar()
        return sections

    def some(self, names: tuple[str, ...], share: float = 0.6) -> list[str]:
        return [n for n in names if self.r.random() < share]

    def axis(self) -> Any:
        labels = self.r.sample([0, 1, 2, self.r.choice(["a", True, 1.5])], self.r.randint(1, 3))
        records = {
            str(x): {
                "epochs": self.r.choice([1, 2, 2, 2, "x"]),
                "of": self.r.choice(["prep.sft", "ask", "draw"]),
            }
            for x in labels
        }
        return self.r.choice([labels, records, [{label: record} for label, record in records.items()]])

    def word(self) -> str:
        return self.r.choice([*self.AXES, *self.DECLARED, *self.STAGES, *self.SPLITS, *WORDS])

    def scalar(self) -> Any:
        holes = ["${seed}", "${base}", "${base.epochs}", "${base.of}", "x${size}", "${sed}"]
        return self.r.choice([0, 1, 2, 0.5, -1, None, True, "plain", *holes, self.word()])

    def reference(self) -> Any:
        name = self.r.choice([*self.STAGES, *self.DECLARED, "${base.of}"])
        output = self.r.choice(["", "", *(f".{s}" for s in self.SPLITS), ".accuracy", ".win_rate"])
        at = {self.r.choice(["seed", "base", "epoch", "learning_rate"]): self.scalar()}
        return self.often(0.9, lambda: name + output, lambda: {"stage": name + output, "at": at})

    def stage(self, name: str) -> dict[str, Any]:
        usual = {"prep": "prepare", "ask": "demonstrate", "tune": "sft", "best": "select", "draw": "sample"}
        usual |= {"score": "evaluate", "exam": "evaluate", "label": "label", "pref": "dpo"}
        kind = self.often(0.95, lambda: usual[name], lambda: self.r.choice(list(stage_kinds())))
        body = {"kind": kind, **self.likely(kind, name)}
        for key, info in stage_kinds()[kind].config.model_fields.items():
            if self.r.random() < 0.01:
                body[info.alias or key] = self.often(0.5, self.scalar, self.reference)
        if self.r.random() < 0.05 and body:
            body.pop(self.r.choice(list(body)))
        if self.r.random() < 0.2:
            usual_keys = {
                "tune": ["learning_rate"],
                "pref": ["learning_rate", "beta"],
                "draw": ["temperature"],
            }
            keys = self.often(0.9, lambda: usual_keys.get(name, ["seed"]), lambda: ["model", "epochs", "x"])
            values = self.often(0.9, lambda: [1, 2], lambda: ["tiny", self.scalar()])
            body.pop(key := self.r.choice(keys), None)
            body["sweep"] = {key: values}
        return body

    def likely(self, kind: str, name: str) -> dict[str, Any]:
        """A body that may well be right."""
        r = self.r
        prompts = self.often(0.9, lambda: f"prep.{r.choice(self.SPLITS)}", lambda: "${base.of}")
        models = {"tune": ["tiny", "other"], "pref": ["best", "tune"], "exam": ["best", "pref"]}
        model = self.often(0.95, lambda: r.choice(models.get(name, ["tune", "best"])), self.word)
        train = {"model": model, "epochs": r.choice([1, 2, 4, "${base.epochs}"]), "learning_rate": 1e-3}
        if r.random() < 0.4:
            train["checkpoint_every"] = r.choice([1, 2])
        seed = self.often(0.5, lambda: {"seed": "${seed}"}, dict)
        bodies: dict[str, dict[str, Any]] = {
            "prepare": {"source": r.choice(["tasks", "tasks", "file"]), "split": self.split()},
            "demonstrate": {"prompts": prompts, "teacher": "weak", **seed},
            "sft": {**train, "data": "ask", "chat": r.choice(["plain", "chatml"]), **seed},
            "dpo": {**train, "data": "label", **seed},
            "reference": {"model": model, "data": "label"},
            "bandit": {"exact": r.choice([True, False]), "beta": r.choice([0.1, 1, 0])},
            "reward": {**train, "data": "label", **seed},
            "score": {"model": model, "data": r.choice(["label", "ask"])},
            "rank": {"from": r.choice(["draw", "ask"]), "model": model, **self.over()},
            "sample": {"model": model, "prompts": prompts, "chat": r.choice([None, "plain", "chatml"])},
            "label": {"critic": r.choice(["weak", "gpt"]), "a": "ask", "b": r.choice(["draw", "ask"])},
            "evaluate": {"model": "tune" if name == "score" else model, "prompts": prompts},
            "select": {"from": r.choice(["tune", "tune", "pref"]), "by": "score.accuracy", **self.over()},
        }
        return bodies[kind]

    def split(self) -> Any:
        usual = {"sft": "50%", "val": "20%", "test": "30%"}
        shares = [10, "10%", "50%", "rest", 0, "x", 101]
        return self.often(
            0.9, lambda: usual, lambda: {s: self.r.choice(shares) for s in self.some(self.SPLITS)}
        )

    def over(self) -> dict[str, Any]:
        named = [["seed"], ["epoch"], [], "seed", ["x"]]
        return self.often(0.7, dict, lambda: {"over": self.r.choice(named)})

    def table(self) -> dict[str, Any]:
        r = self.r
        stage = r.choice(["score", "exam", "exam", "ask", "x"])
        by_axis = {
            "rows": r.choice(["seed", ["seed", "base"], [], "epoch"]),
            "columns": {"A": f"{stage}.accuracy"},
        }
        by_stage = {
            "rows": {"A": "exam", "B": "exam"},
            "columns": ["accuracy", r.choice(["avg_length", "x"])],
        }
        extra = {
            "over": r.choice([["seed"], ["seed", "base"], ["x"], []]),
            "compare": {"A": r.choice(["B", "C"])},
            "published": {"file": self.word(), "row": "a", "columns": {"A": {}}},
            "figure": r.choice(
                [
                    {"form": "bars", "stack": {"A": r.choice(["B", "x"])}, "hatched": ["A"]},
                    {"form": "lines", "x": r.choice(["seed", "base", None]), "at": {"A": r.choice([0, "x"])}},
                    {"form": "lines", "scale": r.choice(["log", "even"]), "dashed_x": r.choice([1, 3])},
                ]
            ),
        }
        return r.choice([by_axis, by_stage]) | {k: extra[k] for k in self.some(tuple(extra), 0.3)}


# ---------------------------------------------------------------- by the thousand


def case_of(seed: int, cases: list[Case]) -> Case:
    """The case of a seed: every third one generated, the others mutated."""
    random_ = random.Random(seed)
    return generated(random_) if seed % 3 == 0 else mutated(random_, cases)


def main(count: int, first: int) -> int:
    cases, codes, failures = corpus(), Counter[str](), Counter[str]()
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        for seed in range(first, first + count):
            case = case_of(seed, cases)
            try:
                codes[check(case, Path(folder))] += 1
            except Exception as error:
                where = traceback.extract_tb(error.__traceback__)[-1]
                cause = f"{type(error).__name__} at {where.filename}:{where.lineno}"
                if not failures[cause]:
                    print(f"seed {seed}: {cause}: {error!r}", flush=True)
                    traceback.print_exc(limit=-6)
                failures[cause] += 1
    print(
        f"{count} specs from seed {first} in {time.monotonic() - started:.0f} s: {dict(codes.most_common())}"
    )
    print(f"failures: {dict(failures)}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 0))
