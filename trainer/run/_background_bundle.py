"""The bundle at the end of a training, made of the registered version in a child process and logged to it."""

from __future__ import annotations

import logging
import os
import shlex
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer.config import DeviceChoice
from trainer.tracking import BUNDLE, BUNDLE_LOG, BackgroundChild, Registered, is_bundle_of

logger = logging.getLogger(__name__)


class BackgroundBundle:
    """A child process, of low priority, that exports the model which the run in `folder` has registered.

    with BackgroundBundle(folder, registered, "auto") as bundle:
        path = bundle.wait(3600)  # None: it failed, which is a warning and no more
    """

    def __init__(self, folder: Path, registered: Registered, device: DeviceChoice) -> None:
        self._folder, self._registered, self._bundle = folder, registered, folder / BUNDLE
        runs = Path(os.path.abspath(folder)).parent  # by its name: the run folder may be a link to elsewhere
        where = ["--runs", str(runs), "--out", str(self._bundle)]
        self._arguments = ["export", registered.uri, *where, "--log"]
        self._device = ["--device", device]
        self._child: BackgroundChild | None = None

    def __enter__(self) -> Self:
        messages = self._folder / BUNDLE_LOG
        try:
            self._child = BackgroundChild([*self._arguments, *self._device], messages, all_cores=True)
            logger.info("the bundle for a Jetson is exported and measured; %s says how far it is", messages)
        except OSError as error:
            logger.warning("the bundle cannot be made: %s", error.strerror or error)
        return self

    def wait(self, timeout: float) -> Path | None:
        """Wait at most `timeout` seconds until the bundle is made and logged, and return its folder.

        None if there is none of this version; a child that takes longer goes on alone.
        """
        if self._child is None:
            return None
        if self._child.wait(timeout):
            return self._bundle
        messages, again = self._folder / BUNDLE_LOG, shlex.join(self._arguments)
        if self._child.is_running():
            logger.warning(
                "the bundle is not made and sent after %g minutes; that goes on, and %s says how far it is; if it "
                "ends without: trainer %s",
                timeout / 60,
                messages,
                again,
            )
        else:
            logger.warning(
                "the bundle could not be made or sent, %s says why; try again with: trainer %s",
                messages,
                again,
            )
        # One that was made and not sent is this run's all the same; what lies there may be of an earlier version.
        return self._bundle if is_bundle_of(self._registered, self._bundle) else None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._child and not self._child.wait(0):
            self._child.detach()  # it ends by itself
