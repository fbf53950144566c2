"""Teachers, critics and evaluators of the small world: programs with stated faults.

They read `request.context`, never the rendered messages, and every draw is a pure function of the
declaration's seed and of what is asked, so that the same request gets the same reply in any order,
in any process and after any restart. Nothing here knows of a policy, a stage or an experiment.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

from runtime.declare import SimulatedLLM
from runtime.files import canonical, digest_text
from runtime.llms.base import Reply, Request, Skipped, Usage
from runtime.world import Task, solve

UNKNOWN = "I do not know."


class SimulatedProvider:
    """Answers tasks and judges pairs of answers.

    As a teacher (`task: complete`), by the first rule that fits:

    1. A prompt that is no task of the small world gets "I do not know.".
    2. A task of a family that it does not know gets its habit's answer with probability `habit_rate`
       (see `HABITS`): always the same way of being wrong, as a weak teacher's errors are.
    3. With probability `error_rate` the right answer is spoilt by one slip (see `slip`).
    4. Otherwise the answer is right.

    As a critic or evaluator (`task: judge`), by the first rule that fits:

    1. With probability `position_bias` it picks the first answer shown, unread.
    2. With probability `length_bias` it picks the longer answer, unread; equal lengths go on to 3.
    3. The right answer is better than a wrong one. Of two wrong answers the one fewer edits away from
       the right answer is better. With probability `error_rate` it then picks the other one.
    4. Both right, equally far off, or no task of the small world: a coin. It falls for an answer, not
       for a place: shown the other way round, the same answer wins.

    Rules 1 and 2 draw on the order shown, rule 3 on the prompt and the two answers alone: shown the
    other way round, the same verdict comes out. Above temperature 0 all draw on the asker's seed too: asked
    again, the critic may think otherwise, but for the coin of rule 4. The reply is what the request's context
    says a judge would reply, else "Output (a)" or "Output (b)"; where log-probabilities are asked for, they
    are those of the verdict before any draw. Tokens are counted as four characters each. A request whose
    context says neither task is skipped.
    """

    def __init__(self, declaration: SimulatedLLM) -> None:
        self.declaration = declaration

    async def ask(self, request: Request) -> Reply:
        context = request.context
        task = context.get("task")
        if task == "complete":
            text = self._complete(context["prompt"], request)
        elif task == "judge":
            pair = context["prompt"], context["first"], context["second"]
            say = context.get("say", ("Output (a)", "Output (b)"))
            if request.top_logprobs:
                return self._weighed(request, say, self._chance_of_first(*pair))
            text = say[0] if self._prefers_first(*pair, _again(request)) else say[1]
        else:
            raise Skipped("no_context", f"a simulated model can complete and judge, not {task!r}")
        asked = sum(len(message.content) for message in request.messages)
        return Reply(text, "stop", Usage(_tokens(asked), _tokens(len(text))), model="simulated")

    async def close(self) -> None:
        """Nothing is open."""

    def _rng(self, *facts: object) -> random.Random:
        return random.Random(digest_text(canonical([self.declaration.seed, *facts])))

    # ------------------------------------------------------------ teacher

    def _complete(self, prompt: str, request: Request) -> str:
        task, me = solve(prompt), self.declaration
        if task is None:
            return UNKNOWN
        rng = self._rng("complete", prompt, _again(request))
        known = me.knows is None or task.family in me.knows
        if rng.random() < me.habit_rate and not known:
            return HABITS[me.habit](task)
        if rng.random() < me.error_rate:
            return slip(task.answer, rng)
        return task.answer

    # ------------------------------------------------------------ critic

    def _prefers_first(self, prompt: str, first: str, second: str, again: int | None = None) -> bool:
        me = self.declaration
        more = () if again is None else (again,)
        shown = self._rng("shown", prompt, first, second, *more)
        if shown.random() < me.position_bias:
            return True
        if shown.random() < me.length_bias and len(first) != len(second):
            return len(first) > len(second)
        if first == second:
            return shown.random() < 0.5
        low, high = sorted((first, second))
        better = _better(solve(prompt), low, high)
        if better is None:
            return (low if self._rng("judge", prompt, low, high).random() < 0.5 else high) == first
        wrong = self._rng("judge", prompt, low, high, *more).random() < me.error_rate
        return (better == first) != wrong

    def _chance_of_first(self, prompt: str, first: str, second: str) -> float:
        """The probability that the first answer is picked, over all draws."""
        me, better = self.declaration, _better(solve(prompt), first, second)
        read = 0.5 if better is None else 1 - me.error_rate if better == first else me.error_rate
        longer = read if len(first) == len(second) else float(len(first) > len(second))
        return me.position_bias + (1 - me.position_bias) * (
            me.length_bias * longer + (1 - me.length_bias) * read
        )

    def _weighed(self, request: Request, say: tuple[str, str], chance: float) -> Reply:
        chances = zip(say, (chance, 1 - chance), strict=True)
        told = tuple((token, math.log(share)) for token, share in chances if share > 0)
        text = max(told, key=lambda one: one[1])[0]
        asked = sum(len(message.content) for message in request.messages)
        return Reply(text, "stop", Usage(_tokens(asked), 1), model="simulated", logprobs=told)


# ---------------------------------------------------------------- ways of being wrong


def _truncate(task: Task) -> str:
    """Stops too early: the last word of several, else the last digit of several, is missing."""
    *words, last = task.answer.split(" ")
    if words:
        return " ".join(words)
    return last[:-1] or _shift(task)


def _copy(task: Task) -> str:
    """Repeats what it was asked about; where that is right, it stops too early."""
    return task.x if task.x != task.answer else _truncate(task)


def _shift(task: Task) -> str:
    """Takes each digit for the next one (9 for 0); where there is no digit, stops too early."""
    shifted = "".join(str((int(c) + 1) % 10) if c.isdigit() else c for c in task.answer)
    return shifted if shifted != task.answer else _truncate(task)


HABITS: dict[str, Callable[[Task], str]] = {"truncate": _truncate, "copy": _copy, "shift": _shift}


def slip(answer: str, rng: random.Random) -> str:
    """The answer with one slip at a random place: a part left out, doubled, or exchanged with the next.

    The parts are the words of an answer of several, else its characters; never the answer itself.
    """
    gap = " " if " " in answer else ""
    parts = answer.split(" ") if gap else list(answer)
    place, how = int(rng.random() * len(parts)), int(rng.random() * 3)
    if how == 2 and place + 1 < len(parts) and parts[place] != parts[place + 1]:
        parts[place : place + 2] = parts[place + 1], parts[place]
    elif how == 1 and len(parts) > 1:
        del parts[place]
    else:
        parts.insert(place, parts[place])
    return gap.join(parts)


# ---------------------------------------------------------------- helpers


def _again(request: Request) -> int | None:
    """The asker's seed counts where one samples: two answers to one request may differ."""
    return request.seed if request.temperature > 0 else None


def _better(task: Task | None, a: str, b: str) -> str | None:
    """The answer fewer edits away from the right one; None where neither is better."""
    if task is None:
        return None
    d_a, d_b = (edits(_tidy(text), task.answer) for text in (a, b))
    return None if d_a == d_b else a if d_a < d_b else b


def edits(a: str, b: str) -> int:
    """Least number of characters to insert, delete or replace to turn `a` into `b`."""
    row = list(range(len(b) + 1))
    for i, left in enumerate(a, 1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(b, 1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


def _tidy(answer: str) -> str:
    return answer.strip()


def _tokens(characters: int) -> int:
    return -(-characters // 4)
