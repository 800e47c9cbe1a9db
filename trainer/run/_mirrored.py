"""The mirror of a run, kept by a child process: an upload in a thread would take the GIL from the training steps."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Self

from trainer import ranks
from trainer.errors import ConfigError, MirrorError, ProcessLost
from trainer.mirror import LAST_SECONDS, check_address, read_state
from trainer.run._mirror import MIRROR
from trainer.run._options import StartOptions
from trainer.run._plan import Plan, differences
from trainer.run._result import read_result
from trainer.tracking import BackgroundChild, tag_run

END_SECONDS = 600.0  # that a trained run waits for its model to be in the mirror
NOTHING_NEW_SECONDS = 5.0  # that a start waits which has brought nothing new
FIRST_PAUSE, LONGEST_PAUSE = 10.0, 600.0  # seconds, before the mirror's process is started again

logger = logging.getLogger(__name__)


class Mirrored:
    """Keeps the mirror of a run while the context lasts; does nothing without --runs-remote, or where rank 0 is not.

    with Mirrored(options) as mirror:
        mirror.restore(plan)   # what another machine has done of it
        ...                           # train
    """

    def __init__(self, options: StartOptions) -> None:
        self._options = options
        self._url = options.runs_remote
        if self._url:
            check_address(self._url, options.runs)
        self._mirrors = bool(self._url) and not ranks.launched_by_trainer() and ranks.rank() == 0
        self._child: BackgroundChild | None = None
        self._plan: Plan | None = None
        self._listener: threading.Thread | None = None
        self._ending = threading.Event()
        self._lock = threading.Lock()  # of the child, which another may follow
        self._began: object = None  # what the journal was when the mirror was ready

    def __enter__(self) -> Self:
        return self

    def restore(self, plan: Plan) -> None:
        """Claim the mirror of the run, and fetch what is there if it is further than the run folder.

        Raises: MirrorError if another machine trains the run, or the mirror cannot be used; ConfigError if what is
            there was begun with other settings.
        """
        if not self._mirrors:
            return
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
        arguments = ["mirror", str(folder), "--follow", *(f"{name}={value}" for name, value in pace.items())]
        messages = folder.with_name(f".{folder.name}.mirror.log")

        def start(*flags: str) -> BackgroundChild:
            return BackgroundChild([*arguments, *flags], messages, talk=True)

        # A finished run shows its result, whatever its mirror is like; what is missing there, is sent beside that.
        if finished := read_result(folder) is not None:
            state = read_state(folder)
            if state and state.remote == self._url and not state.behind:
                return
        flags = ["--begun"] if finished else ["--unmirrored"] if options.unmirrored else []
        try:
            folder.parent.mkdir(parents=True, exist_ok=True)
            self._plan, self._child = plan, start(*flags)
        except OSError as error:
            raise ConfigError(
                f"--runs {folder.parent} cannot be written: {error.strerror or error}; choose another"
            ) from None
        for kind, text in _heard(self._child):
            if kind == "refused":
                raise MirrorError(text)
            if kind == "ready":
                break
            _log(kind, text)
        else:
            raise MirrorError(f"the mirror's process ended without a word; {messages} says why")
        self._ending.clear()
        self._began = _journal(folder)
        again = partial(start, "--begun")
        self._listener = threading.Thread(target=self._listen, args=(again,), name="hear-mirror", daemon=True)
        self._listener.start()
        if text == "restored":
            logger.info("%s is restored from %s", folder, self._url)
            if others := differences(folder, plan.recipe, plan.dataset, plan.parent):
                raise ConfigError(
                    f"the run in {self._url}/{folder.name} was begun with {others}; go on with its own settings "
                    "(--set KEY=VALUE), or give the new run another --name"
                )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # All processes are about to be started again, with another mirror; or the user wants to wait no more.
        if isinstance(error, ProcessLost) or (isinstance(error, KeyboardInterrupt) and self._listener):
            self._let_go()
        else:
            self._end(END_SECONDS if error is None else LAST_SECONDS)

    def _end(self, seconds: float) -> None:
        """Wait for the last upload; say if it does not succeed."""
        if self._child is None or self._plan is None:
            return
        with self._lock:
            self._ending.set()
        child, folder, began = self._child, self._plan.folder, self._listener is not None
        if began and _journal(folder) == self._began:
            seconds = NOTHING_NEW_SECONDS
        seconds = seconds if began else 1
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
        with self._lock:
            self._ending.set()
        child, listener = self._child, self._listener
        self._child = self._listener = None
        if child is None:
            return
        if child.is_running():
            child.detach()
        elif listener:
            listener.join()  # to the end of what it has said
        child.close()

    def _listen(self, again: Callable[[], BackgroundChild]) -> None:
        """Hand on what the child says, and start it again if it dies, as of too little memory."""
        pause, child = FIRST_PAUSE, self._child
        while child:
            for kind, text in _heard(child):
                if kind != "ready":
                    _log(kind, text)
            if self._ending.is_set():
                return
            logger.warning("the mirror's process has ended; it is started again in %g s", pause)
            if self._ending.wait(pause):
                return
            pause = min(4 * pause, LONGEST_PAUSE)
            with self._lock, suppress(OSError):  # of a machine that can start none now
                if self._ending.is_set():
                    return
                old, self._child = child, again()
                child = self._child
                old.close()


def _heard(child: BackgroundChild) -> Iterator[tuple[str, str]]:
    """What the child says, as long as it lives."""
    assert child.output is not None
    for line in child.output:
        with suppress(ValueError, LookupError):
            told = json.loads(line)
            yield told["kind"], told["text"]


def _journal(folder: Path) -> object:
    """What changes with the journal of a run."""
    with suppress(OSError):
        status = (folder / "journal.jsonl").stat()
        return status.st_mtime_ns, status.st_size
    return None


def _log(kind: str, text: str) -> None:
    logger.log(logging.INFO if kind == "info" else logging.WARNING, "%s", text)
