"""Starting a command in several processes, as seen by whoever asks for it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

from trainer.errors import ProcessLost
from trainer.run._launch import SIGNALS, launch


@pytest.mark.slow
def test_the_caller_keeps_its_signal_handlers_and_environment(tmp_path: Path) -> None:
    handlers = [signal.getsignal(number) for number in SIGNALS]
    environment = dict(os.environ)

    with pytest.raises(ProcessLost, match=r"exit code 0 but without a result, result\.json"):
        launch(["--version"], 2, result=tmp_path / "result.json", timeout=60)
    command = ["train", "no-such-recipe", "--data", "nowhere"]
    assert launch(command, 2, result=tmp_path / "result.json", timeout=60) == 2
    assert [signal.getsignal(number) for number in SIGNALS] == handlers
    assert dict(os.environ) == environment
