"""The line between a job's process and its ranks, wherever they run: who failed first, and when to stop.

A rank tells by a line of JSON who it is, and by another how it ended; the job tells it by a byte to stop.
Whoever dies lets go of the connection, so each side knows at once of the end of the other: a rank whose
job has gone ends too, wherever it runs. What was heard first, in the job's process, is what happened
first: clocks of several machines cannot tell.
"""

from __future__ import annotations

import hmac
import json
import os
import secrets
import selectors
import socket
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from runtime.signals import WARNING

PORT = "ALIGNC_LINE_PORT"  # beside MASTER_ADDR, where the job's process is
TOKEN = "ALIGNC_LINE_TOKEN"
DONE, FAILED, REFUSED, INTERRUPTED = 0, 1, 3, 5  # how a rank ended: as the exit codes of runtime.run_job

STOP = b"s"
MOST_BYTES = 1 << 20
LAST_WORDS_S = 60.0  # how long a rank that failed waits for the job to end it


@dataclass(frozen=True, slots=True)
class End:
    """How a rank ended; `code` is None where it did so without a word."""

    rank: int
    host: str
    code: int | None = None
    message: str = ""
    traceback: str = ""


@dataclass(slots=True)
class _Peer:
    """A rank's connection: what was received of an unfinished line, and which rank it turned out to be."""

    connection: socket.socket
    received: bytes = b""
    rank: int | None = None
    host: str = ""
    ended: bool = False

    def stop(self) -> None:
        with suppress(OSError):  # it has gone, which its end of the line tells
            self.connection.sendall(STOP)


class Exchange:
    """The job's end of the lines."""

    def __init__(self) -> None:
        self.stopping = False
        self._token = secrets.token_hex(16)
        self._server = socket.create_server(("", 0), backlog=1024)  # on all interfaces
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._server, selectors.EVENT_READ)
        self._peers: list[_Peer] = []

    def environment(self) -> dict[str, str]:
        """By which a rank finds the line."""
        return {PORT: str(self._server.getsockname()[1]), TOKEN: self._token}

    def listen(self, seconds: float) -> list[End]:
        """Ends of ranks that are heard of within so many seconds, at once where there are some.

        Those without a word come first: the others may have failed for the want of them.
        """
        ends = [end for key, _ in self._selector.select(seconds) for end in self._hear(key.data)]
        return sorted(ends, key=lambda end: end.code is not None)

    def stop(self) -> None:
        """Ask all ranks to stop, those too that are still to come."""
        self.stopping = True
        for peer in self._peers:
            if peer.rank is not None:
                peer.stop()

    def close(self) -> None:
        """Let go of all ranks: those that still run end."""
        self._selector.close()
        self._server.close()
        for peer in self._peers:
            peer.connection.close()

    def _hear(self, peer: _Peer | None) -> list[End]:
        if peer is None:
            peer = _Peer(self._server.accept()[0])
            self._selector.register(peer.connection, selectors.EVENT_READ, peer)
            self._peers.append(peer)
            return []
        try:
            received = peer.connection.recv(1 << 16)
        except OSError:
            received = b""
        *lines, peer.received = (peer.received + received).split(b"\n")
        try:
            ends = [end for line in lines if (end := self._understand(peer, json.loads(line)))]
        except (ValueError, KeyError, TypeError, RecursionError):  # a stranger
            received, ends = b"", []
        if not received or len(peer.received) > MOST_BYTES:
            self._selector.unregister(peer.connection)
            self._peers.remove(peer)
            peer.connection.close()
            if peer.rank is not None and not peer.ended:
                ends.append(End(peer.rank, peer.host))
        return ends

    def _understand(self, peer: _Peer, told: Mapping[str, Any]) -> End | None:
        if peer.rank is not None:
            peer.ended = True
            return End(peer.rank, peer.host, told["code"], told["message"], told["traceback"])
        if not hmac.compare_digest(told["token"], self._token):
            raise ValueError("a stranger")
        peer.rank, peer.host = told["rank"], told["host"]
        if self.stopping:
            peer.stop()
        return None


class Line:
    """A rank's end. It hears the job in a thread: a request to stop comes to the main one as WARNING."""

    def __init__(self, rank: int, host: str) -> None:
        where = (os.environ["MASTER_ADDR"], int(os.environ[PORT]))
        self._connection = socket.create_connection(where, timeout=60)
        self._connection.settimeout(None)
        self._say(token=os.environ.pop(TOKEN), rank=rank, host=host)
        threading.Thread(target=self._hear, daemon=True).start()

    def end(self, code: int, message: str = "", traceback: str = "") -> None:
        """Tell how this rank ended. One that failed stays until the job ends all, before others complain."""
        self._say(code=code, message=message, traceback=traceback[-MOST_BYTES // 8 :])
        if traceback:
            time.sleep(LAST_WORDS_S)

    def _say(self, **words: Any) -> None:
        self._connection.sendall(json.dumps(words).encode() + b"\n")

    def _hear(self) -> None:
        with suppress(OSError):
            while self._connection.recv(1):
                os.kill(os.getpid(), WARNING)
        # Quietly, since the job tells what happened; and at once: the main thread may hang in a collective.
        os._exit(0)
