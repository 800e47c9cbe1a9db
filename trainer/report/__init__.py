"""The report of a run: one page to look at, its pictures and tables, and the training log that a course wants."""

from trainer.report._compare import (
    AXES,
    ComparedRun,
    Group,
    apart,
    as_data,
    compare,
    compare_page,
    compare_svg,
    ema_of,
    extensions,
    mark_of,
    number_of,
    settings_of,
)
from trainer.report._facts import Run
from trainer.report._log import Log, log_of, read_log
from trainer.report._report import OTHERS, Report, write_report

__all__ = [
    "AXES",
    "OTHERS",
    "ComparedRun",
    "Group",
    "Log",
    "Report",
    "Run",
    "apart",
    "as_data",
    "compare",
    "compare_page",
    "compare_svg",
    "ema_of",
    "extensions",
    "log_of",
    "mark_of",
    "number_of",
    "read_log",
    "settings_of",
    "write_report",
]
