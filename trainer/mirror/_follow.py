"""The mirror while a run is trained: claimed, fetched from where it is further, and kept up to date from then on."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

from trainer.errors import ConfigError, MirrorError
from trainer.files import read_json, write_json
from trainer.mirror._lease import LEAST, SECONDS, Taken
from trainer.mirror._mirror import LAST_SECONDS, PAUSES, Mirror, begins_anew, lock_mirror, try_again
from trainer.mirror._snapshot import STATE, newest_checkpoint
from trainer.mirror._store import open_store

LONGEST_PAUSE = 60.0  # seconds between two tries at a mirror that cannot be used
LAST_TRIES = 6  # at the last upload
TOLD_AFTER = 2  # failed tries in a row: S3 may answer 503 at any time

Tell = Callable[[str, str], None]  # what kind of news it is: ready, refused, warning or info; and the news


class Parent(Protocol):
    """The trainer in whose background this works."""

    def is_gone(self) -> bool:
        """Whether it has ended."""


class Finish:
    """Being asked for the last upload, and for how many seconds."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def ask(self, seconds: float) -> None:
        """Ask; this process ends then, also while it waits for a server. Any thread may."""
        _end_in(seconds)
        self.asked.set()


@dataclass(frozen=True)
class Pace:
    """How often a mirror is brought up to date."""

    every: float  # seconds that it may be behind
    checkpoint_interval: float  # seconds between two checkpoints
    epoch_steps: int  # steps of an epoch, after each of which it is brought up to date as well

    @property
    def lease_seconds(self) -> float:
        """Seconds after which the machine that does it may be called dead."""
        return min(SECONDS, max(LEAST, self.every))

    def is_due(self, step: int, mirrored: int, age: float, took: float) -> bool:
        """Whether a newer checkpoint is to go up: after an epoch, or if the next one would come too late.

        Args:
            step: of the newest checkpoint.
            mirrored: of the newest in the mirror; -1: none.
            age: seconds since that was saved.
            took: seconds of the last upload.
        """
        if step <= mirrored:
            return False
        after_epoch = mirrored < 0 or step // self.epoch_steps > mirrored // self.epoch_steps
        return after_epoch or age + self.checkpoint_interval + took >= self.every


@dataclass(frozen=True)
class State:
    """How far the mirror of a run is, as its run folder says."""

    remote: str
    step: int = -1  # optimizer steps of the newest checkpoint there; -1: none
    behind: str = "nothing is there yet"  # why it has less than the run folder; empty if it has all

    def __str__(self) -> str:
        return f"{self.remote}: " + (f"BEHIND, {self.behind}" if self.behind else "all is there")


def read_state(folder: Path) -> State | None:
    """How far the mirror of the run in `folder` is; None if it has none."""
    with suppress(OSError, ValueError, TypeError):
        return State(**read_json(folder / STATE))
    return None


def write_state(folder: Path, state: State) -> None:
    """Note in the run folder how far its mirror is. Raises: OSError."""
    write_json(folder / STATE, asdict(state))


def follow(
    folder: Path,
    url: str,
    pace: Pace,
    *,
    unmirrored: bool,
    begun: bool,
    parent: Parent,
    finish: Finish,
    tell: Tell,
) -> int:
    """Claim the mirror, restore the run folder, tell so, and keep the mirror up to date until the run ends.

    Args:
        folder: the run folder, whose parent is there.
        url: RUNS_REMOTE.
        pace: how often.
        unmirrored: whether the run may begin although the mirror cannot be used now.
        begun: whether it has begun, so that nothing is restored; the mirror is claimed when it can be.
        parent: the trainer; the last state is uploaded when it is gone.
        finish: asks for the last upload.
        tell: hands on news.

    Returns: the exit code: 0 if all that is in the run folder is in the mirror.
    """
    follower = _Follower(folder, url, pace, finish, tell)
    try:
        with lock_mirror(folder):
            if not begun:
                follower.begin(unmirrored=unmirrored)
            tell("ready", "restored" if follower.restored else "")
            return follower.work(parent)
    except (MirrorError, ConfigError) as error:
        tell("refused", str(error))
        return error.exit_code


class _Follower:
    def __init__(self, folder: Path, url: str, pace: Pace, finish: Finish, tell: Tell) -> None:
        self._folder, self._url, self._pace = folder, url, pace
        self._finish, self._tell = finish, tell
        self._mirror: Mirror | None = None
        self._ended = ""  # why this run has no mirror any more
        self._failures, self._told = 0, False
        self._saved = 0.0  # when the state that is in the mirror was saved, by this machine's clock
        self._took = 0.0  # seconds of the last upload
        self._state = State(url)
        self.restored = False

    def begin(self, *, unmirrored: bool) -> None:
        """Claim the mirror and restore the run folder. Raises: Taken, MirrorError, ConfigError."""
        try:
            pauses = () if unmirrored else PAUSES
            mirror = try_again(lambda: self._claimed(self._wait_for), pauses, partial(self._tell, "info"))
        except (Taken, ConfigError):
            raise
        except MirrorError as error:
            if not unmirrored:
                raise MirrorError(f"{error}; --unmirrored starts without it") from None
            self.failed(error)
            return
        # What is there and is further is not trained again, whatever the user consented to.
        try:
            self.restored = mirror.restore()
        except MirrorError:
            mirror.release()
            raise
        self._mirror = mirror
        if self._folder.exists():
            self._note("" if self.restored else "the newest state is not there yet")
        if not mirror.index.key:
            with suppress(MirrorError):
                self._tell("info", f"{begins_anew(self._url, self._folder.name)}; it goes there from now on")

    def failed(self, error: MirrorError) -> None:
        """Say so the first time, and try again later."""
        self._failures += 1
        self._note(str(error))
        if not self._told and (self._failures >= TOLD_AFTER or self._mirror is None):
            self._told = True
            self._tell("warning", f"the mirror is behind: {error}; training goes on, it is tried again")

    def work(self, parent: Parent) -> int:
        """Upload whenever it is due, until all is done or there is no time left."""
        tries = 0  # at the last upload
        orphaned = False
        try:
            while True:
                # Asked first: what is there then is all that there will be.
                if not orphaned and (orphaned := parent.is_gone()):
                    _end_in(LAST_SECONDS)
                last = orphaned or self._finish.asked.is_set()
                if last and not tries and self._mirror:
                    self._mirror.end()
                done = self._try(last=last)
                tries += last
                if self._ended or (last and (done or orphaned or tries == LAST_TRIES)):
                    if not last:
                        self._wait_for_end(parent)
                    return 0 if done else MirrorError.exit_code
                in_a_row = tries or self._failures
                self._sleep(parent, min(2.0 ** (in_a_row - 1), LONGEST_PAUSE) if in_a_row else self._poll)
        finally:
            self._release()

    def _release(self) -> None:
        if self._mirror:
            self._mirror.release()
            self._mirror = None

    @property
    def _poll(self) -> float:
        return min(1.0, self._pace.every / 4)

    def _claimed(self, wait: Callable[[str], None]) -> Mirror:
        store = open_store(self._url, self._folder.name)
        mirror = Mirror(self._folder, store, lease_seconds=self._pace.lease_seconds)
        mirror.claim(wait)
        return mirror

    def _wait_for(self, who: str) -> None:
        self._tell("info", f"waiting to see whether {who} still trains this run")

    def _try(self, *, last: bool) -> bool:
        """Upload if it is due; whether all is well."""
        if self._ended or not (last or self._failures or self._due()):
            return not self._ended
        try:
            if self._mirror is None:
                mirror = self._claimed(lambda who: None)
                self._mirror = mirror
                mirror.require_not_ahead()
            begun = time.monotonic()
            if self._mirror.upload():
                self._took = time.monotonic() - begun
            self._saved = min(self._mirror.index.saved, time.time())
        except Taken as error:
            self._ended = str(error)
            self._note(self._ended)
            self._release()
            self._tell("warning", f"{error}; this run goes on without a mirror")
            return False
        except MirrorError as error:
            self.failed(error)
            return False
        if self._told:
            self._tell("info", "the mirror is up to date again")
        self._failures, self._told = 0, False
        self._note("")
        return True

    def _due(self) -> bool:
        step, _ = newest_checkpoint(self._folder)
        mirrored = self._mirror.index.step if self._mirror else -1
        return self._pace.is_due(step, mirrored, time.time() - self._saved, self._took + self._poll)

    def _sleep(self, parent: Parent, seconds: float) -> None:
        """Sleep, but not past a first wish to finish or the parent's end."""
        end, asked = time.monotonic() + seconds, self._finish.asked.is_set()
        while (left := end - time.monotonic()) > 0 and not parent.is_gone():
            if asked:  # a mirror that does not answer is not asked without a pause
                time.sleep(min(left, 0.5))
            elif self._finish.asked.wait(min(left, 0.5)):
                return

    def _wait_for_end(self, parent: Parent) -> None:
        while not parent.is_gone() and not self._finish.asked.wait(0.5):
            pass

    def _note(self, behind: str) -> None:
        state = State(self._url, self._mirror.index.step if self._mirror else -1, behind)
        if state != self._state and self._folder.exists():
            with suppress(OSError):  # of a disk that is full its trainer speaks
                write_state(self._folder, state)
                self._state = state


def _end_in(seconds: float) -> None:
    """End this process in so many seconds at the latest, also while it waits for a server."""
    timer = threading.Timer(seconds, lambda: os._exit(MirrorError.exit_code))
    timer.daemon = True
    timer.start()
