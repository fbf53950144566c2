"""The engine `vllm`: completions from a vLLM server, over its OpenAI-like protocol and by token ids alone."""

from __future__ import annotations

import http.client
import json
import queue
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from runtime.chat import Renderer
from runtime.job import JobError
from runtime.keys import BadKey, find_key
from runtime.sampling.engine import PROBES, Prompt, Reply, prompt_seed
from runtime.sampling.server import NAME, POLL_S, Server
from runtime.stages.sample import Sampling

LONGEST_MESSAGE = 300
READY_S = 60.0  # how long a server may take to name its model
AGAIN = (408, 409, 425, 429)  # and all from 500 on
_LOST = (OSError, http.client.HTTPException)


class BadReply(Exception):
    """A reply that cannot be used, or none: the prompt is asked for again."""


class Refused(Exception):
    """A reply that would be the same again: the job ends."""


class VllmEngine:
    """Asks a server that it starts itself, or one that runs; see `Engine`.

    A server of its own that died is started again for the next attempt.
    """

    def __init__(self, config: Sampling, folder: Path, renderer: Renderer, scratch: Path) -> None:
        assert config.vllm is not None
        self.config, self.told = config, config.vllm
        self.folder, self.renderer, self.scratch = folder, renderer, scratch
        self.tokens = len(renderer.tokenizer)
        self.troubles: dict[str, str] = {}
        self._server: Server | None = None

    def complete(self, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        try:
            client = self._client()
            yield from self._ask_all(client, prompts)
        except Refused as error:
            raise JobError(f"the vLLM server refuses to complete: {error}") from error

    def close(self) -> None:
        if self._server is not None:
            self._server.close()
            self._server = None

    # ------------------------------------------------------------ the server

    def _client(self) -> Client:
        if self.told.base_url is not None:
            try:
                key = find_key(self.told.api_key_env)
            except BadKey as error:
                raise JobError(str(error)) from error
            client = Client(self.told.base_url.rstrip("/"), key, self.told.timeout_s)
            try:
                client.model = _only_model(client)
            except BadReply as error:
                raise JobError(f"the vLLM server at {client.url} does not answer: {error}") from error
            return client
        if self._server is not None:
            client = self._client_of(self._server)
            with suppress(BadReply):
                client.model = _only_model(client)
                return client
            self.close()
        self._server = Server(self.told.python or "", self._arguments(), self.scratch)
        return self._wait_for(self._server)

    def _client_of(self, server: Server) -> Client:
        return Client(server.url, server.key, self.told.timeout_s, direct=True)

    def _arguments(self) -> list[str]:
        dtype = "bfloat16" if torch.cuda.is_available() else "float32"
        # A model's own generation config would add settings that nobody asked for.
        fixed = ("--generation-config", "vllm", "--dtype", dtype)
        return ["--model", str(self.folder), "--served-model-name", NAME, *fixed, *self.told.args]

    def _wait_for(self, server: Server) -> Client:
        """A client of the server, once it is ready and proves to be ours."""
        client = self._client_of(server)
        deadline = time.monotonic() + self.told.start_s
        while True:
            try:
                client.model = _only_model(client)
                return client
            except BadReply:
                server.require_running(deadline)
                time.sleep(POLL_S)

    # ------------------------------------------------------------ requests

    def _ask_all(self, client: Client, prompts: Sequence[Prompt]) -> Iterator[Reply]:
        """Replies as they come, with `batch_size` requests in flight."""
        waiting: queue.SimpleQueue[tuple[Prompt, bool]] = queue.SimpleQueue()
        for number, prompt in enumerate(prompts):
            waiting.put((prompt, number < PROBES))
        came: queue.SimpleQueue[tuple[Prompt, Reply | Exception]] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                try:
                    prompt, probe = waiting.get_nowait()
                except queue.Empty:
                    return
                try:
                    came.put((prompt, self._ask(client, prompt, probe)))
                except Exception as error:  # raised again by the reader below
                    came.put((prompt, error))

        for _ in range(min(self.config.batch_size, len(prompts))):
            threading.Thread(target=work, daemon=True).start()  # daemons: a job that must stop cannot wait
        try:
            for _ in prompts:
                prompt, reply = came.get()
                if isinstance(reply, Reply):
                    yield reply
                elif isinstance(reply, BadReply):
                    self.troubles[prompt.id] = str(reply)
                else:
                    raise reply
        finally:
            stop.set()

    def _ask(self, client: Client, prompt: Prompt, probe: bool) -> Reply:
        eos, config = self.renderer.eos, self.config
        asked = {
            "model": client.model,
            "prompt": prompt.ids,
            "max_tokens": config.max_new_tokens,
            "temperature": config.temperature,
            "top_p": config.top_p,
            "seed": prompt_seed(config.seed, prompt.id),
            "n": 1,
            "stop_token_ids": [eos],
            "ignore_eos": True,  # the EOS of the server's files may be another
            "return_token_ids": True,
            "return_tokens_as_token_ids": True,
            "skip_special_tokens": False,
            "spaces_between_special_tokens": False,
            # What servers add by themselves where it is not said.
            "top_k": -1,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            **({"logprobs": 0} if probe else {}),
        }
        return self._read(prompt, client.call("/completions", asked))

    def _read(self, prompt: Prompt, body: Any) -> Reply:
        """A reply's ids, checked. Raises BadReply."""
        choices = body.get("choices") if isinstance(body, dict) else None
        if not isinstance(choices, list) or len(choices) != 1 or not isinstance(choices[0], dict):
            raise BadReply(f"one completion was asked for, not {len(choices) if choices else 'none'}")
        choice, eos = choices[0], self.renderer.eos
        told = choice.get("logprobs")
        logprobs: dict[str, Any] = told if isinstance(told, dict) else {}
        ids = choice.get("token_ids") or _named_ids(logprobs)
        if not isinstance(ids, list):
            raise Refused("it gives no `token_ids`: a newer vLLM does")
        asked = choice.get("prompt_token_ids")
        if asked is not None and asked != prompt.ids:
            raise BadReply("it answers another prompt")
        if choice.get("finish_reason") == "stop" and ids[-1:] != [eos]:
            ids = [*ids, eos]
        whole = eos not in ids[:-1] and (ids[-1:] == [eos] or len(ids) == self.config.max_new_tokens)
        if not whole or len(ids) > self.config.max_new_tokens:
            raise BadReply(f"it was cut: {len(ids)} tokens, ended by {choice.get('finish_reason')!r}")
        if not all(isinstance(i, int) and 0 <= i < self.tokens for i in ids):
            raise BadReply("it holds ids that are no tokens")
        values = logprobs.get("token_logprobs")
        if not isinstance(values, list) or not all(isinstance(value, (int, float)) for value in values):
            values = None
        return Reply(prompt.id, ids, values if values and len(values) == len(ids) else None)


def _named_ids(logprobs: Mapping[str, Any]) -> list[int] | None:
    """Ids that came as `token_id:N` beside their log-probabilities."""
    names = logprobs.get("tokens")
    if not isinstance(names, list) or not all(str(name).startswith("token_id:") for name in names):
        return None
    return [int(str(name).removeprefix("token_id:")) for name in names]


def _only_model(client: Client) -> str:
    """The name of the model that a server has. Raises BadReply, and Refused where it has several."""
    body = client.call("/models", timeout_s=READY_S)
    try:
        names = [str(model["id"]) for model in body["data"] if model.get("parent") is None]
    except (TypeError, KeyError, AttributeError) as error:
        raise BadReply("its list of models cannot be read") from error
    if len(names) != 1:
        raise Refused(f"it has {len(names)} models ({', '.join(names[:5])}); it must have one")
    return names[0]


class Client:
    """Calls of one server; its methods may be called by many threads.

    direct: past any proxy of the environment.
    """

    def __init__(self, url: str, key: str, timeout_s: float, *, direct: bool = False) -> None:
        self.url, self.model = url, ""
        self._key, self._timeout_s = key, timeout_s
        self._opener = urllib.request.build_opener(*([urllib.request.ProxyHandler({})] if direct else []))

    def call(self, path: str, body: Mapping[str, Any] | None = None, timeout_s: float | None = None) -> Any:
        """The JSON of a reply. Raises BadReply where asking again may help, Refused where it cannot."""
        headers = {"Content-Type": "application/json"}
        if self._key:
            headers["Authorization"] = f"Bearer {self._key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data, headers)
        try:
            with self._opener.open(request, timeout=timeout_s or self._timeout_s) as reply:
                return json.loads(reply.read())
        except urllib.error.HTTPError as error:
            words = f"HTTP {error.code}: {self._told(error)}"
            raise (BadReply if error.code in AGAIN or error.code >= 500 else Refused)(words) from None
        except _LOST as error:
            raise BadReply(f"the connection failed: {error!r}"[:LONGEST_MESSAGE]) from None
        except ValueError as error:
            raise BadReply(f"it is not JSON: {error}"[:LONGEST_MESSAGE]) from None

    def _told(self, error: urllib.error.HTTPError) -> str:
        try:
            text = error.read().decode("utf-8", "replace")
        except _LOST:
            text = ""
        return (text.replace(self._key, "[key]") if self._key else text)[:LONGEST_MESSAGE]
