"""The sync of a run while it is trained, in a child process."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.errors import ProcessLost
from trainer.tracking._child import BackgroundChild
from trainer.tracking._history import read_journal
from trainer.tracking._sync import is_synced


class BackgroundSync:
    """A child process that syncs the run in `folder` to MLflow while it is trained.

        with BackgroundSync(folder) as background:   # after Journal.start
            ...                                      # train; Journal.finish
            complete = background.wait(60)           # False: `trainer sync` does the rest later

    The trainer itself never waits for a server. The child writes to `sync.log` in the run folder,
    survives a ^C on the terminal, and ends by itself soon after the trainer, whichever way that ends.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._child: BackgroundChild | None = None

    def __enter__(self) -> Self:
        if read_journal(self._folder).status != "running":
            raise ValueError("call Journal.start before BackgroundSync is entered")
        self._child = BackgroundChild(["sync", str(self._folder), "--follow"], self._folder / "sync.log")
        return self

    @property
    def pid(self) -> int:
        """Process id of the child."""
        assert self._child is not None
        return self._child.pid

    def wait(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds for the end of the sync: whether everything is in MLflow.

        MLflow is asked: that a child ended with 0 says nothing of what it did.
        """
        assert self._child is not None
        return self._child.wait(timeout) and is_synced(self._folder)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._child is not None
        if isinstance(error, ProcessLost):
            return  # all processes are about to be started again, with another sync
        if read_journal(self._folder).status != "running" and not self._child.wait(10):
            self._child.detach()  # it goes on alone, for as long as MLflow answers
