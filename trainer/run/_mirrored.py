"""The mirror of a run, kept by a child process: an upload in a thread would take the GIL from the training steps."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from types import TracebackType
from typing import Self

from trainer import ranks
from trainer.errors import ConfigError, MirrorError, ProcessLost
from trainer.mirror import LAST_SECONDS, check_address, read_state
from trainer.run._options import StartOptions
from trainer.run._plan import Plan, differences
from trainer.run._result import read_result
from trainer.tracking import BackgroundChild, tag_run

END_SECONDS = 600.0  # that a trained run waits for its model to be in the mirror
MIRROR = "mirror"  # the tag of the run in MLflow

logger = logging.getLogger(__name__)


class Mirrored:
    """Keeps the mirror of a run while the context lasts; does nothing without --runs-remote, or where rank 0 is not.

    with Mirrored(options) as mirror:
        plan = mirror.restore(plan)   # what another machine has done of it
        ...                           # train
    """

    def __init__(self, options: StartOptions) -> None:
        self._options = options
        self._url = options.runs_remote
        if self._url:
            check_address(self._url)
        self._mirrors = bool(self._url) and not ranks.launched_by_trainer() and ranks.rank() == 0
        self._child: BackgroundChild | None = None
        self._plan: Plan | None = None
        self._listener: threading.Thread | None = None
        self._ending = False

    def __enter__(self) -> Self:
        return self

    def restore(self, plan: Plan) -> Plan:
        """Claim the mirror of the run, and fetch what is there if it is further than the run folder.

        Raises: MirrorError if another machine trains the run, or the mirror cannot be used; ConfigError if what is
            there was begun with other settings.
        """
        if not self._mirrors:
            return plan
        self._end(LAST_SECONDS)  # of another plan
        if not ranks.under_torchrun():
            from trainer.run._preflight import wait_for_spot_end

            wait_for_spot_end()  # without the lease, which whoever takes this machine's place wants
        assert self._url is not None
        folder, options = plan.folder, self._options
        pace = {
            "--mirror-every": options.mirror_every,
            "--checkpoint-interval": options.checkpoint_interval,
            "--epoch-steps": plan.recipe.steps_per_epoch(len(plan.dataset.train)),
            "--runs-remote": self._url,
        }
        # A finished run shows its result, whatever its mirror is like.
        flags = ["--follow", *(["--unmirrored"] if options.unmirrored or read_result(folder) else [])]
        arguments = ["mirror", str(folder), *flags, *(f"{name}={value}" for name, value in pace.items())]
        messages = folder.with_name(f".{folder.name}.mirror.log")
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._plan, self._child = plan, BackgroundChild(arguments, messages, talk=True)
        except OSError as error:
            raise ConfigError(
                f"--runs {folder.parent} cannot be written: {error.strerror or error}; choose another"
            ) from None
        for kind, text in self._heard():
            if kind == "refused":
                raise MirrorError(text)
            if kind == "ready":
                break
            _log(kind, text)
        else:
            raise MirrorError(f"the mirror's process ended without a word; {messages} says why")
        self._ending = False
        self._listener = threading.Thread(target=self._listen, name="hear-mirror", daemon=True)
        self._listener.start()
        if text == "restored":
            logger.info("%s is restored from %s", folder, self._url)
            if others := differences(folder, plan.recipe, plan.dataset, plan.parent):
                raise ConfigError(
                    f"the run in {self._url}/{folder.name} was begun with {others}; go on with its own settings "
                    "(--set KEY=VALUE), or give the new run another --name"
                )
        return plan

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if isinstance(error, ProcessLost):  # all processes are about to be started again, with another mirror
            self._let_go()
        else:
            self._end(END_SECONDS if error is None else LAST_SECONDS)

    def _end(self, seconds: float) -> None:
        """Wait for the last upload; say if it does not succeed."""
        if self._child is None or self._plan is None:
            return
        child, folder, began = self._child, self._plan.folder, self._listener is not None
        self._ending, seconds = True, seconds if began else 1
        if child.is_running():
            with suppress(OSError):
                assert child.input is not None
                child.input.write(f"{seconds}\n".encode())
                child.input.flush()
        begun = time.monotonic()
        if not (done := child.wait(2)) and child.is_running() and began:
            logger.info("what is new goes to %s; it may take %g seconds", self._url, seconds)
            done = child.wait(seconds + 3)
        in_time = not child.is_running() and time.monotonic() - begun < seconds
        self._let_go()
        if not began:  # it was refused, or stopped before
            return
        state = read_state(folder)
        if folder.exists() and not (done and state and not state.behind):
            why = "its process ended too early" if in_time else f"not all was sent in {seconds:g} seconds"
            why = state.behind if state and state.behind else why
            logger.warning("the mirror is behind: %s; send the rest with: trainer mirror %s", why, folder)
            tag_run(folder, MIRROR, f"{self._url}: BEHIND, {why}")

    def _let_go(self) -> None:
        child, listener = self._child, self._listener
        self._child = self._listener = None
        if child is None:
            return
        if child.is_running():
            child.detach()
        elif listener:
            listener.join()  # to the end of what it has said
        for pipe in (child.input, child.output):
            with suppress(OSError):  # nobody reads it any more
                if pipe and not (pipe is child.output and child.is_running()):
                    pipe.close()

    def _heard(self) -> Iterator[tuple[str, str]]:
        """What the child says, as long as it lives."""
        assert self._child is not None
        assert self._child.output is not None
        for line in self._child.output:
            with suppress(ValueError, LookupError):
                told = json.loads(line)
                yield told["kind"], told["text"]

    def _listen(self) -> None:
        for kind, text in self._heard():
            _log(kind, text)
        if not self._ending:
            logger.warning("the mirror's process has ended; this run goes on without a mirror")


def _log(kind: str, text: str) -> None:
    logger.log(logging.WARNING if kind == "warning" else logging.INFO, "%s", text)
