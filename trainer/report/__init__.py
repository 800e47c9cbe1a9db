"""The report of a run: one page to look at, its pictures and tables, and the training log that a course wants."""

from trainer.report._facts import Run
from trainer.report._log import Log, log_of, read_log
from trainer.report._report import OTHERS, Report, write_report

__all__ = ["OTHERS", "Log", "Report", "Run", "log_of", "read_log", "write_report"]
