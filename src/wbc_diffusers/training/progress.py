"""Progress of a training: one line that is redrawn on a terminal, a line now and then in a log file; log.jsonl."""

import contextlib
import json
import sys
import time
from pathlib import Path

from wbc_diffusers.training.files import write_whole

SECONDS_BETWEEN_LINES = 30.0


class Progress:
    """Shows the update, losses, images a second and the time left.

    Args:
        step: Updates done before.
        total: Updates of the whole training.
        images_per_step: Images of an update over all processes.
        show: Whether this process shows anything.
    """

    def __init__(self, step: int, total: int, images_per_step: int, *, show: bool = True) -> None:
        self.first, self.total, self.images_per_step, self.show = step, total, images_per_step, show
        self.started = time.monotonic()
        self.shown = -SECONDS_BETWEEN_LINES
        self.terminal = sys.stderr.isatty()

    def show_step(self, step: int, losses: dict[str, float]) -> None:
        """Show where the training is."""
        now = time.monotonic()
        if not self.show or (not self.terminal and now - self.shown < SECONDS_BETWEEN_LINES and step < self.total):
            return
        self.shown = now
        rate = (step - self.first) / max(now - self.started, 1e-9)
        left = time_in_words((self.total - step) / rate) if rate else "unknown"
        values = ", ".join(f"{name} {value:.4f}" for name, value in losses.items())
        line = f"update {step}/{self.total}, loss {values}, {rate * self.images_per_step:.1f} images/s, {left} left"
        print(
            f"\r{line}\033[K" if self.terminal else line, end="" if self.terminal else "\n", file=sys.stderr, flush=True
        )

    def close(self) -> None:
        """End the redrawn line."""
        if self.show and self.terminal:
            print(file=sys.stderr)


def time_in_words(seconds: float) -> str:
    """Seconds as hours, minutes and seconds: 3 h 05 min, 4 min 10 s, 9 s."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


def drop_rows_after(log: Path, step: int) -> None:
    """Drop the rows that a resumed run will write again, and a last row cut off by a kill."""
    if log.is_file():
        kept = []
        for line in log.read_text(encoding="utf-8", errors="replace").split("\n"):
            with contextlib.suppress(json.JSONDecodeError, TypeError, KeyError):  # no row of ours
                if json.loads(line)["step"] <= step:
                    kept.append(line + "\n")
        write_whole(log, "".join(kept).encode())
