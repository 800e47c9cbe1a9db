"""Being asked to stop by a signal."""

from __future__ import annotations

import os
import signal
from concurrent.futures import ThreadPoolExecutor

import pytest

from trainer.training import StopRequest


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_signals_ask_for_a_stop_and_are_given_back_afterwards(name: str) -> None:
    number = getattr(signal, name)
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.made
        os.kill(os.getpid(), number)

    assert stop.made
    assert signal.getsignal(number) == before


def test_a_second_ctrl_c_stops_at_once() -> None:
    with StopRequest():
        os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


def test_in_another_thread_only_the_program_itself_asks() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with ThreadPoolExecutor(1) as pool:
        stop = pool.submit(lambda: StopRequest().__enter__()).result()
    stop.ask("because a test asks")

    assert (stop.made, stop.reason) == (True, "because a test asks")
    assert signal.getsignal(signal.SIGTERM) == before
