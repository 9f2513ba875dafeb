"""Waiting for who writes a store: it is said, and an interrupt ends it."""

__all__ = ("Patience", "impatient")

import logging
import os
import signal
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread, Timer, current_thread, main_thread
from types import FrameType
from typing import Self

from eventbus.cli.ending import INTERRUPTED, complain
from eventbus.transports.sqlite import WAITING, is_locked

TELL_SECONDS = 1.5
"""After how long it is said that a command waits."""

CLOSE_SECONDS = 0.5
"""How long a store may take to close once it was interrupted; a process that dies harms none."""


class Patience:
    """Says on stderr what a command waits for, once.

    In its block the store does not say so again, which it would to who writes programs.
    """

    def __init__(self, store: Path | None) -> None:
        self._store = store
        self._has_told = False
        self._logger = logging.getLogger("eventbus")

    def __enter__(self) -> Self:
        self._logger.addFilter(self._is_news)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeFilter(self._is_news)

    def _is_news(self, record: logging.LogRecord) -> bool:
        is_of_waiting = isinstance(record.args, tuple) and WAITING in record.args
        return not (is_of_waiting and self._has_told)

    @contextmanager
    def told(self) -> Generator[None]:
        """Have it said where the block takes long because another program writes."""
        if self._store is None or self._has_told:
            yield
            return
        done = Event()
        Thread(target=self._watch, args=(self._store, done), daemon=True).start()
        try:
            yield
        finally:
            done.set()

    def _watch(self, store: Path, done: Event) -> None:
        while not done.wait(TELL_SECONDS):
            if is_locked(store) and not done.is_set():
                self._has_told = True
                complain(f"waiting for another program that writes {store}: Ctrl-C gives up")
                return


@contextmanager
def impatient() -> Generator[None]:
    """Let the first interrupt in the block end the process soon, whatever that is waiting for."""
    if current_thread() is not main_thread():  # no signal comes here
        yield
        return
    end = Timer(CLOSE_SECONDS, os._exit, (INTERRUPTED,))
    end.daemon = True
    before = signal.signal(signal.SIGINT, _interrupting(end))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
        end.cancel()


def _interrupting(end: Timer) -> Callable[[int, FrameType | None], None]:
    def interrupt(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second one starts nothing
        end.start()
        raise KeyboardInterrupt

    return interrupt
