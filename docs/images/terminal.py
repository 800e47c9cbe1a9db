"""What `trainer train` shows on a terminal, as an SVG: a real run's journal, replayed through the code that shows it.

python docs/images/terminal.py RUN FILE.svg [COLUMNS]     RUN: folder of a finished run; see scripts/screenshots
"""

from __future__ import annotations

import io
import json
import logging
import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from trainer import metrics
from trainer.cli import _terminal, _train
from trainer.run import Eta, TrainOptions, read_result
from trainer.tracking import NullLog, read_journal

SHOWN = 5  # epochs at the end of the run
MLFLOW = "http://127.0.0.1:5000/#/experiments/1"  # as the stack publishes it


def main(run: Path, file: Path, columns: int = 100) -> None:
    """Draw `run` into `file`."""
    history, result = read_journal(run), read_result(run)
    assert result is not None, f"{run} is not finished"
    params = history.params
    start = min(point.time for point in history.points) / 1000
    now = [start]
    last = max(point.step for point in history.points if point.key == metrics.VAL_TOP1)
    eta = Eta(
        elapsed=0,
        price=None,
        total_steps=last,
        images_per_step=int(params["global_batch"]),
        epochs=int(params["epochs"]),
        clock=lambda: now[0],
    )
    options: dict[str, Any] = {"highlight": False, "soft_wrap": True, "markup": False, "emoji": False}
    console = Console(record=True, force_terminal=True, width=columns, file=io.StringIO(), **options)
    _terminal.console = _terminal._results = console
    os.environ["TRAINER_RUNS_DIR"] = "runs"  # as compose.yaml does
    _terminal.configure_logging()
    console.print("$ docker compose up trainer", style="bold green")
    make = logging.getLogRecordFactory()

    def of_then(*arguments: Any, **more: Any) -> logging.LogRecord:
        record = make(*arguments, **more)
        record.created = now[0]
        return record

    logging.setLogRecordFactory(of_then)
    log = _terminal.ConsoleLog(NullLog(), eta)
    measured: dict[tuple[int, int], dict[str, float]] = {}
    for point in history.points:
        measured.setdefault((point.time, point.step), {})[point.key] = point.value
    middle = max((point.step for point in history.points if point.step < last), default=0)
    skipped = last - SHOWN * eta.steps_per_epoch
    for (time, step), values in sorted(measured.items()):
        now[0] = time / 1000
        console.quiet = step <= skipped
        log.step_done(step)
        log.log(step, values)
        if step == last and metrics.VAL_TOP1 in values:
            break
        if step == middle and hasattr(log, "line"):
            console.print(log.line)  # as they are then; they are gone when the run is over
            console.print()
            console.print(log.curves)
            console.print()  # they have no ends of their own
    console.quiet = False
    _train._show(
        replace(
            result,
            again=False,
            run=f"/runs/{run.name}",
            report=result.report and f"/runs/{run.name}/report/report.html",
            url=f"{MLFLOW}/runs/{result.run_id}",
        ),
        TrainOptions(recipe=str(params["name"]), data=Path("/data"), runs=Path("/runs")),
    )
    file.write_text(console.export_svg(title=f"{params['name']} on {result.device}"), encoding="utf-8")
    print(json.dumps({"run": run.name, "svg": str(file)}))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:]))
