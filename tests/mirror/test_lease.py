"""One machine at a time writes a mirror; a dead one's lease runs out, by the store's clock."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trainer.errors import MirrorError
from trainer.mirror import Taken
from trainer.mirror._lease import LEASE, Lease
from trainer.mirror._store import open_store

Leases = Callable[..., Lease]


@pytest.fixture
def lease() -> Iterator[Leases]:
    """Makes leases, of machines whose runs are in a folder; none is renewed when the test is over."""
    made: list[Lease] = []

    def one(url: str, runs: Path, seconds: float = 60) -> Lease:
        runs.mkdir(exist_ok=True)
        made.append(Lease(open_store(url, "run"), runs / "run", seconds=seconds))
        return made[-1]

    yield one
    for each in made:
        each.release()


def cut_off(one: Lease) -> None:
    """Its machine is lost: nobody renews it any more."""
    one._released.set()
    one._thread.join()


def test_the_second_machine_is_turned_away_when_it_has_seen_the_first_renew(
    lease: Leases, url: str, tmp_path: Path
) -> None:
    first = lease(url, tmp_path / "a", seconds=3)
    first.take()
    waited: list[str] = []
    with pytest.raises(Taken, match=r"is being trained on .*a/run.*; wait for it, or .* --name"):
        lease(url, tmp_path / "b").take(waited.append)

    assert len(waited) == 1
    first.release()
    lease(url, tmp_path / "b").take()


def test_a_machine_that_is_about_to_end_is_waited_for(lease: Leases, disk: str, tmp_path: Path) -> None:
    first = lease(disk, tmp_path / "a")
    first.take()

    def end(who: str) -> None:
        first.end()
        threading.Timer(1, first.release).start()

    lease(disk, tmp_path / "b").take(end)


def test_a_start_on_the_same_machine_takes_it_at_once(lease: Leases, disk: str, tmp_path: Path) -> None:
    first = lease(disk, tmp_path / "a")
    first.take()
    cut_off(first)

    begun = time.monotonic()
    lease(disk, tmp_path / "a").take()
    assert time.monotonic() - begun < 30  # of 60 that the lease lasts
    with pytest.raises(Taken, match="the mirror was taken over by"):
        first.renew()


@pytest.mark.slow
def test_the_lease_of_a_dead_machine_runs_out(lease: Leases, url: str, tmp_path: Path) -> None:
    first = lease(url, tmp_path / "a", seconds=1)
    first.take()
    cut_off(first)

    begun = time.monotonic()
    second = lease(url, tmp_path / "b")
    second.take()
    assert 1 < time.monotonic() - begun < 30
    with pytest.raises(Taken):
        first.renew()
    first.release()  # changes nothing: it is another's
    second.renew()


def test_a_renewal_whose_answer_got_lost_is_known_as_ones_own(
    lease: Leases, disk: str, tmp_path: Path
) -> None:
    store = open_store(disk, "run")
    one = lease(disk, tmp_path / "a")
    one.take()
    found = store.read(LEASE)
    assert found is not None
    store.write(
        LEASE, json.dumps({**json.loads(found.data), "write": "lost"}).encode(), version=found.version
    )

    one.renew()
    one.renew()
    assert not one.lost


def test_a_lease_that_is_gone_with_its_bucket_is_made_again(lease: Leases, disk: str, tmp_path: Path) -> None:
    store = open_store(disk, "run")
    one = lease(disk, tmp_path / "a")
    one.take()
    store.delete([LEASE, *store.names(LEASE)])

    one.renew()
    one.renew()
    assert store.read(LEASE)
    one.release()


def test_a_lease_that_nobody_can_read_runs_out_as_any_other(lease: Leases, disk: str, tmp_path: Path) -> None:
    store = open_store(disk, "run")
    store.write(LEASE, b"\xff[", version=None)
    waited: list[str] = []

    class Enough(MirrorError):
        pass

    def wait(who: str) -> None:
        waited.append(who)
        raise Enough

    with pytest.raises(Enough):
        lease(disk, tmp_path / "a").take(wait)
    assert waited == ["another machine (an unknown folder)"]
