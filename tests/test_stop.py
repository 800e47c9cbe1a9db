"""Being asked to stop by a signal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from threading import Timer

import psutil
import pytest

from trainer.errors import Stopped
from trainer.stop import StopRequest, stop_at_once


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


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_outside_of_training_a_stop_ends_what_is_waited_for(number: int) -> None:
    tidied: list[str] = []

    def wait_for_a_server() -> None:
        Timer(0.2, os.kill, (os.getpid(), number)).start()
        try:
            while True:
                with suppress(Exception):  # as a request that is tried again
                    time.sleep(20)
        finally:
            os.kill(os.getpid(), number)  # a second one, while the first is heeded
            tidied.append("the folder")

    before, begun = signal.getsignal(number), time.monotonic()
    with pytest.raises(Stopped, match="stopped on request; go on later"), stop_at_once("go on later"):
        wait_for_a_server()

    assert tidied
    assert time.monotonic() - begun < 19
    assert signal.getsignal(number) == before


def test_what_waits_in_a_library_and_heeds_no_signal_is_ended_all_the_same() -> None:
    """In a lock of C, which is taken again after each signal, as gloo waits for a process that is no more."""
    program = (
        "import ctypes, trainer.stop as stop\n"
        "stop.GRACE = 0.2\n"
        "with stop.stop_at_once('go on later'):\n"
        "    c, lock = ctypes.CDLL(None), ctypes.create_string_buffer(128)\n"
        "    c.pthread_mutex_lock(lock)\n"
        "    print('it waits', flush=True)\n"
        "    c.pthread_mutex_lock(lock)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as waiting:
        assert waiting.stdout is not None
        waiting.stdout.readline()
        while psutil.Process(waiting.pid).status() != psutil.STATUS_SLEEPING:
            assert waiting.poll() is None
        waiting.send_signal(signal.SIGTERM)
        _, err = waiting.communicate(timeout=300)

    assert waiting.returncode == 75
    assert err == "trainer: stopped on request; go on later\n"
