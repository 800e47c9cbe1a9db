"""A first step that takes long says how long."""

from __future__ import annotations

import logging

import pytest

from trainer.training._first_step import FirstStep


def said(seconds: list[float], *, images: int = 1024, micro_batches: int = 16) -> str:
    """What is said while micro-batches end at these times."""
    lines: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]
    logger = logging.getLogger("trainer.training._first_step")
    logger.addHandler(handler)
    level, logger.level = logger.level, logging.INFO
    times = iter([0.0, *seconds])
    first = FirstStep(images, micro_batches, clock=lambda: next(times))
    for _ in seconds:
        first.micro_batch_done()
    logger.removeHandler(handler)
    logger.level = level
    assert len(lines) < 2
    return lines[0] if lines else ""


def test_a_long_step_says_so_after_its_second_part() -> None:
    assert "a step of 1,024 images takes about 2:40 here, in 16 parts of 64 images" in said([40, 50, 60, 70])


@pytest.mark.parametrize("seconds", [[100], [40, 41, 42], []])
def test_compiling_is_no_step_and_a_short_one_says_nothing(seconds: list[float]) -> None:
    assert said(seconds) == ""


def test_of_two_parts_the_first_one_tells() -> None:
    assert "about 1:00 here, in 2 parts of 512 images" in said([30], micro_batches=2)
