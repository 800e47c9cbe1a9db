"""What a terminal shows during a run: on one line at any width, moving with each step.

The pictures are in tests/cli/terminal; after a change that is meant, look at them and `UPDATE=1 pytest` this file.
"""

from __future__ import annotations

import io
import math
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from trainer import metrics
from trainer.cli import _terminal
from trainer.cli._curves import Curves
from trainer.cli._live_line import LiveLine, epoch_line
from trainer.run import Eta
from trainer.tracking import NullLog

PICTURES = Path(__file__).parent / "terminal"
STEPS_PER_EPOCH, EPOCHS, BATCH = 1251, 90, 1024
TRAINED = {
    metrics.TRAIN_LOSS: 2.4123,
    metrics.LR: 0.30214,
    metrics.THROUGHPUT: 402.0,
    metrics.DATA_WAIT: 0.02,
}
EVALUATED = {metrics.VAL_TOP1: 0.43124, metrics.VAL_TOP5: 0.68771, metrics.VAL_LOSS: 2.6101}


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def drawn(line: object, width: int) -> str:
    """The line on a terminal of `width` columns, without its colours."""
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=True, color_system="truecolor").print(line, end="")
    text = Text.from_ansi(out.getvalue()).plain
    assert "\n" not in text
    return text.rstrip()


def done_columns(line: object) -> int:
    """Columns of the bar that are done: all that there are without colours."""
    out = io.StringIO()
    Console(file=out, width=80, force_terminal=True, color_system=None).print(line)
    return out.getvalue().count("━")


def pictures(width: int) -> Iterator[tuple[str, str]]:
    """A run of ImageNet on a T4, by and by."""
    clock = Clock()
    eta = Eta(
        elapsed=0.0,
        price=0.526,
        total_steps=STEPS_PER_EPOCH * EPOCHS,
        images_per_step=BATCH,
        epochs=EPOCHS,
        clock=clock,
    )
    line, curves = LiveLine(eta), Curves(lambda: 0.97)
    clock.now += 75
    yield "before the first step", drawn(line, width)

    step = 0

    def train(until: int) -> None:
        nonlocal step
        while step < until:
            step += 1
            clock.now += BATCH / 402
            line.step_done(step)
            if step % 50 == 0 or step % STEPS_PER_EPOCH == 0:
                line.measured(TRAINED)
                eta.update(step, TRAINED)
                curves.measured({**TRAINED, metrics.TRAIN_LOSS: 1.8 + 5 * math.exp(-step / 9000)})

    def evaluate() -> None:
        clock.now += 130
        values = {**EVALUATED, metrics.EVALUATION_SECONDS: 130.0}
        eta.update(step, values)
        line.measured(values)
        curves.measured({metrics.VAL_TOP1: 0.6 - 0.6 * math.exp(-step / 30_000)})

    train(30)
    yield "before the first measurement", drawn(line, width)
    train(640)
    yield "in the first epoch", drawn(line, width)
    yield "curves in the first epoch", drawn(curves, width)
    for epoch in range(1, 14):
        train(epoch * STEPS_PER_EPOCH)
        if epoch == 13:
            yield "during an evaluation", drawn(line, width)
        evaluate()
    stamp = "12:17:04 "
    yield "of an epoch", stamp + epoch_line(step, EVALUATED, "402/s", eta, width - len(stamp))
    train(step + 700)
    yield "in the middle", drawn(line, width)
    yield "curves in the middle", drawn(curves, width)
    for epoch in range(14, EPOCHS + 1):
        train(epoch * STEPS_PER_EPOCH)
        evaluate()
    yield "at the end", drawn(line, width)
    yield "curves at the end", drawn(curves, width)


@pytest.mark.parametrize("width", [80, 100, 120])
def test_a_run_of_imagenet_looks_as_it_was_looked_at(width: int) -> None:
    shown = [f"{what}:\n{text}\n" for what, text in pictures(width)]
    picture = PICTURES / f"{width}-columns.txt"
    if os.environ.get("UPDATE"):
        picture.write_text("\n".join(shown))

    assert "\n".join(shown) == picture.read_text()
    assert all(len(line) <= width for line in "".join(shown).splitlines())


def test_the_line_of_an_epoch_has_84_characters_at_most() -> None:
    eta = Eta(
        elapsed=44_000, price=0.526, total_steps=112_590, images_per_step=1024, epochs=90, clock=Clock()
    )
    for throughput in (300.0, 402.0):
        eta.update(16_263, {metrics.THROUGHPUT: throughput})

    line = epoch_line(16_263, EVALUATED, "402/s", eta, 0)

    assert line == "epoch 13/90 top-1 43.12% top-5 68.77% loss 2.610 402/s 12:13/80:22 h $6.43/$42.28"
    assert len(line) <= 84


@given(
    width=st.integers(10, 200),
    epochs=st.integers(1, 9999),
    hours=st.floats(0, 9999),
    price=st.none() | st.floats(0.01, 300),
    loss=st.floats(0, 1e6),
    lr=st.floats(1e-9, 1e3),
    speed=st.floats(0.01, 1e6),
)
def test_no_number_breaks_the_line(
    width: int, epochs: int, hours: float, price: float | None, loss: float, lr: float, speed: float
) -> None:
    eta = Eta(
        elapsed=3600 * hours,
        price=price,
        total_steps=epochs * 1000,
        images_per_step=64,
        epochs=epochs,
        clock=Clock(),
    )
    line = LiveLine(eta)
    line.step_done(epochs * 500)
    for _ in range(2):
        eta.update(epochs * 500, {metrics.THROUGHPUT: speed})
    line.measured({metrics.TRAIN_LOSS: loss, metrics.LR: lr, metrics.VAL_TOP1: 1.0})

    assert len(drawn(line, width)) <= width


def test_the_bar_moves_with_each_step_whatever_the_log_interval(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    console = Console(stderr=True, force_terminal=True, width=80, soft_wrap=True, highlight=False)
    monkeypatch.setattr(_terminal, "console", console)
    eta = Eta(elapsed=0.0, price=None, total_steps=100, images_per_step=64, epochs=10, clock=Clock())
    shown = _terminal.ConsoleLog(NullLog(), eta)
    with shown:
        seen = []
        for step in range(1, 12):
            shown.step_done(step)
            seen.append((drawn(shown.line, 80), done_columns(shown.line)))

    assert "epoch 2/10" in capsys.readouterr().err
    columns = [done for _, done in seen]
    assert columns[:10] == sorted(set(columns[:10])), "a step of ten is some columns more"
    assert "epoch 1/10" in seen[9][0]
    assert "validating" in seen[9][0]
    assert "epoch 2/10" in seen[10][0]
    assert columns[10] < columns[9]


def test_a_run_that_goes_on_shows_no_throughput_before_it_is_known(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(_terminal, "console", Console(stderr=True, width=160, soft_wrap=True))
    _terminal.configure_logging()
    eta = Eta(elapsed=60.0, price=None, total_steps=100, images_per_step=64, epochs=10, clock=Clock())
    with _terminal.ConsoleLog(NullLog(), eta) as shown:
        shown.truncate_after(10)
        shown.log(10, {**EVALUATED, metrics.EVALUATION_SECONDS: 1.0})  # it was stopped before its evaluation

    assert "epoch 1/10 top-1 43.12% top-5 68.77% loss 2.610 1:00\n" in capsys.readouterr().err
