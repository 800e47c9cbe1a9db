"""A run brought to its mirror or from it by hand."""

from __future__ import annotations

from pathlib import Path

from trainer.errors import ConfigError, MirrorError
from trainer.mirror import (
    Gone,
    Mirror,
    State,
    begins_anew,
    lock_mirror,
    open_store,
    prove,
    runs_in,
    write_state,
)
from trainer.run._options import StartOptions
from trainer.run._plan import Plan
from trainer.tracking import read_journal, tag_run

LEASE_SECONDS = 60.0
MIRROR = "mirror"  # the tag of the run in MLflow


def upload_run(folder: Path, url: str) -> str:
    """Bring the mirror of the run in `folder` up to date; a sentence that says so.

    Raises: TrackingError if that is no run; MirrorError if another machine trains it or the mirror cannot be used.
    """
    read_journal(folder)
    with lock_mirror(folder):
        mirror = Mirror(folder, open_store(url, folder.absolute().name), lease_seconds=LEASE_SECONDS)
        mirror.claim()
        try:
            mirror.require_not_ahead()
            mirror.upload()
        finally:
            mirror.release()
        write_state(folder, State(url, mirror.index.step, ""))
    tag_run(folder, MIRROR, url)
    return f"all of {folder} is in {url}"


def restore_run(folder: Path, url: str) -> str:
    """Fetch the run in `folder` from its mirror if it is further there; a sentence that says what was done.

    Raises: MirrorError if there is none, or it cannot be used; ConfigError if the folder can be none.
    """
    folder = folder.absolute()
    if folder.name in ("", ".."):
        raise ConfigError(f"{folder} is no name of a run; give one such as runs/NAME")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"{folder.parent} cannot be made: {error.strerror}; choose another") from None
    with lock_mirror(folder):
        mirror = Mirror(folder, open_store(url, folder.name), lease_seconds=LEASE_SECONDS)
        for more in (True, True, False):
            if not mirror.look().files:
                there = runs_in(url)
                raise MirrorError(
                    f"{url} has no run {folder.name}; it has {', '.join(there) or 'none at all'}"
                )
            try:
                if mirror.restore():
                    return f"{folder} is restored from {url}, step {mirror.index.step}"
                break
            except Gone:  # whoever trains it has written a newer state meanwhile
                if not more:
                    raise
    return f"{folder} is as far as {url}, step {mirror.index.step}; nothing was fetched"


def check_mirror(plan: Plan, options: StartOptions) -> str:
    """See that the mirror of a run can be used; in words, what it holds; empty if the run has none.

    Raises: ConfigError, MirrorError.
    """
    if not options.runs_remote:
        return ""
    store = open_store(options.runs_remote, plan.folder.name)
    prove(store)
    step = Mirror(plan.folder, store, lease_seconds=LEASE_SECONDS).look().step
    if step < 0:
        return begins_anew(options.runs_remote, plan.folder.name)
    return f"{options.runs_remote}, which has it up to step {step:,}"
