"""The engine `continuous`: the continuous batching of transformers, in this process."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from runtime.chat import Renderer
from runtime.sampling.engine import PROBES, Prompt, Reply, prompt_seed
from runtime.stages.sample import Sampling

WAIT_S = 1.0
PAGE = 256  # tokens of a page of the cache


class ContinuousEngine:
    """Requests join and leave a running batch; see `Engine`.

    One random stream serves the whole batch, so what a prompt gets depends on the others beside it.
    """

    def __init__(self, config: Sampling, model: Any, renderer: Renderer) -> None:
        self.config, self.model, self.renderer = config, model, renderer
        self.troubles: dict[str, str] = {}

    def complete(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        from transformers import ContinuousBatchingConfig
        from transformers.generation.continuous_batching.utils import WorkloadHints

        config = self.config
        batching = ContinuousBatchingConfig(
            page_size=PAGE,
            seed=prompt_seed(config.seed, ""),
            max_requests_per_batch=min(config.batch_size, len(prompts)),
            return_logprobs=True,
            **({} if self.model.device.type == "cuda" else self._room(prompts)),
        )
        hints = WorkloadHints(
            max_prompt_length=max(len(p.ids) for p in prompts),
            max_generated_length=config.max_new_tokens,
            num_requests=len(prompts),
        )
        manager = self.model.init_continuous_batching(self._generation(), batching, hints)
        manager.start()
        try:
            probes = {p.id for p in prompts[:PROBES]} if self._raw() else set()
            for prompt in prompts:
                manager.add_request(prompt.ids, prompt.id, max_new_tokens=config.max_new_tokens)
            yield from self._results(manager, len(prompts), probes)
        finally:
            manager.stop(block=True, hard_stop=True)
            manager.destroy()

    def close(self) -> None:
        pass

    def _room(self, prompts: Sequence[Prompt]) -> dict[str, int]:
        """Sizes of the cache and of a step for all requests in flight: without a GPU it takes all memory."""
        longest = max(len(p.ids) for p in prompts) + self.config.max_new_tokens
        requests = min(self.config.batch_size, len(prompts))
        return {"num_blocks": requests * -(-longest // PAGE) + 1, "max_batch_tokens": requests * longest}

    def _generation(self) -> Any:
        from transformers import GenerationConfig

        config, eos = self.config, self.renderer.eos
        how: dict[str, Any] = {"do_sample": False}
        if config.temperature > 0:
            how = {"do_sample": True, "temperature": config.temperature, "top_p": config.top_p, "top_k": 0}
        return GenerationConfig(
            **how, max_new_tokens=config.max_new_tokens, eos_token_id=eos, pad_token_id=eos
        )

    def _raw(self) -> bool:
        """Whether the log-probabilities are the model's: they are told after temperature and top_p."""
        return self.config.temperature == 0 or (self.config.temperature == 1 and self.config.top_p == 1)

    def _results(self, manager: Any, count: int, probes: set[str]) -> Iterator[Reply]:
        """Results as they come: one for each request, unless the manager's thread dies."""
        while count:
            running = manager.is_running()  # before the look, so that none is missed that came in between
            result = manager.get_result(timeout=WAIT_S)
            if result is None:
                if not running:
                    raise RuntimeError(f"continuous batching ended with {count} prompts left") from (
                        manager.background_thread_status.fatal_error
                    )
                continue
            if not result.is_finished():
                continue
            count -= 1
            if result.error is not None:
                self.troubles[result.request_id] = result.error
                continue
            told = result.logprobs if result.request_id in probes else None
            yield Reply(result.request_id, result.generated_tokens, told)
