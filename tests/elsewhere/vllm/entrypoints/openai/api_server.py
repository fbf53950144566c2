"""Stands in for vLLM in another environment: its protocol, as far as it is used, over a small Llama.

Every request for a completion is noted in $NOTES/asked.jsonl; `faults.json` there says what befalls the
first, second, ... of them: {"3": "die"}.
"""

import argparse
import json
import os
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import torch
from transformers import LlamaForCausalLM

NOTES = Path(os.environ["NOTES"])
FAULTS = json.loads((NOTES / "faults.json").read_text())
LOCK = threading.Lock()

parser = argparse.ArgumentParser()
for name in ("--model", "--served-model-name", "--host", "--port", "--generation-config", "--dtype"):
    parser.add_argument(name, required=True)
told = parser.parse_args()
torch.set_num_threads(1)
model = LlamaForCausalLM.from_pretrained(told.model, dtype=torch.float32).eval()


@torch.no_grad()
def complete(asked):
    ids, logprobs = list(asked["prompt"]), []
    dice = torch.Generator().manual_seed(asked["seed"])
    while len(logprobs) < asked["max_tokens"]:
        logits = model(torch.tensor([ids])).logits[0, -1]
        heat = asked["temperature"]
        ids.append(
            int(
                torch.multinomial((logits / heat).softmax(-1), 1, generator=dice) if heat else logits.argmax()
            )
        )
        logprobs.append(float(logits.log_softmax(-1)[ids[-1]]))
        if ids[-1] in asked["stop_token_ids"]:
            break
    choice = {
        "token_ids": ids[len(asked["prompt"]) :],
        "prompt_token_ids": asked["prompt"],
        "finish_reason": "stop" if ids[-1] in asked["stop_token_ids"] else "length",
        "logprobs": {"token_logprobs": logprobs} if "logprobs" in asked else None,
    }
    return {"choices": [choice]}


def note(asked):
    """The number of this request, over all servers with these notes."""
    path = NOTES / "asked.jsonl"
    with LOCK:
        number = len(path.read_text().splitlines()) + 1 if path.exists() else 1
        with path.open("a") as file:
            file.write(json.dumps({**asked, "pid": os.getpid()}) + "\n")
    return number


class Handler(BaseHTTPRequestHandler):
    def allowed(self):
        if self.headers.get("Authorization") == f"Bearer {os.environ['VLLM_API_KEY']}":
            return True
        self.reply(401, b'{"error": "Unauthorized"}')
        return False

    def reply(self, status, body):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def do_GET(self):
        if self.allowed():
            self.reply(200, json.dumps({"data": [{"id": told.served_model_name}]}).encode())

    def do_POST(self):
        if not self.allowed():
            return
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        fault = FAULTS.get(str(note(asked)))
        if fault == "die":
            os._exit(9)
        if fault == "hang":
            time.sleep(600)
        if fault == "500":
            return self.reply(500, b'{"error": "out of luck"}')
        if fault == "lost":
            return self.connection.close()
        with LOCK:
            made = complete(asked)
        if fault == "doubled":
            made["choices"] *= 2
        body = json.dumps(made).encode()
        self.reply(200, body[:-20] if fault == "cut" else body)

    def log_message(self, *words):
        pass


print("ready", flush=True)
ThreadingHTTPServer((told.host, int(told.port)), Handler).serve_forever()
