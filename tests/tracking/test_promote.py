"""The champion moves to a better version only, each move is kept, and a move by hand is noticed."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mlflow import MlflowClient
from mlflow.entities.model_registry import ModelVersion

from tests.tracking.conftest import run_info
from tests.tracking.models import finished_run, network, register_it
from trainer.errors import TrackingError
from trainer.tracking import (
    BUNDLE_LOG,
    Journal,
    promote,
    promote_if_asked,
    record_accuracy,
    register,
    rollback,
    tracking_uri,
)
from trainer.tracking._champion import PENDING, Standing, read_standing
from trainer.tracking._promotion import promote_version, set_by_hand
from trainer.tracking._server import connect

TOP1 = (0.5, 0.9, 0.7)  # of versions 1 to 3; the second is the candidate


@pytest.fixture(scope="module")
def three_versions(tmp_path_factory: pytest.TempPathFactory, empty_store: Path) -> Path:
    """A store with three verified versions of the model `tiny`; each test begins with a copy of its database."""
    folder = tmp_path_factory.mktemp("runs")
    shutil.copy(empty_store, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        for number, top1 in enumerate(TOP1, start=1):
            register_it(finished_run(folder / f"run-{number}"), network(number), top1=top1)
    shutil.copy(folder / "mlflow.db", folder / "mlflow.db.kept")
    return folder


@pytest.fixture
def registry(three_versions: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "alice")
    shutil.copy(three_versions / "mlflow.db.kept", three_versions / "mlflow.db")
    return three_versions


def version(number: int) -> str:
    return f"models:/tiny/{number}"


def aliases(runs: Path) -> dict[str, int]:
    found = connect(tracking_uri(runs)).get_registered_model("tiny").aliases
    return {name: int(number) for name, number in found.items() if name != "candidate"}


def moves(runs: Path) -> list[str]:
    """The moves, without the machine's name."""
    standing = read_standing(connect(tracking_uri(runs)), "tiny")
    assert not any(
        PENDING in one.tags for one in connect(tracking_uri(runs)).search_model_versions("name='tiny'")
    )
    return [re.sub(r"@\S+", "", move.text) for move in standing.moves]


def test_a_better_version_becomes_the_champion_and_what_was_it_can_come_back(registry: Path) -> None:
    promote(version(1), runs=registry)
    done = promote(None, runs=registry)
    assert (done.model, done.previous, aliases(registry)) == (version(2), 1, {"champion": 2, "previous": 1})

    back = rollback("tiny", runs=registry, reason="too slow")
    assert (back.model, back.previous, aliases(registry)) == (version(1), 2, {"champion": 1, "previous": 2})
    rollback("tiny", runs=registry)
    assert aliases(registry) == {"champion": 2, "previous": 1}

    assert moves(registry) == [
        "version 1 promoted by alice after none: top-1 50.00%, the first champion",
        "version 2 promoted by alice after version 1: top-1 90.00%, was 50.00%",
        "version 1 rolled back by alice after version 2: too slow",
        "version 2 rolled back by alice after version 1: no reason was given",
    ]


@pytest.mark.parametrize(("other", "theirs"), [(1, "0.9"), (3, "0.9"), (3, "0.7")], ids=["1", "3", "equal"])
def test_a_version_that_is_not_better_is_refused(registry: Path, other: int, theirs: str) -> None:
    promote(version(2), runs=registry)
    connect(tracking_uri(registry)).set_model_version_tag("tiny", "2", "top1", theirs)

    with pytest.raises(
        TrackingError, match=rf"tiny/{other} is not promoted: it is not better than the champion"
    ):
        promote(version(other), runs=registry)
    assert aliases(registry) == {"champion": 2}
    assert not promote(version(2), runs=registry).moved


@pytest.mark.parametrize(
    ("tag", "value", "says"),
    [
        ("verified", None, "is not proven: it has not the tags verified"),
        ("files_sha256", None, "is not proven"),
        ("val_digest", None, "is not proven"),
        ("top1", "0.95", r"has the tag top1 '0.95', and its files say 0.70000: somebody has changed the tag"),
        ("top1", None, "has the tag top1 None"),
        ("files_sha256", "0" * 64, "has noted another files_sha256"),
    ],
)
def test_a_version_that_is_not_proven_is_refused(
    registry: Path, tag: str, value: str | None, says: str
) -> None:
    client = connect(tracking_uri(registry))
    client.delete_model_version_tag("tiny", "3", tag)
    if value:
        client.set_model_version_tag("tiny", "3", tag, value)

    with pytest.raises(TrackingError, match=says):
        promote(version(3), runs=registry)
    assert aliases(registry) == {}


def test_a_version_whose_files_were_changed_is_refused(registry: Path) -> None:
    stored = connect(tracking_uri(registry)).get_model_version("tiny", "3").source
    weights = Path(str(stored).removeprefix("file://")) / "weights.safetensors"
    kept = weights.read_bytes()
    try:
        weights.write_bytes(kept[:-1] + bytes([kept[-1] ^ 1]))
        with pytest.raises(TrackingError, match=r"damaged, or was changed since it was registered"):
            promote(version(3), runs=registry)
    finally:
        weights.write_bytes(kept)


def test_versions_of_other_images_are_compared_once_the_champion_was_measured_on_them(registry: Path) -> None:
    client = connect(tracking_uri(registry))
    client.set_model_version_tag("tiny", "1", "val_digest", "e" * 64)
    promote(version(1), runs=registry)
    with pytest.raises(
        TrackingError, match=r"measure it with `trainer evaluate models:/tiny/1 --data DIR --record`"
    ):
        promote(version(3), runs=registry)

    record_accuracy(version(1), "d" * 64, 0.75, runs=registry)
    with pytest.raises(TrackingError, match=r"not better .* top-1 70\.00% against 75\.00%"):
        promote(version(3), runs=registry)
    assert promote(version(2), runs=registry).why == "top-1 90.00%, was 75.00%"


def test_there_is_nothing_to_go_back_to_before_a_second_champion(registry: Path) -> None:
    promote(version(1), runs=registry)

    with pytest.raises(
        TrackingError, match="tiny has nothing to go back to: no version has the alias previous"
    ):
        rollback("tiny", runs=registry)
    with pytest.raises(TrackingError, match=r"there is no registered model tyni at .*; registered are tiny$"):
        rollback("tyni", runs=registry)


@pytest.mark.parametrize(
    ("begin", "by_hand", "says"),
    [
        (
            2,
            "3",
            r"set by hand to version 3; it is worse than version 2, which it was .* 70\.00% against 90\.00%",
        ),
        (
            3,
            "2",
            r"set by hand to version 2; it is not worse than version 3, which it was before: top-1 90\.00%",
        ),
        (0, "3", r"set by hand to version 3; it is worse than version 2, the candidate: top-1 70\.00%"),
        (2, "", r"champion of tiny was removed by hand; it was version 2"),
    ],
)
def test_a_champion_that_was_set_by_hand_is_noticed_by_whoever_comes_next(
    registry: Path, caplog: pytest.LogCaptureFixture, begin: int, by_hand: str, says: str
) -> None:
    client = connect(tracking_uri(registry))
    if begin:
        promote(version(1), runs=registry)
        promote(version(begin), runs=registry)
    assert "by hand" not in caplog.text
    if by_hand:
        client.set_registered_model_alias("tiny", "champion", by_hand)
    else:
        client.delete_registered_model_alias("tiny", "champion")

    with pytest.raises(TrackingError):
        promote("models:/tiny/1" if by_hand else "models:/tiny/7", runs=registry)
    if not by_hand:  # a version that is not there is said first
        promote(version(2), runs=registry)
    assert re.search(says, caplog.text)

    caplog.clear()
    client.set_registered_model_alias("tiny", "champion", by_hand or "3")
    register_again(registry)
    assert "champion of tiny was set by hand" in caplog.text

    caplog.clear()
    client.set_registered_model_alias("tiny", "previous", "1")
    rollback("tiny", runs=registry)
    assert "champion of tiny was set by hand" in caplog.text
    caplog.clear()
    rollback("tiny", runs=registry)
    assert "by hand" not in caplog.text


def register_again(
    runs: Path,
    *,
    promote: str = "manual",
    number: int = 1,
    only_registered: bool = False,
    resumed_with: str | None = None,
) -> None:
    """The end of a run whose registration was cut off just before its version counted as verified."""
    folder = runs / f"run-{number}"
    journal = folder / "journal.jsonl"
    kept = journal.read_text()
    connect(tracking_uri(runs)).delete_model_version_tag("tiny", str(number), "verified")
    journal.write_text(kept.replace('"epochs": 3', f'"epochs": 3, "promote": "{promote}"'))
    assert ('"promote"' in journal.read_text()) == ('"epochs": 3' in kept)
    if resumed_with:
        book = Journal(folder)
        book.start(run_info(tags={"promote": resumed_with}))
        book.finish("finished")
    try:
        registered = register(folder)
        if not only_registered:
            promote_if_asked(folder, registered)
    finally:
        journal.write_text(kept)


def test_the_recipe_may_have_a_better_version_promoted_at_the_end_of_its_run_and_a_worse_one_not(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "trainer")
    register_again(registry, number=3)
    assert aliases(registry) == {}

    register_again(registry, promote="better", number=3)
    assert aliases(registry) == {"champion": 3}
    assert "tiny version 3 is champion now: top-1 70.00%, the first champion" in caplog.text
    register_again(registry, promote="better", number=1)
    assert "models:/tiny/1 is not promoted: it is not better than the champion" in caplog.text
    register_again(registry, promote="better", number=2)
    assert aliases(registry) == {"champion": 2, "previous": 3}

    rollback("tiny", runs=registry)
    register_again(registry, promote="better", number=2)
    assert aliases(registry)["champion"] == 3, "a repeat takes it from nobody"


@pytest.mark.parametrize(
    ("first", "then", "champion"), [("manual", "better", {"champion": 3}), ("better", "manual", {})]
)
def test_a_run_that_goes_on_may_have_another_word_on_its_promotion(
    registry: Path, first: str, then: str, champion: dict[str, int]
) -> None:
    register_again(registry, promote=first, number=3, resumed_with=then)
    assert aliases(registry) == champion


def test_devices_find_the_bundle_of_a_champion_or_its_want_is_said(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    register_again(registry, promote="better", number=1, only_registered=True)
    assert aliases(registry) == {}, "its bundle is not there yet"

    promote(version(1), runs=registry)
    again = "trainer export models:/tiny/1 --log"
    assert (
        f"models:/tiny/1 has no bundle in MLflow, so that no device can pull it; send one with: {again}"
        in (caplog.text)
    )

    caplog.clear()
    connect(tracking_uri(registry)).set_model_version_tag("tiny", "3", "bundle", "1/r/artifacts/bundle")
    promote(version(3), runs=registry)
    assert "bundle" not in caplog.text


def test_a_version_whose_bundle_failed_is_promoted_by_hand_or_when_it_has_one(
    registry: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = registry / "run-1" / BUNDLE_LOG
    log.write_text("killed\n")
    try:
        register_again(registry, promote="better", number=1)
        assert aliases(registry) == {}
        assert f"models:/tiny/1 is not promoted: its bundle is not in MLflow, as {log} says" in caplog.text

        connect(tracking_uri(registry)).set_model_version_tag("tiny", "1", "bundle", "1/r/artifacts/bundle")
        register_again(registry, promote="better", number=1)
        assert aliases(registry) == {"champion": 1}, "the same command, now that devices can pull it"
    finally:
        log.unlink()


WRITES = (
    "set_model_version_tag",
    "set_registered_model_alias",
    "set_registered_model_tag",
    "delete_model_version_tag",
)


@pytest.mark.parametrize(
    ("command", "ends"),
    [
        (lambda runs: promote(version(2), runs=runs), {"champion": 2, "previous": 3}),
        (lambda runs: rollback("tiny", runs=runs), {"champion": 1, "previous": 3}),
    ],
    ids=["promote", "rollback"],
)
def test_cut_off_anywhere_there_is_a_champion_and_the_same_command_goes_on(
    registry: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    command: Callable[[Path], Any],
    ends: dict[str, int],
) -> None:
    promote(version(1), runs=registry)
    promote(version(3), runs=registry)
    begin = (registry / "mlflow.db").read_bytes()
    for lost in range(1, 6):
        (registry / "mlflow.db").write_bytes(begin)
        with monkeypatch.context() as patch:
            patch_to_die(patch, lost)
            with pytest.raises(KeyboardInterrupt):
                command(registry)
        assert aliases(registry)["champion"] in (3, ends["champion"])

        if lost == 5:  # all was done but the last answer
            break
        command(registry)
        assert aliases(registry) == ends
        assert len(moves(registry)) == 3
    assert "by hand" not in caplog.text


def patch_to_die(patch: pytest.MonkeyPatch, lost: int) -> None:
    """The power goes right after the write number `lost`, from 1 on, has reached MLflow."""
    count = 0

    def dying(request: Callable[..., Any]) -> Callable[..., Any]:
        def sent(*given: Any, **named: Any) -> None:
            nonlocal count
            request(*given, **named)
            count += 1
            if count == lost:
                raise KeyboardInterrupt

        return sent

    for name in WRITES:
        patch.setattr(MlflowClient, name, dying(getattr(MlflowClient, name)))


@pytest.mark.parametrize("at", range(1, 6), ids="write {}".format)
def test_of_two_promotions_at_once_the_better_version_stays(
    registry: Path, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """The other one goes through, all of it, just before a write of ours."""
    promote(version(1), runs=registry)
    client = connect(tracking_uri(registry))
    worse, better = (client.get_model_version("tiny", number) for number in ("3", "2"))
    for ours, theirs in ((worse, better), (better, worse)):
        before = read_standing(client, "tiny")
        with monkeypatch.context() as patch:
            interrupt(patch, at, lambda theirs=theirs, before=before: attempt(client, before, theirs))  # type: ignore[misc]
            attempt(client, before, ours)

        assert aliases(registry)["champion"] == 2, (ours.version, theirs.version)
        assert set_by_hand(client, read_standing(client, "tiny")) == ""
        (registry / "mlflow.db").write_bytes((registry / "mlflow.db.kept").read_bytes())
        promote(version(1), runs=registry)


def attempt(client: MlflowClient, standing: Standing, one: ModelVersion) -> None:
    with suppress(TrackingError):
        promote_version(client, standing, one)


def interrupt(patch: pytest.MonkeyPatch, at: int, act: Callable[[], None]) -> None:
    count = 0

    def delayed(request: Callable[..., Any]) -> Callable[..., Any]:
        def sent(*given: Any, **named: Any) -> None:
            nonlocal count
            count += 1
            if count == at:
                act()
            request(*given, **named)

        return sent

    for name in WRITES:
        patch.setattr(MlflowClient, name, delayed(getattr(MlflowClient, name)))
