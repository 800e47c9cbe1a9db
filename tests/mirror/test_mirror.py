"""A run folder that goes to its mirror and back: a reader sees one state or another, never a mixture."""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from pathlib import Path

import pytest

from benchmarks._s3_proxy import Proxy, in_front_of
from tests.dataset.conftest import Bucket
from tests.mirror.conftest import Machine, files_of, with_best, write_checkpoint
from trainer.errors import MirrorError
from trainer.mirror import Finish, Pace, Taken, begins_anew, follow, open_store
from trainer.mirror._index import INDEX
from trainer.tracking import Parent


def mirrored(machine: Machine, *steps: int) -> None:
    """A machine that has claimed the mirror, and brought these steps there."""
    machine.mirror.claim()
    machine.mirror.restore()
    for step in steps:
        write_checkpoint(machine.run, step)
        assert machine.mirror.upload()


def test_a_machine_without_the_run_gets_all_that_is_needed_to_go_on(url: str, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", url)
    mirrored(first, 1)
    with_best(first.run, write_checkpoint(first.run, 2))
    write_checkpoint(first.run, 3)
    newest = write_checkpoint(first.run, 4)
    (first.run / "parent.json").write_text("{}")
    for name in ("train.lock", "sync.log", ".step.partial"):
        (first.run / name).write_text("of this machine")
    assert first.mirror.upload()
    first.mirror.release()

    second = Machine(tmp_path / "b", url)
    second.mirror.claim()
    assert second.mirror.restore()
    second.mirror.release()

    there, here = files_of(second.run), files_of(first.run)
    best = next(name for name in here if "step-00000002" in name)
    wanted = {"journal.jsonl", "recipe.json", "parent.json", f"checkpoints/{newest.name}", best}
    assert set(there) == {*wanted, "checkpoints/best.pt"}
    assert all(there[name] == here[name] for name in there)


def test_older_objects_go_when_the_new_index_is_up_and_the_checkpoint_before_stays(
    disk: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "a", disk)
    mirrored(machine, *range(1, 6))

    objects = machine.store.names("files/")
    assert sum("/checkpoints/" in name for name in objects) == 2
    assert len(objects) == 4  # and journal, recipe
    assert not machine.mirror.upload(), "nothing is new"
    machine.mirror.release()


def test_a_damaged_newest_checkpoint_is_passed_over_for_the_one_before(
    disk: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    first = Machine(tmp_path / "a", disk)
    mirrored(first, 1, 2)
    first.mirror.release()
    (entry, before) = first.mirror.index.checkpoints()
    damage(first, entry.object)

    second = Machine(tmp_path / "b", disk)
    second.mirror.claim()
    assert second.mirror.restore()
    assert [path.name for path in (second.run / "checkpoints").iterdir()] == [Path(before.path).name]
    assert "damaged checkpoint in the mirror passed over" in caplog.text

    damage(first, before.object)
    third = Machine(tmp_path / "c", disk)
    second.mirror.release()
    third.mirror.claim()
    with pytest.raises(MirrorError, match="all checkpoints in the mirror are damaged"):
        third.mirror.restore()
    third.mirror.release()
    assert not third.run.exists()
    assert not list(third.run.parent.iterdir()), "nothing is left of what was fetched"

    told: list[tuple[str, str]] = []
    follow(
        third.run,
        disk,
        Pace(600, 60, 1),
        unmirrored=True,  # is no consent to train again what is there
        begun=False,
        parent=Parent(),
        finish=Finish(),
        tell=lambda kind, text: told.append((kind, text)),
    )
    assert told[-1][0] == "refused"
    assert "all checkpoints in the mirror are damaged" in told[-1][1]
    assert "--unmirrored" not in told[-1][1]


def damage(machine: Machine, name: str) -> None:
    import hashlib
    import io

    machine.store.get(name, file := io.BytesIO())
    content = bytearray(file.getvalue())
    content[len(content) // 2] ^= 1
    machine.store.put(name, io.BytesIO(content), len(content), hashlib.sha256(content).hexdigest())


def test_a_checkpoint_that_is_damaged_here_does_not_go_up(disk: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", disk)
    mirrored(machine, 1)
    newest = write_checkpoint(machine.run, 2)
    newest.write_bytes(newest.read_bytes()[:-1])
    machine.mirror.upload()
    machine.mirror.release()

    assert machine.mirror.index.step == 1


def test_a_run_folder_that_was_lost_takes_nothing_out_of_the_mirror(disk: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", disk)
    mirrored(machine, 1)
    state = machine.mirror.look()
    shutil.rmtree(machine.run)
    for lost in (lambda: None, machine.run.mkdir, lambda: write_checkpoint(machine.run, 2, key="another")):
        lost()
        with pytest.raises(
            MirrorError, match="has lost what the mirror has of this run, up to step 1, which is left"
        ):
            machine.mirror.upload()
    machine.mirror.release()
    assert machine.mirror.look() == state


def test_a_run_that_was_lost_before_its_first_checkpoint_keeps_its_key(disk: str, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", disk)
    mirrored(first)
    write_checkpoint(first.run, 1).unlink()
    assert first.mirror.upload()
    first.mirror.release()

    second = Machine(tmp_path / "b", disk)
    second.mirror.claim()
    assert second.mirror.restore()
    second.mirror.release()
    assert files_of(second.run)["journal.jsonl"] == files_of(first.run)["journal.jsonl"]


def test_files_that_are_not_of_the_run_do_not_go_up_and_one_that_cannot_be_read_is_told(
    disk: str, tmp_path: Path
) -> None:
    machine = Machine(tmp_path / "a", disk)
    mirrored(machine, 1)
    (machine.run / "images.tar").write_bytes(b"some gigabytes")
    (machine.run / "model.txt").write_text("its layers")
    assert machine.mirror.upload()
    assert {one.path for one in machine.mirror.index.others()} == {
        "journal.jsonl",
        "model.txt",
        "recipe.json",
    }

    (machine.run / "model.txt").unlink()
    (machine.run / "journal.jsonl").unlink()
    (machine.run / "journal.jsonl").mkdir()
    with pytest.raises(MirrorError, match=r"journal\.jsonl cannot be read: "):
        machine.mirror.upload()
    machine.mirror.release()


def test_a_former_owner_writes_nothing_any_more(url: str, tmp_path: Path) -> None:
    """Its lease has run out while it was without a network, and another machine goes on."""
    first = Machine(tmp_path / "a", url, lease_seconds=1)
    mirrored(first, 1, 2)
    lease = first.mirror._lease
    lease._released.set()
    lease._thread.join()
    second = Machine(tmp_path / "b", url)
    second.mirror.claim()
    write_checkpoint(first.run, 9)
    with pytest.raises(Taken, match="the mirror was taken over by"):
        first.mirror.upload()
    assert second.mirror.look().step == 2, "not even before the other has written something"

    second.mirror.restore()
    write_checkpoint(second.run, 3)
    assert second.mirror.upload()
    seen = second.store.names("files/")
    first.mirror._delete_old(set(seen))
    assert second.store.names("files/") == seen
    write_checkpoint(second.run, 4)
    assert second.mirror.upload()
    second.mirror.release()
    assert not any("step-00000009" in name for name in second.store.names("files/"))


def test_a_run_folder_that_is_further_stays_and_one_that_is_behind_is_kept_aside(
    disk: str, tmp_path: Path
) -> None:
    first = Machine(tmp_path / "a", disk)
    mirrored(first, 1)
    write_checkpoint(first.run, 2)
    assert not first.mirror.restore()
    first.mirror.upload()
    first.mirror.release()

    stale = Machine(tmp_path / "b", disk)
    shutil.copytree(first.run, stale.run)
    os.unlink(next((stale.run / "checkpoints").glob("step-00000002-*")))
    stale.mirror.claim()
    assert stale.mirror.restore()
    stale.mirror.release()

    assert files_of(stale.run)["journal.jsonl"] == files_of(first.run)["journal.jsonl"]
    aside = stale.run.with_name(".run.before-restore")
    assert [path.name[:13] for path in (aside / "checkpoints").iterdir()] == ["step-00000001"]


def test_the_mirror_of_another_beginning_of_the_run_is_left_as_it_is(disk: str, tmp_path: Path) -> None:
    first = Machine(tmp_path / "a", disk)
    mirrored(first, 1)
    first.mirror.release()

    other = Machine(tmp_path / "b", disk)
    write_checkpoint(other.run, 5, key="another")
    other.mirror.claim()
    with pytest.raises(Taken, match="as it was begun another time, up to step 1; it is left as it is"):
        other.mirror.restore()
    other.mirror.release()


def test_a_bucket_that_was_emptied_is_filled_again(url: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", url)
    mirrored(machine, 1)
    machine.store.delete(machine.store.names(""))
    write_checkpoint(machine.run, 2)
    with pytest.raises(MirrorError, match="changed by another program; it is made anew"):
        machine.mirror.upload()
    assert machine.mirror.upload()
    machine.mirror.release()

    other = Machine(tmp_path / "b", url)
    other.mirror.claim()
    assert other.mirror.restore()
    other.mirror.release()
    assert files_of(other.run)["journal.jsonl"] == files_of(machine.run)["journal.jsonl"]


def test_an_object_that_somebody_has_deleted_goes_up_again(disk: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", disk)
    mirrored(machine, 1)
    recipe = next(one.object for one in machine.mirror.index.files if one.path == "recipe.json")
    machine.store.delete([recipe])
    write_checkpoint(machine.run, 2)
    assert machine.mirror.upload()
    machine.mirror.release()

    assert recipe in machine.store.names("files/")


def test_an_upload_that_is_cut_anywhere_leaves_the_state_before(
    bucket: Bucket, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with in_front_of(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        machine = Machine(tmp_path / "a", f"s3://{bucket.name}/runs")
        mirrored(machine, 1)
        state = machine.mirror.look()
        write_checkpoint(machine.run, 2, content=os.urandom(300_000))
        proxy.cut_after = 100_000
        with pytest.raises(MirrorError):
            machine.mirror.upload()
        assert machine.mirror.look() == state

        proxy.well()
        whole = len(proxy.puts)
        assert machine.mirror.upload()
        machine.mirror.release()
        paths = [path for path, _ in proxy.puts[whole:]]
        assert len(paths) == len(set(paths)), "what was there already is not sent again"
        assert machine.mirror.look().step == 2


def test_a_server_that_fails_for_a_moment_is_asked_again_when_a_run_is_fetched(
    bucket: Bucket, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"s3://{bucket.name}/runs"
    first = Machine(tmp_path / "a", url)
    mirrored(first, 1)
    first.mirror.release()
    with in_front_of(s3_endpoint) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
        second = Machine(tmp_path / "b", url)
        second.mirror.claim()
        proxy.status = 503
        well = threading.Thread(target=well_again, args=(proxy, proxy.asked + 3))
        well.start()
        assert second.mirror.restore()
        well.join()
        second.mirror.release()


def well_again(proxy: Proxy, asked: int) -> None:
    while proxy.asked < asked:
        time.sleep(0.02)
    proxy.well()


def test_what_a_name_may_have_been_mistaken_for_is_told(url: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", url)
    mirrored(machine, 1)
    machine.mirror.release()

    assert begins_anew(url, "other-1a2b") == f"{url} has nothing of other-1a2b"
    store = open_store(url, "rn50-75-1a2b")
    store.write(INDEX, b"{}", version=None)
    words = f"{url} has nothing of rn50-75-3c4d (but of rn50-75-1a2b, with other settings or data)"
    assert begins_anew(url, "rn50-75-3c4d") == words


def test_an_index_whose_paths_lead_out_of_the_run_folder_is_refused(disk: str, tmp_path: Path) -> None:
    machine = Machine(tmp_path / "a", disk)
    mirrored(machine, 1)
    machine.mirror.release()
    for path in ("../outside", "/etc/x", "a/../../b", "a//b", "."):
        found = machine.store.read(INDEX)
        assert found is not None
        content = json.loads(found.data)
        content["files"][0]["path"] = path
        machine.store.write(INDEX, json.dumps(content).encode(), version=found.version)

        with pytest.raises(MirrorError, match=r"index\.json of the mirror is no index of this program"):
            machine.mirror.look()


def test_a_mirror_is_due_after_an_epoch_or_when_the_next_checkpoint_would_be_too_late() -> None:
    pace = Pace(every=600, checkpoint_interval=60, epoch_steps=100)

    assert pace.is_due(1, -1, 0, 0), "the first"
    assert not pace.is_due(150, 150, 1e9, 0), "nothing is new"
    assert not pace.is_due(170, 150, 500, 10)
    assert pace.is_due(170, 150, 535, 10)
    assert pace.is_due(200, 199, 0, 0), "the end of an epoch"
    assert (pace.lease_seconds, Pace(1, 1, 1).lease_seconds) == (60, 3)
