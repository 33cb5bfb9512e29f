"""SIGTERM is noted while a training runs, and ends the process again afterwards."""

import os
import signal
import threading

from wbc_diffusers.training.stopping import StopSignal


def test_sigterm_is_noted_within_the_block_and_the_handler_before_comes_back():
    heard = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: heard.append(number))
    try:
        with StopSignal() as stop:
            assert not stop.given
            os.kill(os.getpid(), signal.SIGTERM)
            assert stop.given
        assert not heard
        os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_block_that_is_cut_short_ends_at_the_signal_and_the_program_goes_on():
    steps = []
    with StopSignal() as stop:
        with stop.cutting_short():
            steps.append("begun")
            os.kill(os.getpid(), signal.SIGTERM)
            steps.append("finished")
        os.kill(os.getpid(), signal.SIGTERM)  # outside of such a block it is only noted
        steps.append("after")
    assert stop.given
    assert steps == ["begun", "after"]


def test_a_training_in_another_thread_leaves_the_handler_alone():
    before, found = signal.getsignal(signal.SIGTERM), []

    def train() -> None:
        with StopSignal() as stop:
            found.append((stop.given, signal.getsignal(signal.SIGTERM)))

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [(False, before)]
