"""Stopping between two steps rather than within one."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType

__all__ = ["Stop", "obey", "signals_noted"]

SIGNALS = (signal.SIGTERM, signal.SIGINT)


@dataclass
class Stop:
    """The number of the signal that asks us to stop, or 0."""

    number: int = 0


@contextmanager
def signals_noted() -> Iterator[Stop]:
    """Within, the first SIGTERM or Ctrl-C is noted, to be obeyed after the step; a second one acts at once.

    Outside the main thread, to which Python gives all signals, nothing is noted.
    """
    noted = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield noted
        return
    before = {number: signal.getsignal(number) for number in SIGNALS}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def note(number: int, frame: FrameType | None) -> None:
        noted.number = number
        restore()

    for number in SIGNALS:
        signal.signal(number, note)
    try:
        yield noted
    finally:
        restore()


def obey(number: int) -> None:
    """Leave as the signal asked: KeyboardInterrupt for Ctrl-C, exit code 143 for SIGTERM."""
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    if number == signal.SIGTERM:
        raise SystemExit(128 + number)
