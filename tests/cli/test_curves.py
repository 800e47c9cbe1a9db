"""The curves below a run's line: as long as the run, never wider than the terminal, and never in the way."""

from __future__ import annotations

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rich.console import Console

from trainer import metrics
from trainer.cli import _terminal
from trainer.cli._curves import KEPT, Curve, Curves
from trainer.run import Eta
from trainer.tracking import NullLog, Point


def drawn(curves: Curves, width: int) -> str:
    console = Console(width=width, force_terminal=True, color_system=None)
    with console.capture() as capture:
        console.print(curves, end="")
    return capture.get()


def test_a_curve_goes_from_its_lowest_to_its_highest_value() -> None:
    curve = Curve()
    for value in (3.0, 1.0, 2.0):
        curve.add(value)

    assert curve.drawn(10) == "█▁▅"


def test_a_curve_of_one_value_again_and_again_is_flat() -> None:
    curve = Curve()
    for _ in range(5):
        curve.add(0.1)

    assert curve.drawn(3) == "▁▁▁"


def test_a_long_run_is_shown_from_its_beginning_in_bounded_memory() -> None:
    curve = Curve()
    for step in range(100_000):
        curve.add(float(step))

    assert len(curve.values) < KEPT
    assert curve.values[0] < 1000
    assert curve.drawn(8) == "▁▂▃▄▅▆▇█"


def test_a_loss_that_is_no_number_leaves_no_hole() -> None:
    curves = Curves()
    for loss in (2.0, math.nan, math.inf, 1.0):
        curves.measured({metrics.TRAIN_LOSS: loss})

    assert drawn(curves, 80) == "loss █▁"


def test_nothing_is_shown_before_there_is_a_course() -> None:
    curves = Curves(lambda: 0.5)
    curves.measured({metrics.TRAIN_LOSS: 1.0})

    assert drawn(curves, 80) == ""


def test_the_shares_go_first_when_the_terminal_is_narrow() -> None:
    curves = Curves(lambda: 0.98)
    for value in (1.0, 0.5):
        curves.measured({metrics.TRAIN_LOSS: value, metrics.VAL_TOP1: value, metrics.DATA_WAIT: 0.02})

    assert drawn(curves, 80) == "loss █▁  top-1 █▁  GPU 98%  waiting for data 2%"
    assert drawn(curves, 45) == "loss █▁  top-1 █▁  GPU 98%"
    assert drawn(curves, 31) == "loss █▁  top-1 █▁"
    assert drawn(curves, 20) == "loss █▁"
    assert drawn(curves, 10) == ""


@given(
    width=st.integers(1, 200),
    losses=st.lists(st.floats(allow_nan=True, allow_infinity=True), max_size=300),
    top1=st.lists(st.floats(0, 1), max_size=30),
    wait=st.none() | st.floats(0, 1),
)
@example(width=14, losses=[1.7e308, -1.7e308] * 300, top1=[0.0, 5e-324], wait=None)
def test_no_values_make_it_wider_than_the_terminal(
    width: int, losses: list[float], top1: list[float], wait: float | None
) -> None:
    curves = Curves(lambda: wait)
    for loss in losses:
        curves.measured({metrics.TRAIN_LOSS: loss})
    for value in top1:
        curves.measured({metrics.VAL_TOP1: value})
    if wait is not None:
        curves.measured({metrics.DATA_WAIT: wait})

    assert len(drawn(curves, width)) <= width


@pytest.mark.parametrize(("rows", "shown"), [(24, True), (6, False)])
def test_a_run_that_goes_on_shows_its_course_from_the_beginning_where_there_is_room(
    rows: int, shown: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(stderr=True, force_terminal=True, width=80, height=rows, soft_wrap=True)
    monkeypatch.setattr(_terminal, "console", console)
    eta = Eta(elapsed=60.0, price=None, total_steps=100, images_per_step=64, epochs=10, clock=lambda: 0.0)
    earlier = [Point(metrics.VAL_TOP1, step, value, 0) for step, value in ((10, 0.1), (20, 0.3))]

    with _terminal.ConsoleLog(NullLog(), eta, earlier) as log:
        log.truncate_after(20)

    assert ("top-1 ▁█" in capsys.readouterr().err) is shown
