"""Stopping a training in time: a cluster sends SIGTERM some seconds before it kills."""

import signal
import threading
from types import FrameType, TracebackType
from typing import Any, Self


class StopSignal:
    """Within a `with` block, SIGTERM is noted in `given` instead of ending the process.

    Only Python's main thread is given signals; in another one the block changes nothing.
    """

    def __init__(self) -> None:
        self.given = False
        self._before: Any = None

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
