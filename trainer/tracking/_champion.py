"""The champion, the version that devices run: how it moves from one version to another, and what stays of each move.

Three aliases: `candidate` is the best verified version, `champion` the promoted one, `previous` the one before that.
Each move is a tag of the registered model, called after its time, which MLflow's UI shows on the model's page:

    champion 2026-11-26T10:45:46.123456Z    version 5 promoted by alice@build after version 3: top-1 80.50%, was 80.10%

MLflow changes one alias or tag at a time. So a move is first written down at its version (PENDING), then `champion` is
set, `previous`, and the tag of the move; PENDING goes last. Cut off anywhere, `champion` is the old version or the new
one, and the next command finishes what was begun.
"""

from __future__ import annotations

import getpass
import math
import os
import re
import socket
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from trainer.tracking._candidate import VAL_DIGEST
from trainer.tracking._versions import find_model

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities.model_registry import ModelVersion

CHAMPION, PREVIOUS = "champion", "previous"  # aliases
PENDING = "champion_move"  # tag of a version: the move to it that has begun and is not done
PROMOTED, ROLLED_BACK = "promoted", "rolled back"

_KEY = CHAMPION + " "
_TIME = "%Y-%m-%dT%H:%M:%S.%fZ"
_MOVE = re.compile(
    rf"version (\d+) ({PROMOTED}|{ROLLED_BACK}) by (.*?) after (?:version (\d+)|none): (.*)", re.DOTALL
)


@dataclass(frozen=True, kw_only=True)
class Move:
    """The champion became another version."""

    version: int
    how: str  # PROMOTED or ROLLED_BACK
    by: str  # user@host
    after: int | None  # the version that was the champion before
    why: str
    time: str  # UTC

    @property
    def key(self) -> str:
        """Name of its tag."""
        return f"{_KEY}{self.time}"

    @property
    def text(self) -> str:
        """Value of its tag."""
        after = f"version {self.after}" if self.after else "none"
        return f"version {self.version} {self.how} by {self.by} after {after}: {self.why}"

    @classmethod
    def read(cls, key: str, text: str) -> Move | None:
        """The move of a tag; None if it is no such tag, or somebody has changed it."""
        found = _MOVE.fullmatch(text)
        if not found or not key.startswith(_KEY):
            return None
        version, how, by, after, why = found.groups()
        return cls(
            version=int(version),
            how=how,
            by=by,
            after=int(after) if after else None,
            why=why,
            time=key.removeprefix(_KEY),
        )


@dataclass(frozen=True)
class Standing:
    """Who is the champion of a registered model, and how it came so."""

    name: str
    champion: ModelVersion | None
    previous: ModelVersion | None
    moves: tuple[Move, ...]  # in the order of time

    def next_move(self, version: int, how: str, why: str) -> Move:
        """The move of the champion to `version`, now, by this user."""
        time = _later(datetime.now(UTC).strftime(_TIME), *(move.time for move in self.moves))
        after = number(self.champion) if self.champion else None
        return Move(version=version, how=how, by=_who(), after=after, why=why, time=time)


def read_standing(client: MlflowClient, name: str) -> Standing:
    """How the registered model `name` stands now. Raises: TrackingError if there is none."""
    model = find_model(client, name)
    holders = (model.aliases.get(alias) for alias in (CHAMPION, PREVIOUS))
    champion, previous = (client.get_model_version(name, str(one)) if one else None for one in holders)
    moves = [Move.read(key, text) for key, text in sorted(model.tags.items())]
    return Standing(name, champion, previous, tuple(move for move in moves if move))


def number(version: ModelVersion) -> int:
    """Its number, which MLflow has as a text or not."""
    return int(version.version)


def finish_begun(client: MlflowClient, name: str) -> tuple[Standing, Move | None]:
    """How `name` stands, once a move of its champion that was cut off is finished; and that move, if there was one.

    Raises: TrackingError if there is no such registered model.
    """
    standing = read_standing(client, name)
    begun = standing.champion and pending(standing.champion)
    if not begun:
        return standing, None
    _finish(client, name, begun)
    return read_standing(client, name), begun


def carry_out(client: MlflowClient, standing: Standing, move: Move) -> ModelVersion | None:
    """Make `move.version` the champion.

    Of promotions that go on at the same time the best one stays: each sees, after it has set the alias, those that
    were written down before.

    Returns: None if it is the champion now; the better version that another process has promoted meanwhile.
    """
    name = standing.name
    client.set_model_version_tag(name, str(move.version), PENDING, f"{move.key} {move.text}")
    client.set_registered_model_alias(name, CHAMPION, str(move.version))
    if move.how == PROMOTED:
        versions = {number(version): version for version in client.search_model_versions(f"name='{name}'")}
        rivals = _rivals(client, move, {one.key for one in standing.moves}, versions)
        best = _best([move, *rivals], versions)
        if str(client.get_registered_model(name).aliases.get(CHAMPION)) != str(best.version):
            client.set_registered_model_alias(name, CHAMPION, str(best.version))
        if best is not move:  # whoever promoted that finishes it, or the next command
            client.delete_registered_model_tag(name, move.key)  # of whoever took it for cut off
            client.delete_model_version_tag(name, str(move.version), PENDING)
            return versions[best.version]
        move = replace(move, time=_later(move.time, *(rival.time for rival in rivals)))  # the last one holds
    _finish(client, name, move)
    return None


def _rivals(
    client: MlflowClient, ours: Move, seen: Collection[str], versions: Mapping[int, ModelVersion]
) -> list[Move]:
    """Promotions of other versions that were done since, or have begun from the same champion or from one of those."""
    name = versions[ours.version].name
    done = [move for move in read_standing(client, name).moves if move.key not in seen]
    champions = {ours.after, *(move.version for move in done)}
    begun = [move for move in map(pending, versions.values()) if move and move.after in champions]
    others = (move for move in (*done, *begun) if move.version in versions.keys() - {ours.version})
    return [move for move in others if move.how == PROMOTED]


def _best(moves: Sequence[Move], versions: Mapping[int, ModelVersion]) -> Move:
    """The one of the best version on the images of the first one's; of equal ones the first version."""
    digest = versions[moves[0].version].tags.get(VAL_DIGEST, "")

    def top1(move: Move) -> float:
        measured = accuracy(versions[move.version], digest)
        return measured if measured == measured else -1.0

    return max(moves, key=lambda move: (top1(move), -move.version))


def _later(time: str, *others: str) -> str:
    """`time`, or the first moment after `others`: a clock that is behind does not change the order of moves."""
    last = max(others, default="")
    if time > last:
        return time
    with suppress(ValueError):  # somebody has changed it
        after = datetime.strptime(last, _TIME).replace(tzinfo=UTC) + timedelta(microseconds=1)
        return after.strftime(_TIME)
    return time


def _finish(client: MlflowClient, name: str, move: Move) -> None:
    """What comes after the alias `champion`; it may be repeated."""
    from mlflow.exceptions import MlflowException

    if move.after:
        try:
            client.set_registered_model_alias(name, PREVIOUS, str(move.after))
        except MlflowException as error:  # that version was deleted
            if error.error_code not in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
                raise
    client.set_registered_model_tag(name, move.key, move.text)
    client.delete_model_version_tag(name, str(move.version), PENDING)


def pending(version: ModelVersion) -> Move | None:
    begun = version.tags.get(PENDING, "")
    at = begun.find(" version ")
    return Move.read(begun[:at], begun[at + 1 :]) if at > 0 else None


def accuracy(version: ModelVersion, val_digest: str) -> float:
    """Top-1 of a version on the validation images of this digest, in 0..1; nan if nothing says it."""
    same = version.tags.get(VAL_DIGEST) == val_digest
    try:
        top1 = float(version.tags.get("top1" if same else recorded_as(val_digest), "nan"))
    except ValueError:
        return math.nan
    return top1 if 0 <= top1 <= 1 else math.nan


def recorded_as(val_digest: str) -> str:
    """Tag of a version for its top-1 on other validation images than those of its run."""
    return f"top1_of_{val_digest[:12]}"


def _who() -> str:
    """The account at MLflow, or the user here; and the machine."""
    user = os.environ.get("MLFLOW_TRACKING_USERNAME", "")
    if not user:
        with suppress(OSError, KeyError):  # a container's user may have no name
            user = getpass.getuser()
    words = f"{user or 'trainer'}@{socket.gethostname()}"
    return "".join(sign for sign in words if sign.isprintable() and not sign.isspace())[:100]
