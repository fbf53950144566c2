"""A vLLM server, started for one job on a free port of this machine, and ended with it."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from runtime.job import JobError
from runtime.sampling import guard

NAME = "alignc"  # of the model, as requests name it
LOG = "server.log"
POLL_S = 0.2
LAST_LINES = 20
MODULE = "vllm.entrypoints.openai.api_server"
# Those of this environment, which would lead the other one's Python astray.
OURS = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "__PYVENV_LAUNCHER__")


class Server:
    """A running server. `key` guards its /v1, and it listens on the loopback address alone."""

    def __init__(self, python: str, arguments: Sequence[str], scratch: Path) -> None:
        self.key = secrets.token_hex(24)
        self.port = _free_port()
        self.log = scratch / LOG
        server = (python, "-m", MODULE, "--host", "127.0.0.1", "--port", str(self.port), *arguments)
        environment = {name: value for name, value in os.environ.items() if name not in OURS}
        if not os.access(python, os.X_OK):
            raise JobError(f"`python` of `vllm`: {python} is not there, or cannot be run")
        with self.log.open("wb") as log:
            self._guard = subprocess.Popen(
                (sys.executable, "-I", guard.__file__, *server),
                env={**environment, "VLLM_API_KEY": self.key},
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1"

    @property
    def running(self) -> bool:
        return self._guard.poll() is None

    def words(self) -> str:
        """The end of the log, without the key."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-LAST_LINES:]
        return "\n".join(f"  {line}" for line in lines).replace(self.key, "[key]")

    def require_running(self, deadline: float) -> None:
        """Raise JobError, with the end of the log, where it ended or is not ready by a monotonic time."""
        if not self.running:
            raise JobError(f"the vLLM server ended; the end of its log ({self.log}):\n{self.words()}")
        if time.monotonic() > deadline:
            raise JobError(
                f"the vLLM server was not ready in time; raise `start_s`, or read the end of its log "
                f"({self.log}):\n{self.words()}"
            )

    def close(self) -> None:
        assert self._guard.stdin is not None
        self._guard.stdin.close()
        with suppress(subprocess.TimeoutExpired):
            self._guard.wait(guard.GRACE_S + 10)
        self._guard.kill()
        self._guard.wait()


def _free_port() -> int:
    """A port that nobody listens on now. Should somebody take it first, the key tells the servers apart."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])
