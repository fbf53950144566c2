"""A transformers model in this process as teacher, critic or evaluator."""

from __future__ import annotations

import asyncio
import itertools
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from runtime.declare import LocalLLM
from runtime.job import Input
from runtime.llms.base import Fatal, Reply, Request, Skipped, Usage
from runtime.models import load_model, locate, longest, open_renderer
from runtime.sampling.engine import Prompt
from runtime.stages.sample import Sampling
from runtime.training.sampling import Generator

GATHER_S = 0.005  # how long the first request of a batch waits for the others


class LocalProvider:
    """Answers requests in batches, in the model's own chat format, from one prompt of all messages.

    A request's random stream depends on its seed and content alone. Limits: one process, one device,
    and a batch blocks everything else in the process; a large model belongs behind a serving engine,
    asked with `provider: openai` and its `base_url`.
    """

    def __init__(self, declaration: LocalLLM) -> None:
        if declaration.model.init is not None:
            raise Fatal("a model with random weights has nothing to say; name a `path` or `hub` model")
        self._batch_size = declaration.batch_size
        self._scratch = tempfile.TemporaryDirectory(prefix="alignc-local-")
        given = Input("Model", "llm", declared=declaration.model)
        origin = locate(given, Path(self._scratch.name), lambda: ())
        self._renderer = open_renderer(origin)
        cuda = torch.cuda.is_available()
        model = load_model(origin.folder, torch.bfloat16 if cuda else torch.float32)
        self._model = model.eval().to("cuda" if cuda else "cpu")
        self._positions = longest(model.config)
        self._name = declaration.model.hub or Path(declaration.model.path or "local").name
        self._waiting: list[tuple[Request, asyncio.Future[Reply]]] = []
        self._pump: asyncio.Task[None] | None = None

    async def ask(self, request: Request) -> Reply:
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting.append((request, future))
        if self._pump is None or self._pump.done():
            self._pump = asyncio.create_task(self._work())
        return await future

    async def close(self) -> None:
        if self._pump is not None:
            self._pump.cancel()
        self._scratch.cleanup()

    async def _work(self) -> None:
        """Answer batch after batch until nobody waits."""
        while self._waiting:
            await asyncio.sleep(GATHER_S)
            batch, self._waiting = self._waiting[: self._batch_size], self._waiting[self._batch_size :]
            try:
                self._answer(batch)
            except Exception as error:  # a defect: every asker shall see it, none shall wait for ever
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    def _answer(self, batch: Sequence[tuple[Request, asyncio.Future[Reply]]]) -> None:
        """Answer the requests of a batch, those with equal settings together."""

        def settings(item: tuple[Request, asyncio.Future[Reply]]) -> tuple[float, int, int]:
            request = item[0]
            return request.temperature, request.max_tokens, request.seed or 0

        for item in batch:
            if item[0].choices:
                self._weigh(*item)
        batch = [item for item in batch if not item[0].choices]
        for (temperature, length, seed), alike in itertools.groupby(sorted(batch, key=settings), settings):
            config = Sampling(temperature=temperature, max_new_tokens=length, seed=seed)
            self._generate([item for item in alike if not item[1].done()], config)

    def _generate(self, batch: Sequence[tuple[Request, asyncio.Future[Reply]]], config: Sampling) -> None:
        texts = [_text(request) for request, _ in batch]
        prompts, futures = [], []
        for ids, (request, future) in zip(self._renderer.prompts(texts), batch, strict=True):
            needed = len(ids) + config.max_new_tokens
            if self._positions is not None and needed > self._positions:
                words = f"{needed} positions are needed, the model has {self._positions}"
                future.set_exception(Skipped("too_long", words))
                continue
            prompts.append(Prompt({"id": request.content_key()}, ids, False))
            futures.append(future)
        if not prompts:
            return
        completions = Generator(self._model, self._renderer, config).complete(prompts)
        for prompt, ids, future in zip(prompts, completions, futures, strict=True):
            future.set_result(self._reply(len(prompt.ids), ids))

    def _weigh(self, request: Request, future: asyncio.Future[Reply]) -> None:
        """The log-probabilities of the choices; the reply is the likeliest of them, at any temperature."""
        (prompt,) = self._renderer.prompts([_text(request)])
        # Without the end of the sequence: longer replies begin so too.
        choices = [self._renderer.completions([choice])[0][:-1] for choice in request.choices]
        needed = len(prompt) + max(map(len, choices))
        if self._positions is not None and needed > self._positions:
            words = f"{needed} positions are needed, the model has {self._positions}"
            future.set_exception(Skipped("too_long", words))
            return
        passes: dict[tuple[int, ...], torch.Tensor] = {}  # one for all choices that differ in their last id
        told = []
        for choice, ids in zip(request.choices, choices, strict=True):
            start = tuple(ids[:-1])
            if start not in passes:
                passes[start] = self._logps([*prompt, *start], len(ids))
            told.append((choice, float(passes[start].gather(1, torch.tensor(ids).unsqueeze(1)).sum())))
        text = max(told, key=lambda one: one[1])[0]
        future.set_result(Reply(text, "stop", Usage(len(prompt), 1), self._name, logprobs=tuple(told)))

    def _logps(self, ids: list[int], last: int) -> torch.Tensor:
        """Log-probabilities [last, V] of what follows the last ids, fp32 on the CPU."""
        with torch.inference_mode():
            asked = torch.tensor([ids], device=self._model.device)
            logits = self._model(input_ids=asked, use_cache=False, logits_to_keep=last).logits
            return logits[0, :, : len(self._renderer.tokenizer)].float().log_softmax(dim=-1).cpu()

    def _reply(self, asked: int, ids: list[int]) -> Reply:
        ended = bool(ids) and ids[-1] == self._renderer.eos
        text = self._renderer.decode(ids[:-1] if ended else ids)
        return Reply(text, "stop" if ended else "length", Usage(asked, len(ids)), self._name)


def _text(request: Request) -> str:
    return "\n\n".join(message.content for message in request.messages)
