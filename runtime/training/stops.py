"""Puts off a request to stop until the next safe moment."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

from runtime.signals import HEARD, STOPS


class Stop:
    """While entered, the first request to stop only sets `asked`; a second one is obeyed at once.

    `obey` hands the put-off signal to the handler that was there before. Outside the main thread,
    where Python lets nobody handle signals, it does nothing.
    """

    def __init__(self) -> None:
        self.asked: int | None = None
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            self._previous = {number: signal.signal(number, self._note) for number in STOPS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        for number, handler in self._previous.items():
            if signal.getsignal(number) == self._note:  # else a handler that was called set up its own
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.asked is not None:
            self._pass_on(number, frame)
        self.asked = number
        HEARD.append(number)

    def obey(self, number: int | None = None) -> None:
        """Act on the signal that was put off (or on `number`): does not return, unless a handler does."""
        self._pass_on(number or self.asked or signal.SIGTERM, None)

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        handler = self._previous.get(number, signal.SIG_DFL)
        if callable(handler):
            handler(number, frame)
        elif handler == signal.SIG_DFL:
            signal.signal(number, signal.SIG_DFL)
            signal.raise_signal(number)
