"""The mirror of a run: its folder's newest state, brought there and back."""

from __future__ import annotations

import hashlib
import io
import logging
import os
import secrets
import shutil
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from trainer.errors import MirrorError
from trainer.files import file_lock, point, sync_folder
from trainer.mirror._index import Entry, Index, read_index, take_over, write_index
from trainer.mirror._lease import Lease, Taken
from trainer.mirror._snapshot import RESULT, Digests, Local, Snapshot, local_key, newest_checkpoint, snapshot
from trainer.mirror._store import TRIALS, Changed, NoAnswer, Store, open_store

FILES = "files/"  # objects of the run's files: files/GENERATION-SHA256/PATH
LAST_SECONDS = 60.0  # that the last upload may take when the trainer was stopped, or is gone
LOCK_SECONDS = LAST_SECONDS + 10
PAUSES = (1.0, 2.0, 4.0)  # seconds between tries at a start, which nobody may be there to repeat
TRAIN_LOCK = "train.lock"  # held by whoever trains in the run folder

T = TypeVar("T")

logger = logging.getLogger(__name__)


class Mirror:
    """The mirror of the run in `folder`, which this process alone may write.

    mirror = Mirror(folder, store, lease_seconds=60)
    mirror.claim()
    mirror.restore()   # what is further there than here
    mirror.upload()    # again and again
    mirror.release()
    """

    def __init__(self, folder: Path, store: Store, *, lease_seconds: float) -> None:
        self._folder, self._store = folder, store
        self._lease = Lease(store, folder, seconds=lease_seconds)
        self._version: str | None = None  # of the index
        self._uploaded: dict[tuple[str, str], Entry] = {}  # by path and SHA-256; not in the index yet
        self._digests = Digests()
        self.index = Index()

    def claim(self, wait: Callable[[str], None] = lambda who: None) -> None:
        """See that the mirror can be written, and become the one who does.

        Raises: Taken if another machine trains the run; MirrorError if it cannot be used.
        """
        prove(self._store)
        self._lease.take(wait)
        try:
            self._store.sweep()
            self.index, self._version = take_over(self._store)
        except MirrorError:
            self._lease.release()
            raise

    def look(self) -> Index:
        """What the mirror holds; others may go on writing it."""
        self.index = read_index(self._store)[0]
        return self.index

    def require_not_ahead(self) -> None:
        """Raises: Taken if the mirror is further than the run folder, or as `require_same_run`."""
        if self._is_ahead():
            raise Taken(
                f"the mirror is further than {self._folder}, at step {self.index.step}, and is left as it is: "
                "`trainer train` goes on from there when it is started again, `trainer mirror --restore` fetches it"
            )
        self.require_same_run()

    def require_same_run(self) -> None:
        """Raises: Taken if the mirror holds what another start from the beginning has made of this run."""
        ours = local_key(self._folder)
        if ours and self.index.key and self.index.key != ours:
            raise Taken(
                f"the mirror holds this run as it was begun another time, up to step {self.index.step}; it is left as "
                "it is: give this run another --name, or move its folder away to go on from the mirror"
            )

    def restore(self) -> bool:
        """Fetch the mirror's state if it is further than that of the run folder; whether it was.

        The folder is replaced as a whole; one that had begun is kept beside it.

        Raises: MirrorError if no checkpoint there is sound, or the folder is in use; nothing has changed then.
        """
        if not self._is_ahead():
            self.require_same_run()
            return False
        staged = self._folder.with_name(f".{self._folder.name}.restore")
        try:
            shutil.rmtree(staged, ignore_errors=True)
            (staged / "checkpoints").mkdir(parents=True)
            for entry in self.index.others():
                if not self._fetch(entry, staged):
                    raise MirrorError(
                        f"{entry.path} in the mirror is damaged; delete the mirror to begin anew, or give another "
                        "--name"
                    )
            self._fetch_checkpoints(staged)
            self._replace(staged)
        except OSError as error:
            raise MirrorError(
                f"{self._folder} cannot be restored: {error.strerror or error}; make room, or choose another --runs"
            ) from None
        finally:
            shutil.rmtree(staged, ignore_errors=True)
        return True

    def upload(self) -> bool:
        """Bring the mirror up to the state of the run folder; whether there was anything new.

        Raises: Taken if another machine has taken over; MirrorError if it cannot be used now. Then the mirror is as it
            was, and what was uploaded already need not be again.
        """
        if self._lease.lost:
            self._lease.renew()
        with snapshot(self._folder, self._digests) as now:
            self._require_less(now)
            there = set(self._store.names(FILES))
            entries = [self._entry(one, there) for one in now.files]
            before = [one for one in self.index.checkpoints() if one.path not in {e.path for e in entries}][
                :1
            ]
            entries += [one for one in before if one.object in there]
            index = replace(
                self.index,
                key=now.key,
                step=now.step,
                saved=now.saved,
                finished=now.finished,
                best=now.best,
                files=tuple(sorted(entries)),
            )
        if not _news(index, self.index):
            return False
        try:
            self._version = write_index(self._store, index, self._version)
        except Changed:
            self._lease.renew()  # says who has it by now
            self.index, self._version = take_over(self._store)
            self._uploaded.clear()
            raise MirrorError("the mirror was changed by another program; it is made anew") from None
        self.index = index
        self._uploaded.clear()
        self._delete_old(there | {one.object for one in index.files})
        return True

    def end(self) -> None:
        """Tell those who wait for it that the next upload is the last."""
        self._lease.end()

    def release(self) -> None:
        """Let another machine have it at once."""
        self._lease.release()

    def _is_ahead(self) -> bool:
        folder, there = self._folder, self.index
        here = ((folder / RESULT).exists(), newest_checkpoint(folder)[0], bool(local_key(folder)))
        return (there.finished, there.step, bool(there.key)) > here

    def _require_less(self, now: Snapshot) -> None:
        """Raises: MirrorError if the mirror has what the run folder has no more: the folder itself was lost."""
        there = self.index
        lost = (there.key and there.key != now.key) or (there.step >= 0 > now.step)
        if lost or (there.finished and not now.finished):
            raise MirrorError(
                f"{self._folder} has lost what the mirror has of this run, up to step {there.step}, which is left as "
                "it is: the next start fetches it"
            )

    def _entry(self, local: Local, there: set[str]) -> Entry:
        known = {(one.path, one.sha256): one for one in self.index.files} | self._uploaded
        entry = known.get((local.path, local.sha256))
        if entry is None or entry.object not in there:
            name = f"{FILES}{self.index.generation:04d}-{local.sha256[:16]}/{local.path}"
            entry = Entry(local.path, name, local.bytes, local.sha256)
            local.file.seek(0)
            self._store.put(entry.object, local.file, local.bytes, local.sha256)
            there.add(entry.object)
            self._uploaded[local.path, local.sha256] = entry
        return entry

    def _delete_old(self, there: set[str]) -> None:
        """Delete what the index does not name, also what a kill has left; of a later owner nothing."""
        named = {one.object for one in self.index.files}
        old = [name for name in there - named if _generation(name) <= self.index.generation]
        if old:
            self._store.delete(sorted(old))

    def _fetch(self, entry: Entry, staged: Path) -> bool:
        """Fetch a file; whether it is what it was when it was uploaded."""
        path = staged / entry.path
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w+b") as file:

            def get() -> None:
                file.seek(0)
                file.truncate()
                self._store.get(entry.object, file)

            try_again(get, PAUSES, logger.info)
            file.flush()
            os.fsync(file.fileno())
            file.seek(0)
            if hashlib.file_digest(file, "sha256").hexdigest() == entry.sha256:
                return True
        path.unlink()
        return False

    def _fetch_checkpoints(self, staged: Path) -> None:
        """Fetch the newest sound checkpoint, and the best."""
        checkpoints, damaged = self.index.checkpoints(), []
        for entry in checkpoints:
            if self._fetch(entry, staged):
                break
            damaged.append(Path(entry.path).name)
            logger.warning("damaged checkpoint in the mirror passed over: %s", damaged[-1])
        else:
            if checkpoints:
                raise MirrorError(
                    f"all checkpoints in the mirror are damaged ({', '.join(damaged)}); delete the mirror to begin "
                    "anew, or give another --name"
                )
        best = next((one for one in checkpoints if Path(one.path).name == self.index.best), None)
        if best and self.index.best not in damaged:
            if (staged / best.path).exists() or self._fetch(best, staged):
                point(staged / "checkpoints" / "best.pt", self.index.best)
            else:
                logger.warning("the best checkpoint in the mirror is damaged; the newest is sound")

    def _replace(self, staged: Path) -> None:
        folder = self._folder
        if folder.exists():
            used = MirrorError(f"{folder} is being trained by another process; wait for it")
            with file_lock(folder / TRAIN_LOCK, timeout=10, otherwise=used):
                aside = folder.with_name(f".{folder.name}.before-restore")
                shutil.rmtree(aside, ignore_errors=True)  # of an earlier time: it was behind then
                os.rename(folder, aside)
            if newest_checkpoint(aside)[0] < 0:
                shutil.rmtree(aside, ignore_errors=True)
            else:
                logger.warning("the mirror is further than %s; what was there is in %s", folder, aside)
        os.rename(staged, folder)
        sync_folder(folder.parent)


def try_again(attempt: Callable[[], T], pauses: Sequence[float], tell: Callable[[str], None]) -> T:
    """What `attempt` returns, if need be after so many pauses (seconds) without an answer. Raises: as `attempt`."""
    for pause in pauses:
        try:
            return attempt()
        except NoAnswer as error:
            tell(f"{error}; tried again in {pause:g} s")
            time.sleep(pause)
    return attempt()


def runs_in(url: str, prefix: str = "") -> list[str]:
    """Names of the runs that are mirrored below `url` and begin with `prefix`, in order. Raises: MirrorError."""
    return sorted({name.partition("/")[0] for name in open_store(url).names(prefix)})


def begins_anew(url: str, run: str) -> str:
    """That a mirror has nothing of a run, in words, with the runs there that it may have been mistaken for."""
    others = [other for other in runs_in(url, f"{run.rpartition('-')[0]}-") if other != run]
    there = f" (but of {', '.join(others[:5])}, with other settings or data)" if others else ""
    return f"{url} has nothing of {run}{there}"


def prove(store: Store) -> None:
    """See that objects can be written, read, listed and deleted, and that two machines can be kept apart.

    Raises: MirrorError.
    """
    name, content = f"{TRIALS[0]}{secrets.token_hex(8)}", b"written to see that it can be"
    store.put(name, io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())
    try:
        store.get(name, file := io.BytesIO())
        if file.getvalue() != content or name not in store.names(TRIALS[0]):
            raise MirrorError("what was written to the mirror does not come back; use another RUNS_REMOTE")
        _prove_conditions(store)
    finally:
        store.delete([name])


def _prove_conditions(store: Store) -> None:
    name = f"{TRIALS[1]}{secrets.token_hex(8)}"
    version = store.write(name, b"1", version=None)
    try:
        for wrong in (None, '"0"' if version.startswith('"') else "7"):
            try:
                store.write(name, b"2", version=wrong)
            except Changed:
                continue
            raise MirrorError(
                "this S3 writes although a condition (If-None-Match, If-Match) says not to, so that two machines could "
                "not be kept apart; use another"
            )
    finally:
        store.delete([name, f"{name}~{1:012d}"])


def lock_mirror(folder: Path) -> AbstractContextManager[None]:
    """Be the only process of this machine that mirrors the run folder; it waits for one whose trainer is gone.

    Raises: MirrorError.
    """
    busy = MirrorError(f"{folder} is mirrored by another process already; wait for it to end")
    return file_lock(folder.with_name(f".{folder.name}.mirror.lock"), timeout=LOCK_SECONDS, otherwise=busy)


def _generation(name: str) -> int:
    number = name.removeprefix(FILES).partition("-")[0]
    return int(number) if number.isdigit() else 0


def _news(new: Index, old: Index) -> bool:
    """Whether the new index says more than that the one before the newest checkpoint is another."""
    return {one for one in new.files if one not in old.files} != set() or (new.step, new.finished) != (
        old.step,
        old.finished,
    )
