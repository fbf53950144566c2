"""SFT and DPO of alignc beside TRL: the same models, rows, steps and threads; useful tokens a second.

    python benchmarks/train.py --data OUTPUTS.jsonl.gz OTHERS.jsonl.gz [--write docs/benchmarks.md]

The rows are answers of two language models to the same instructions (AlpacaEval's outputs), so their
lengths spread as real ones do. Each run is a process of its own that makes the model from its seed; timed
are the steps (with the reference's log-probabilities, where the run computes them), not the start. What
comes out is measured by one program for all: the mean loss a token (or pair) over the training rows.
`of the peak` is the share that the model's FLOPs take of what a large matrix product reaches on this device.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from table import machine, markdown, write

HERE = Path(__file__).parent
SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"hidden_size": 64, "layers": 2, "heads": 4, "intermediate_size": 128, "vocab_size": 1024},
    "13M": {"hidden_size": 256, "layers": 10, "heads": 8, "intermediate_size": 1024, "vocab_size": 8192},
    "1B": {"hidden_size": 2048, "layers": 16, "heads": 16, "intermediate_size": 8192, "vocab_size": 32768},
}
LONGEST = 512
BATCH = 8
RATE = {"sft": 1e-3, "dpo": 1e-5}
PEAK = "peak"
SYSTEMS = ("alignc", "alignc padded", "TRL defaults", "TRL best settings")


def read_outputs(path: Path) -> dict[str, str]:
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return {row["instruction"]: row["output"] for row in map(json.loads, file)}


def prepare(folder: Path, files: Sequence[Path], count: int, shape: str) -> None:
    """Rows and a model that all systems start from."""
    from runtime.chat import Renderer
    from runtime.declare import Architecture
    from runtime.models import _initialise, save_model

    one, other = (read_outputs(path) for path in files)
    rows = [
        {"id": str(i), "prompt": p, "completion": one[p], "chosen": one[p], "rejected": other[p]}
        for i, p in enumerate(sorted(set(one) & set(other)))
    ]
    told = {**SHAPES[shape], "max_positions": LONGEST}
    texts = (row["prompt"] + row["chosen"] + row["rejected"] for row in rows)
    start = folder / "start"
    _initialise(Architecture.model_validate(told), texts, start)
    from transformers import AutoModelForCausalLM, AutoTokenizer

    renderer = Renderer("plain", AutoTokenizer.from_pretrained(start))
    lm = AutoModelForCausalLM.from_pretrained(start)
    save_model(lm, lm.state_dict(), renderer, folder / "model", {})
    kept = [row for row in rows if _fits(row, renderer)][:count]
    if len(kept) < count:
        raise SystemExit(f"only {len(kept)} rows have at most {LONGEST} tokens")
    (folder / "rows.json").write_text(json.dumps(kept), encoding="utf-8")


def _fits(row: dict[str, str], renderer: Any) -> bool:
    prompt = len(renderer.prompts([row["prompt"]])[0])
    return prompt + max(map(len, renderer.completions([row["chosen"], row["rejected"]]))) <= LONGEST


# ---------------------------------------------------------------- one run, in a process of its own


def fields(task: str) -> tuple[str, ...]:
    return ("completion",) if task == "sft" else ("chosen", "rejected")


def open_examples(folder: Path, task: str, scratch: Path) -> Any:
    from runtime.files import write_rows
    from runtime.models import Origin, open_renderer
    from runtime.training.data import Cut, Lengths, read_examples

    write_rows(scratch / "rows.jsonl", json.loads((folder / "rows.json").read_text(encoding="utf-8")))
    renderer = open_renderer(Origin(folder / "model"), "plain")
    cut = Cut(Lengths(LONGEST, LONGEST // 2, "drop"))
    return read_examples(scratch / "rows.jsonl", renderer, fields(task), cut)


def by_alignc(folder: Path, task: str, epochs: int, scratch: Path, precision: str, **told: Any) -> Path:
    """Train as a job does; prints nothing. Returns the checkpoint."""
    import torch

    from runtime.run_job import run_job
    from runtime.store import Store
    from runtime.training import dpo
    from tests.support import describe

    store = Store(scratch / "store")
    rows = [json.loads(line) for line in (scratch / "rows.jsonl").read_text(encoding="utf-8").splitlines()]
    sealed = {"kind": "prepare", "key": "0" * 64}
    made = scratch / "made"
    made.mkdir()
    with (made / "data.jsonl").open("w", encoding="utf-8") as file:
        for row in rows:
            print(json.dumps(row), file=file)
    store.seal("prepare", sealed["key"], made, sealed)
    data = {"type": "Demonstrations" if task == "sft" else "Preferences", "name": "d", **sealed}
    model = {"type": "Model", "name": "m", "section": "models"}
    model["declared"] = {"path": str(folder / "model"), "chat": "plain"}
    common = {"epochs": epochs, "learning_rate": RATE[task], "batch_size": BATCH, "max_length": LONGEST}
    common |= {"max_prompt_length": LONGEST // 2, "precision": precision, **told}
    if task == "sft":
        common["chat"] = "plain"
    job = describe(task, common, {"model": model, "data": {**data, "path": "data.jsonl"}}, cpus=threads())
    spent = 0.0
    whole = dpo.reference_logps

    def timed(*given: Any) -> Any:
        nonlocal spent
        started = time.perf_counter()
        found = whole(*given)
        spent = time.perf_counter() - started
        return found

    dpo.reference_logps = timed
    torch.set_num_threads(threads())
    if run_job(store, job):
        raise SystemExit((store.root / "failed").as_posix())
    summary = store.manifest(task, job["key"])["summary"]
    seconds = summary["seconds"]
    told_seconds(seconds["data"] + seconds["compute"] + spent)
    return store.artifact(task, job["key"]) / "model"


def by_trl(folder: Path, task: str, epochs: int, scratch: Path, precision: str, *, best: bool) -> Path:
    """TRL's trainer on the same rows, rendered as ours are."""
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer, SFTConfig, SFTTrainer

    torch.set_num_threads(threads())
    cuda = torch.cuda.is_available()
    tokenizer = AutoTokenizer.from_pretrained(folder / "model")
    lm = AutoModelForCausalLM.from_pretrained(folder / "model", dtype=torch.float32)
    rows = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    table = Dataset.from_list([{"prompt": plain(row["prompt"])} | pick(row, task) for row in rows])
    common: dict[str, Any] = {
        "output_dir": str(scratch / "trl"),
        "use_cpu": not cuda,
        "bf16": precision == "bf16",
        "report_to": "none",
        "save_strategy": "no",
        "per_device_train_batch_size": BATCH,
        "num_train_epochs": epochs,
        "learning_rate": RATE[task],
        "lr_scheduler_type": "constant",
        "max_length": LONGEST,
        "disable_tqdm": True,
    }
    if best:
        common |= {"gradient_checkpointing": False, "train_sampling_strategy": "group_by_length"}
        common |= {"logging_strategy": "no"} | ({"precompute_ref_log_probs": True} if task == "dpo" else {})
    if best and task == "dpo":
        del common["train_sampling_strategy"]  # it knows no lengths of pairs
    kind, config = (SFTTrainer, SFTConfig) if task == "sft" else (DPOTrainer, DPOConfig)

    trainer = kind(model=lm, args=config(**common), train_dataset=table, processing_class=tokenizer)
    started = time.perf_counter()
    trainer.train()
    told_seconds(time.perf_counter() - started)
    lm.save_pretrained(scratch / "model")
    tokenizer.save_pretrained(scratch / "model")
    return scratch / "model"


def plain(prompt: str) -> str:
    from runtime.templates import fill

    return fill("chat/plain.j2", prompt=prompt)


def pick(row: dict[str, str], task: str) -> dict[str, str]:
    return {name: row[name] for name in fields(task)}


def threads() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "0")) or len(os.sched_getaffinity(0))


_SECONDS: list[float] = []


def told_seconds(value: float) -> None:
    _SECONDS.append(value)


def child(system: str, task: str, folder: Path, epochs: int, precision: str) -> dict[str, float]:
    from runtime.models import quiet

    quiet()
    with tempfile.TemporaryDirectory(dir=folder) as name:
        scratch = Path(name)
        examples = open_examples(folder, task, scratch)
        if system.startswith("alignc"):
            told = {"padding": system == "alignc padded"}
            model = by_alignc(folder, task, epochs, scratch, precision, **told)
        else:
            model = by_trl(folder, task, epochs, scratch, precision, best=system == "TRL best settings")
        useful = epochs * sum(e.tokens - len(e.sequences) for e in examples)
        return {
            "tokens_per_s": useful / _SECONDS[0],
            "seconds": _SECONDS[0],
            "flops_per_s": epochs * needed_flops(folder / "model", examples, task) / _SECONDS[0],
            "loss": final_loss(model, folder / "model", examples, task),
        }


def needed_flops(model: Path, examples: Sequence[Any], task: str) -> float:
    """What the model needs for a pass over the examples; DPO's reference goes forward only, a third of it."""
    import torch

    from runtime.models import load_model
    from runtime.training.flops import flops, rates_of, work_of

    rates = rates_of(load_model(model, torch.float32))
    assert rates is not None
    return flops(rates, work_of(examples)) * (4 / 3 if task == "dpo" else 1)


def peak(precision: str) -> dict[str, float]:
    """FLOP/s of a large matrix product in this precision: the best of ten."""
    import torch

    torch.set_num_threads(threads())
    cuda = torch.cuda.is_available()
    size, kind = (8192 if cuda else 2048), (torch.bfloat16 if precision == "bf16" else torch.float32)
    a, b = (torch.randn(size, size, device="cuda" if cuda else "cpu", dtype=kind) for _ in range(2))
    best = float("inf")
    for _ in range(10):
        started = time.perf_counter()
        a @ b
        if cuda:
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    return {"flops_per_s": 2 * size**3 / best}


def final_loss(model: Path, start: Path, examples: Sequence[Any], task: str) -> float:
    """Mean loss over the rows: a supervised token's for SFT, a pair's (beta 0.1) for DPO."""
    import torch

    from runtime.models import load_model
    from runtime.training.batches import lay_out, lay_out_pairs
    from runtime.training.losses import dpo_loss, sequence_sums
    from runtime.training.scoring import Scorer

    device = "cuda" if torch.cuda.is_available() else "cpu"
    scorers = [Scorer(load_model(path, torch.float32).eval().to(device)) for path in (model, start)]

    def logps(scorer: Any, batch: Any) -> Any:
        return scorer(batch.ids, batch.positions, batch.picks, batch.targets, batch.layout)

    total, count = 0.0, 0
    with torch.no_grad():
        for first in range(0, len(examples), BATCH):
            items = range(first, min(first + BATCH, len(examples)))
            if task == "sft":
                batch = lay_out([examples[i].sequences[0] for i in items]).to(torch.device(device))
                total -= float(logps(scorers[0], batch).sum())
                count += len(batch.targets)
                continue
            batch = lay_out_pairs(examples, items, padded=False).to(torch.device(device))
            ours, theirs = (sequence_sums(logps(s, batch), batch.spans).view(2, -1) for s in scorers)
            total += float(dpo_loss((ours - theirs)[0] - (ours - theirs)[1], 0.1).sum())
            count += len(items)
    return total / count


# ---------------------------------------------------------------- all runs


@contextmanager
def prepared(shape: str, files: Sequence[Path], count: int) -> Any:
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name), files, count, shape)
        yield Path(name)


def measure(system: str, task: str, folder: Path | str, args: argparse.Namespace) -> dict[str, float]:
    command = [sys.executable, __file__, "--child", system, "--task", task, "--folder", str(folder)]
    command += ["--epochs", str(args.epochs), "--precision", args.precision]
    done = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "PYTHONPATH": f"{HERE.parent}:{HERE}"},
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs=2, type=Path, help="AlpacaEval outputs of two models (.jsonl.gz)")
    parser.add_argument("--shapes", default="tiny,13M", help=f"of {', '.join(SHAPES)}")
    parser.add_argument(
        "--systems", default=",".join(SYSTEMS), help="which to measure, the first as the measure"
    )
    parser.add_argument("--tasks", default="sft,dpo")
    parser.add_argument("--rows", type=int, default=64)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="fp32", choices=("fp32", "bf16"))
    parser.add_argument("--write", type=Path, help="a page with marks for this program's table")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--task", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        if args.child == PEAK:
            print(json.dumps(peak(args.precision)))
        else:
            print(json.dumps(child(args.child, args.task, args.folder, args.epochs, args.precision)))
        return
    began, rows, systems = machine(), [], args.systems.split(",")
    reached = measure(PEAK, "", "", args)["flops_per_s"]
    for shape in args.shapes.split(","):
        with prepared(shape, args.data, args.rows) as folder:
            for task in args.tasks.split(","):
                found: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
                for _ in range(args.repeats):
                    for system in systems:  # in turns, so that what else the machine does meets all alike
                        found[system].append(measure(system, task, folder, args))
                        print(shape, task, system, found[system][-1], file=sys.stderr, flush=True)
                for system in systems:
                    rate = median(run["tokens_per_s"] for run in found[system])
                    loss = median(run["loss"] for run in found[system])
                    ours = median(run["tokens_per_s"] for run in found[systems[0]])
                    times = "" if system == systems[0] else f"{ours / rate:.2f}"
                    share = median(run["flops_per_s"] for run in found[system]) / reached
                    told = [f"{rate:,.0f}", times, f"{100 * share:.1f} %", f"{loss:.4f}"]
                    rows.append([shape, task.upper(), system, *told])
    header = ["model", "task", "system", "useful tokens/s", "the first is faster by"]
    header += ["of the peak", "loss after"]
    work = f"{args.rows} rows, {args.epochs} epoch(s), batch {BATCH}, {args.precision}"
    text = f"{began}; {work}, medians of {args.repeats}; "
    text += f"a matrix product reaches {reached / 1e12:.3g} TFLOP/s.\n\n"
    text += markdown(header, rows, words={0, 1, 2})
    print(text)
    if args.write:
        write(args.write, "train.py", text)


if __name__ == "__main__":
    main()
