"""The line that tells how far a training is, and the log of one that goes on."""

import io
import sys
from pathlib import Path

import pytest

from wbc_diffusers.training.progress import Progress, drop_rows_after, time_in_words


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min 00 s"),
        (250, "4 min 10 s"),
        (11100, "3 h 05 min"),
    ],
)
def test_time_in_words(seconds: float, words: str) -> None:
    assert time_in_words(seconds) == words


def test_the_rate_is_that_of_this_run_and_the_time_left_follows_from_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    clock = iter([100.0, 150.0])
    monkeypatch.setattr("time.monotonic", lambda: next(clock))
    Progress(step=500, total=1000, images_per_step=20).show_step(600, {"unet": 0.25})
    # 100 updates in 50 s are 2 a second: 40 images, and 200 s for the 400 that are left
    assert capsys.readouterr().err == "update 600/1000, loss unet 0.2500, 40.0 images/s, 3 min 20 s left\n"


def test_a_log_file_gets_a_line_every_half_minute_and_the_last(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = 0.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    progress = Progress(0, 100, 1)
    for step in range(1, 101):
        now = step * 1.0
        progress.show_step(step, {})
    lines = capsys.readouterr().err.splitlines()
    assert [line.split("/")[0] for line in lines] == [f"update {n}" for n in (1, 31, 61, 91, 100)]


def test_a_terminal_gets_one_line_that_is_redrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    progress = Progress(0, 10, 1)
    for step in (1, 2):
        progress.show_step(step, {})
    progress.close()
    assert terminal.getvalue().count("\n") == 1
    assert terminal.getvalue().count("\r") == 2


def test_rows_of_updates_that_come_again_are_dropped_with_a_row_cut_off(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    log.write_bytes(b'{"step": 1}\n5\n{"note": "none of ours"}\n\xff\n{"step": 2}\n{"step": 3}\n{"st')
    drop_rows_after(log, 2)
    assert log.read_text() == '{"step": 1}\n{"step": 2}\n'
