"""Who may write a mirror: one machine at a time, which renews its lease; a dead one's runs out.

The lease is an object that is made and replaced by conditional writes, so of two machines one gets it. Whether its
owner is dead is judged by the store's clock alone, its time now against the time of the last renewal: the clocks of the
machines may differ.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from trainer.errors import MirrorError
from trainer.files import parse_json
from trainer.mirror._store import Changed, Found, Store

LEASE = "lease.json"
SECONDS = 60.0  # that a lease lasts without being renewed
LEAST = 3.0  # seconds, where the mirror is to be up to date within fewer
SLACK = 2.0  # seconds: clocks of stores have whole ones
POLL = 0.5  # seconds between two looks at another's lease
BOOT = Path("/proc/sys/kernel/random/boot_id")


class Taken(MirrorError):
    """Another machine has the lease."""


def owner_of(folder: Path) -> str:
    """Names this machine and this run folder, whose parent is there: the same for a start after a crash.

    By the kernel's start, which differs between all machines and is the same in their containers, and by the disk and
    number of the folder of all runs, for containers may call different ones by the same name.
    """
    place = folder.parent.stat()
    with suppress(OSError):
        boot = BOOT.read_text()
        return hashlib.sha256(f"{boot}{place.st_dev} {place.st_ino} {folder.name}".encode()).hexdigest()[:16]
    return secrets.token_hex(8)


class Lease:
    """The lease of one run's mirror; `take` it, then it is renewed by a thread until `release`."""

    def __init__(self, store: Store, folder: Path, *, seconds: float) -> None:
        """Prepare it.

        Args:
            store: of the run.
            folder: the run folder.
            seconds: that others wait for its renewal.
        """
        self._store, self._seconds = store, seconds
        self._facts: dict[str, Any] = {
            "owner": owner_of(folder),
            "token": secrets.token_hex(8),  # this process: another one of the same owner may follow it
            "host": socket.gethostname(),
            "folder": str(folder.absolute()),
            "seconds": seconds,
            "since": time.strftime("%H:%M UTC", time.gmtime()),
        }
        self._version: str | None = None
        self._released = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._keep, name="renew-lease", daemon=True)
        self.lost = ""  # to whom; empty while it is ours

    def take(self, wait: Callable[[str], None] = lambda who: None) -> None:
        """Take the lease: at once if nobody has it, or this machine and folder; else when its owner seems dead.

        Args:
            wait: called once, with who has the lease, before this waits.

        Raises: Taken if its owner renews it meanwhile, and not for the last time; MirrorError.
        """
        seen: str | None = None
        while True:
            found = self._store.read(LEASE)
            if found is None or self._may_take(found):
                with suppress(Changed):
                    self._version = self._store.write(
                        LEASE, self._content(), version=found.version if found else None
                    )
                    self._thread.start()
                    return
            elif seen is None:
                seen = found.version
                wait(_who(found))
            elif found.version != seen and not _facts(found).get("ending"):
                raise Taken(
                    f"the run is being trained on {_who(found)}; wait for it, or start another run with --name"
                )
            time.sleep(POLL)

    def end(self) -> None:
        """Tell those who wait that it is about to be released."""
        self._facts["ending"] = True
        with suppress(MirrorError):
            self.renew()

    def release(self) -> None:
        """Let others take it at once; say nothing where that is impossible, for it runs out."""
        self._released.set()
        if self._thread.ident:
            self._thread.join()
        if self._version and not self.lost:
            with suppress(MirrorError, Changed):
                self._store.write(LEASE, self._content(owner=""), version=self._version)

    def renew(self) -> None:
        """Renew it. Raises: Taken if another has it by now; MirrorError."""
        with self._lock:
            if self.lost:
                raise Taken(f"the mirror was taken over by {self.lost}")
            try:
                self._version = self._store.write(LEASE, self._content(), version=self._version)
            except Changed:
                found = self._store.read(LEASE)
                if found and _facts(found).get("token") != self._facts["token"]:
                    self.lost = _who(found)
                    raise Taken(f"the mirror was taken over by {self.lost}") from None
                # A renewal whose answer got lost; or the bucket was emptied.
                self._version = found.version if found else None

    def _keep(self) -> None:
        while not self._released.wait(self._seconds / 3):
            try:
                self.renew()
            except Taken:
                return
            except MirrorError:
                continue  # whoever uploads says so

    def _may_take(self, found: Found) -> bool:
        facts = _facts(found)
        seconds = facts.get("seconds")
        lasts = seconds if isinstance(seconds, int | float) else SECONDS
        return facts.get("owner") in ("", self._facts["owner"]) or found.age > lasts + SLACK

    def _content(self, **others: str) -> bytes:
        return json.dumps({**self._facts, **others, "write": secrets.token_hex(8)}).encode()


def _facts(found: Found) -> dict[str, Any]:
    with suppress(ValueError):
        facts = parse_json(found.data)
        if isinstance(facts, dict):
            return facts
    return {}


def _who(found: Found) -> str:
    facts = _facts(found)
    since = f", since {facts['since']}" if facts.get("since") else ""
    return f"{facts.get('host', 'another machine')} ({facts.get('folder', 'an unknown folder')}{since})"[:200]
