"""How much a web client may send, and how often."""

import threading
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

LARGEST_BODY = 16_384


class RateLimit:
    """So many events at once, and so many a second after that, for each key (a token bucket).

    Args:
        burst: How many at once.
        per_second: How many a second in the long run.
        clock: Seconds that only grow.
        most_keys: Keys that are remembered; the longest unused goes first.
    """

    def __init__(
        self, burst: int, per_second: float, clock: Callable[[], float] = time.monotonic, most_keys: int = 10_000
    ) -> None:
        self.burst, self.per_second, self.clock, self.most_keys = burst, per_second, clock, most_keys
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()
        self._lock = threading.Lock()

    def take(self, key: str) -> bool:
        """Whether one more is allowed now; if so it is counted."""
        with self._lock:
            left = self._now(key)
            if left < 1:
                return False
            self._left[key] = (left - 1, self.clock())
            self._left.move_to_end(key)
            if len(self._left) > self.most_keys:
                self._left.popitem(last=False)
            return True

    def _now(self, key: str) -> float:
        left, at = self._left.get(key, (float(self.burst), self.clock()))
        return min(left + (self.clock() - at) * self.per_second, float(self.burst))


class LimitBody:
    """ASGI middleware that refuses a request whose body is larger than any answer, before it is read."""

    def __init__(self, app: Callable[[Scope, Receive, Send], Awaitable[None]], largest: int = LARGEST_BODY) -> None:
        self.app, self.largest = app, largest

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        if not declared.isdigit() or int(declared) > self.largest:
            await _refuse(send)
            return
        body, more = b"", True
        while more:  # a body in chunks declares no length
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self.largest:
                await _refuse(send)
                return
        told = False

        async def whole() -> MutableMapping[str, Any]:
            nonlocal told
            if told:
                return await receive()
            told = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, whole, send)


async def _refuse(send: Send) -> None:
    headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
    await send({"type": "http.response.start", "status": 413, "headers": headers})
    await send({"type": "http.response.body", "body": b'{"detail": "too large"}'})
