"""Time and money of a run, as the bar and the log show them."""

from __future__ import annotations

import pytest
from rich.console import Console

from trainer import metrics
from trainer.cli import _terminal, main
from trainer.run import Eta, duration
from trainer.tracking import NullLog


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def eta(clock: Clock, *, elapsed: float = 0.0, price: float | None = None) -> Eta:
    """Ten epochs of 100 steps of 64 images."""
    return Eta(elapsed=elapsed, price=price, total_steps=1000, images_per_step=64, epochs=10, clock=clock)


def values(images_per_second: float) -> dict[str, float]:
    return {metrics.THROUGHPUT: images_per_second}


def test_what_is_still_to_come_is_told_from_the_median_throughput() -> None:
    clock = Clock()
    spent = eta(clock, price=0.5)
    clock.now += 60
    spent.update(50, values(1.0))  # the start-up
    assert str(spent) == "1:00 $0.01"

    for step, throughput in ((60, 64.0), (70, 64.0), (80, 6.4), (90, 64.0)):
        spent.update(step, values(throughput))
    assert str(spent) == "1:00/16:10 $0.01/$0.13"  # 60 s, and 910 steps of a second

    spent.update(
        100, {metrics.VAL_TOP1: 0.1, metrics.EVALUATION_SECONDS: 120.0}
    )  # nine more, and two at the end
    assert str(spent) == "1:00/38:00 $0.01/$0.32"

    clock.now += 3600
    spent.update(1000, values(64.0))
    assert str(spent) == "1:01/1:05 h $0.51/$0.54"


def test_a_run_that_goes_on_adds_to_what_it_has_spent() -> None:
    clock = Clock()
    spent = eta(clock, elapsed=7200.0, price=1.5)
    clock.now += 40

    assert str(spent) == "2:00 h $3.02"


@pytest.mark.parametrize(("seconds", "text"), [(7 * 60 + 23.4, "7:23"), (59.9, "0:59"), (44_225, "12:17 h")])
def test_a_duration_has_minutes_or_hours(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_without_a_price_there_is_no_money() -> None:
    assert str(eta(Clock(), elapsed=59.0)) == "0:59"


@pytest.mark.parametrize("terminal", [False, True])
def test_the_log_and_the_bar_show_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], terminal: bool
) -> None:
    console = Console(stderr=True, force_terminal=terminal, width=160, soft_wrap=True, highlight=False)
    monkeypatch.setattr(_terminal, "console", console)
    _terminal.configure_logging()
    clock = Clock()
    shown = _terminal.ConsoleLog(NullLog(), eta(clock, price=0.5))
    with shown:
        clock.now += 60
        for step in (90, 100):
            shown.step_done(step)
            shown.log(step, values(64.0))
        if not terminal:
            shown.log(100, {metrics.VAL_TOP1: 0.5, metrics.VAL_TOP5: 0.9, metrics.VAL_LOSS: 1.0})

    assert "1:00/16:00 $0.01/$0.13" in capsys.readouterr().err


@pytest.mark.parametrize("given", [["--price", "free"], ["--price", "0"]])
def test_a_price_that_is_none_is_refused(given: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--data", "nowhere", *given])
    assert "--price" in capsys.readouterr().err


def test_the_price_may_come_from_the_environment(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRAINER_PRICE_PER_HOUR", "cheap")
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--data", "nowhere"])
    assert "--price" in capsys.readouterr().err

    monkeypatch.setenv("TRAINER_PRICE_PER_HOUR", "")  # as Compose hands on what is not set
    assert main(["train", "digits", "--data", "nowhere"]) == 2
