"""Starting a command in several processes, as seen by whoever asks for it."""

from __future__ import annotations

import os
import signal

import pytest

from trainer.run._launch import SIGNALS, launch


@pytest.mark.slow
def test_the_caller_keeps_its_signal_handlers_and_environment() -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    environment = dict(os.environ)

    assert launch(["--version"], 2, timeout=60) == 0
    assert launch(["train", "no-such-recipe", "--data", "nowhere"], 2, timeout=60) == 2
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert dict(os.environ) == environment
