"""Stopping a training in time: a cluster sends SIGTERM some seconds before it kills."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Any, Self

logger = logging.getLogger(__name__)


class _StoppedError(Exception):
    """What the signal raises in a block that is cut short."""


class StopSignal:
    """Within a `with` block, SIGTERM is noted in `given` instead of ending the process.

    Only Python's main thread is given signals; in another one the block changes nothing.
    """

    def __init__(self) -> None:
        self.given = False
        self._before: Any = None
        self._cuts = False

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._before is not None:
            signal.signal(signal.SIGTERM, self._before)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.given = True
        if self._cuts:
            self._cuts = False
            raise _StoppedError

    @contextmanager
    def cutting_short(self) -> Iterator[None]:
        """A block that the signal ends at once, and from whose end the program goes on."""
        self._cuts = True
        try:
            try:
                yield
            finally:
                self._cuts = False
        except _StoppedError:
            logger.warning("Told to stop: what was being made beside the training is left out.")
