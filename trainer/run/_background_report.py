"""The report at the end of a training, made in a child process of low priority."""

from __future__ import annotations

import logging
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.errors import TrackingError
from trainer.tracking import REPORT, REPORT_PAGE, BackgroundChild, send_report

MESSAGES = "report.log"  # in the run folder: what the child says

logger = logging.getLogger(__name__)


class BackgroundReport:
    """A child process, of low priority, that writes the report of the run in `folder`.

    with BackgroundReport(folder) as report:
        page = report.wait(600)  # None: it failed, which is a warning and no more
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: BackgroundChild | None = None

    def __enter__(self) -> Self:
        try:
            self._child = BackgroundChild(["report", str(self._folder)], self._folder / MESSAGES)
        except OSError as error:
            logger.warning("the report cannot be made: %s", error.strerror or error)
        return self

    def wait(self, timeout: float) -> Path | None:
        """Wait at most `timeout` seconds for the report, send it to MLflow, and return its page."""
        page = self._folder / REPORT / REPORT_PAGE
        if self._child is None:
            return None
        if not self._child.wait(timeout) or not page.exists():
            logger.warning(
                "the report could not be made, %s says why; try again with: trainer report %s",
                self._folder / MESSAGES,
                self._folder,
            )
            return None
        try:
            send_report(self._folder)
        except TrackingError as error:
            logger.warning("%s", error)
        return page

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child and not self._child.wait(0):
            self._child.detach()  # it ends by itself
