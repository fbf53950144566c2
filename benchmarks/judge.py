"""Pairs judged a second, beside alpaca_eval and bare clients, all against one judge on this machine.

    python benchmarks/judge.py --data BASELINE.jsonl.gz MODEL.jsonl.gz [--write docs/benchmarks.md]

The pairs are answers of two models to AlpacaEval's instructions. The judge is a process of its own that
answers each request after a fixed time. Each run is a process too. Timed is the judging, not the start: of
alignc a whole job, which reads sealed answers, keeps a ledger and seals verdicts. The bare clients send the
same requests and read nothing out of the replies: a limit, not a rival. Systems take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from table import machine, markdown, write

HERE = Path(__file__).parent
LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
SIDES = ("baseline", "answer")
KEYS = {side: str(number) * 64 for number, side in enumerate(SIDES)}
ALIGNC, RIVAL = "alignc", "alpaca_eval"
DEFAULTS = {ALIGNC: 32, RIVAL: 5}  # requests at once
ASKED: dict[str, Any] = {"model": "judge", "temperature": 0.0, "max_tokens": 50}

Row = dict[str, str]


# ---------------------------------------------------------------- the judge


class Judge(asyncio.Protocol):
    """Answers chat requests over HTTP/1.1, each `latency` seconds after it came."""

    def __init__(self, latency: float) -> None:
        self.latency = latency
        self.buffer = b""
        self.transport: Any = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            length = LENGTH.search(self.buffer, 0, end)
            whole = end + 4 + int(length[1] if length else 0)
            if len(self.buffer) < whole:
                return
            body, self.buffer = self.buffer[end + 4 : whole], self.buffer[whole:]
            asyncio.get_running_loop().call_later(self.latency, self.answer, body)

    def answer(self, body: bytes) -> None:
        if self.transport.is_closing():
            return
        asked = json.loads(body)
        first = len(body) % 2 == 0
        text = f"Output ({'a' if first else 'b'})"
        if asked["model"] == "gpt-4":
            ranks = (1, 2) if first else (2, 1)
            text = str([{"model": f"model_{i}", "rank": rank} for i, rank in enumerate(ranks, 1)])
        choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}
        usage = {"prompt_tokens": len(body) // 4, "completion_tokens": 4, "total_tokens": len(body) // 4 + 4}
        told = {"id": "c", "object": "chat.completion", "created": 0, "model": asked["model"]}
        raw = json.dumps({**told, "choices": [choice], "usage": usage}).encode()
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(raw)}\r\n\r\n"
        self.transport.write(head.encode() + raw)


async def serve(latency: float) -> None:
    """Answer until killed; the port goes to stdout."""
    server = await asyncio.get_running_loop().create_server(
        lambda: Judge(latency), "127.0.0.1", 0, backlog=1024
    )
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def judge(latency: float) -> Iterator[str]:
    """The address of a judge that runs meanwhile."""
    command = [sys.executable, __file__, "--serve", str(latency)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


# ---------------------------------------------------------------- one run, in a process of its own


def seal(folder: Path, many: int) -> None:
    """A store with both sides' answers to so many prompts: the rows again and again, each prompt its own."""
    from runtime.files import write_rows
    from runtime.store import Store

    rows, store = read_rows(folder), Store(folder / f"store{many}")
    for side in SIDES:
        made = folder / "made"
        made.mkdir()
        write_rows(made / "data.jsonl", (answer(rows, i, side) for i in range(many)))
        store.seal("demonstrate", KEYS[side], made, {"kind": "demonstrate", "key": KEYS[side]})


def answer(rows: Sequence[Row], i: int, side: str) -> Row:
    row, again = rows[i % len(rows)], f" ({i})" if i >= len(rows) else ""
    return {"id": str(i), "prompt": row["instruction"] + again, "completion": row[side]}


def by_alignc(folder: Path, url: str, in_flight: int, many: int) -> Callable[[], int]:
    """A whole job of the kind `label`."""
    import openai  # noqa: F401  # before the clock starts, as for the others

    from runtime.run_job import run_job
    from runtime.store import Store
    from tests.support import describe

    limits = {"concurrency": in_flight} if in_flight else {}
    llm = {"provider": "openai", "model": "judge", "base_url": url, "limits": limits, "shared": False}
    data = {"type": "Completions", "kind": "demonstrate", "path": "data.jsonl"}
    inputs = {
        field: {**data, "name": side, "key": KEYS[side]} for field, side in zip("ab", SIDES, strict=True)
    }
    critic = {"type": "LLM", "name": "critic", "section": "llms", "declared": llm}
    job = describe("label", {}, {"critic": critic, **inputs})
    store = Store(folder / f"store{many}")

    def run() -> int:
        shutil.rmtree(store.artifact("label", job["key"]), ignore_errors=True)  # an earlier run's
        if run_job(store, job):
            raise SystemExit("the job failed; what it says is above")
        summary = store.manifest("label", job["key"])["summary"]
        if summary["requests"] != summary["decided"]:
            raise SystemExit(f"not every verdict was asked for: {summary}")
        return int(summary["decided"])

    return run


def by_alpaca_eval(rows: Sequence[Row], url: str, in_flight: int, scratch: Path) -> Callable[[], int]:
    (scratch / "clients.yaml").write_text(f"default: [{{api_key: none, base_url: '{url}'}}]\n")
    os.environ["OPENAI_CLIENT_CONFIG_PATH"] = str(scratch / "clients.yaml")
    if in_flight:
        os.environ["OPENAI_MAX_CONCURRENCY"] = str(in_flight)
    from alpaca_eval.annotators import PairwiseAnnotator

    annotator = PairwiseAnnotator(
        annotators_config="alpaca_eval_gpt4", caching_path=str(scratch / "cache.json")
    )
    sides = [
        [{"instruction": row["instruction"], "output": row[side], "generator": side} for row in rows]
        for side in SIDES
    ]

    def run() -> int:
        found = annotator.annotate_head2head(outputs_1=sides[0], outputs_2=sides[1])
        return sum(row["preference"] in (1, 2) for row in found)

    return run


Ask = Callable[[list[dict[str, str]]], Awaitable[object]]


def bare(rows: Sequence[Row], in_flight: int, ask: Ask) -> Callable[[], int]:
    """As many workers as may be in flight, each asking for the next pair's messages."""
    from runtime.wordings import Pair, template

    asked = template("pairwise")
    pairs = (Pair("", row["instruction"], row["baseline"], row["answer"]) for row in rows)
    messages = [
        [{"role": m.role, "content": m.content} for m in asked.messages(pair, "ab")] for pair in pairs
    ]

    async def worker(todo: Iterator[list[dict[str, str]]]) -> int:
        done = 0
        for each in todo:
            await ask(each)
            done += 1
        return done

    async def run() -> int:
        todo = iter(messages)
        return sum(await asyncio.gather(*(worker(todo) for _ in range(in_flight))))

    return lambda: asyncio.run(run())


def by_openai(rows: Sequence[Row], url: str, in_flight: int) -> Callable[[], int]:
    from openai import AsyncOpenAI

    client = AsyncOpenAI(api_key="none", base_url=url, max_retries=0)
    create: Any = client.chat.completions.create
    return bare(rows, in_flight, lambda each: create(messages=each, **ASKED))


def by_httpx(rows: Sequence[Row], url: str, in_flight: int) -> Callable[[], int]:
    import httpx

    client = httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60)

    async def ask(each: list[dict[str, str]]) -> None:
        (await client.post(f"{url}/chat/completions", json={"messages": each, **ASKED})).json()

    return bare(rows, in_flight, ask)


def child(system: str, folder: Path, url: str, in_flight: int, many: int) -> dict[str, float]:
    """Judge all pairs once: pairs, wall and CPU seconds, peak memory in MB."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        if system == ALIGNC:
            run = by_alignc(folder, url, in_flight, many)
        elif system == RIVAL:
            run = by_alpaca_eval(distinct(folder), url, in_flight, Path(scratch))
        else:
            run = BARE[system](distinct(folder), url, in_flight)
        wall, cpu = time.perf_counter(), time.process_time()
        done = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"pairs": done, "seconds": wall, "cpu_s": cpu, "memory_mb": peak_mb()}


def peak_mb() -> float:
    """Most memory of this process, without that of who started it."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def distinct(folder: Path) -> list[Row]:
    """The pairs of which a judge is asked."""
    return [row for row in read_rows(folder) if row["baseline"] != row["answer"]]


def read_rows(folder: Path) -> list[Row]:
    rows: list[Row] = json.loads((folder / "rows.json").read_text(encoding="utf-8"))
    return rows


BARE = {"bare openai client": by_openai, "bare httpx client": by_httpx}


# ---------------------------------------------------------------- all runs


def prepare(folder: Path, files: Sequence[Path]) -> int:
    """Keeps the pairs of two files of outputs; returns how many are asked about."""
    sides = []
    for path in files:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            sides.append({row["instruction"]: row["output"] for row in map(json.loads, file)})
    one, other = sides
    rows = [{"instruction": p, "baseline": one[p], "answer": other[p]} for p in one if p in other]
    (folder / "rows.json").write_text(json.dumps(rows), encoding="utf-8")
    return len(rows)


def measure(python: Path | str, system: str, folder: Path, *more: str) -> dict[str, float]:
    """One run in a process of its own."""
    command = [str(python), __file__, "--child", system, "--folder", str(folder), *more]
    paths = f"{HERE}" if system == RIVAL else f"{HERE.parent}:{HERE}"
    environ = {**os.environ, "PYTHONPATH": paths, "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "none"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environ)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


Runs = dict[tuple[str, int], list[dict[str, float]]]


def rates(asked: argparse.Namespace, folder: Path) -> Runs:
    """Every system at every number in flight; 0 is its default."""
    python = asked.rival / "bin" / "python"
    rounds = [(ALIGNC, 0), *((s, n) for n in asked.in_flight for s in (ALIGNC, *BARE))]
    rounds = [*((RIVAL, n) for n in (0, max(asked.in_flight)) if python.exists()), *rounds]
    found: Runs = {each: [] for each in rounds}
    pairs = len(distinct(folder))
    with judge(asked.latency) as url:
        for _ in range(asked.repeats):
            for system, n in rounds:
                more = ["--url", url, "--in-flight", str(n), "--many", str(len(read_rows(folder)))]
                run = measure(python if system == RIVAL else sys.executable, system, folder, *more)
                if run["pairs"] != pairs:
                    raise SystemExit(f"{system} has {run['pairs']} verdicts on {pairs} pairs")
                found[system, n].append(run)
                print(system, n, run, file=sys.stderr, flush=True)
    return found


def rate_rows(found: Runs) -> list[list[str]]:
    rows = []
    for (system, n), runs in found.items():
        rate = [run["pairs"] / run["seconds"] for run in runs]
        spread = f"{median(rate):,.0f} ({min(rate):,.0f}-{max(rate):,.0f})"
        cpu = median(1000 * run["cpu_s"] / run["pairs"] for run in runs)
        used = median(run["memory_mb"] for run in runs)
        rows.append([system, str(n or f"{DEFAULTS[system]} (default)"), spread, f"{cpu:.2f}", f"{used:.0f}"])
    return rows


def ratios(found: Runs) -> Iterator[str]:
    """What the table says, as ratios of medians."""
    rate = {each: median(run["pairs"] / run["seconds"] for run in runs) for each, runs in found.items()}
    theirs = rate.get((RIVAL, 0))
    if theirs:
        for n in (n for system, n in rate if system == ALIGNC):
            how = f"with {n} in flight" if n else "at its default"
            yield f"{how} alignc judges {rate[ALIGNC, n] / theirs:.1f} times as many a second as alpaca_eval"
    for system, n in rate:
        if system in BARE:
            reached = 100 * rate[ALIGNC, n] / rate[system, n]
            yield f"with {n} in flight it reaches {reached:.0f} % of the {system}"


def memories(asked: argparse.Namespace, folder: Path) -> list[list[str]]:
    """One job of each size, its judge answering at once."""
    rows = []
    with judge(0.0) as url:
        for many in asked.many:
            measure(sys.executable, "seal", folder, "--many", str(many))
            more = ["--url", url, "--in-flight", str(max(asked.in_flight)), "--many", str(many)]
            run = measure(sys.executable, ALIGNC, folder, *more)
            print(many, run, file=sys.stderr, flush=True)
            shutil.rmtree(folder / f"store{many}")
            rate, cpu = run["pairs"] / run["seconds"], 1000 * run["cpu_s"] / run["pairs"]
            rows.append([f"{many:,}", f"{rate:,.0f}", f"{cpu:.2f}", f"{run['memory_mb']:.0f}"])
    return rows


def numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",") if part]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", nargs=2, type=Path, help="AlpacaEval outputs of two models (.jsonl.gz)")
    parser.add_argument("--rival", type=Path, default=HERE / ".venv-judge", help="venv of alpaca_eval")
    parser.add_argument("--in-flight", type=numbers, default=[16, 64], help="requests at once")
    parser.add_argument("--many", type=numbers, default=[2000, 20000, 200000], help="pairs, for memory")
    parser.add_argument("--latency", type=float, default=0.05, help="seconds that the judge takes")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--write", type=Path, help="a page with marks for this program's table")
    parser.add_argument("--serve", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--url", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.serve is not None:
        asyncio.run(serve(asked.serve))
    elif asked.child == "seal":
        seal(asked.folder, *asked.many)
        print("{}")
    elif asked.child:
        print(json.dumps(child(asked.child, asked.folder, asked.url, *asked.in_flight, *asked.many)))
    else:
        told(asked)


def told(asked: argparse.Namespace) -> None:
    began = machine()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many = prepare(folder, asked.data)
        measure(sys.executable, "seal", folder, "--many", str(many))
        found = rates(asked, folder)
        sizes = memories(asked, folder)
    rival = "alpaca_eval 0.6.6"
    if not (asked.rival / "bin" / "python").exists():
        rival = f"no alpaca_eval in {asked.rival}, so it is not measured (benchmarks/README.md)"
    work = f"{many} pairs, a judge of {1000 * asked.latency:g} ms, medians of {asked.repeats}"
    header = ["system", "in flight", "pairs/s", "CPU, ms a pair", "memory, MB"]
    lines = [f"{began}; {rival}; {work}.", "", markdown(header, rate_rows(found), words={0}), ""]
    lines += [f"{'; '.join(ratios(found))}.", ""]
    header = ["pairs in one job", "pairs/s", "CPU, ms a pair", "memory, MB"]
    lines += [markdown(header, sizes, words=())] if sizes else []
    text = "\n".join(lines).rstrip()
    print(text)
    if asked.write:
        write(asked.write, "judge.py", text)


if __name__ == "__main__":
    main()
