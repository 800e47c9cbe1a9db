"""Runs that are named in any way, here or in MLflow, compared."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from trainer.errors import ConfigError
from trainer.files import write_text
from trainer.report import Group, compare, compare_page, compare_svg
from trainer.tracking import JOURNAL, RunHistory, read_journal, remote_histories

MOST = 24  # runs that are told apart in a chart
PATTERN = "'NAME-*'"  # in quotes, for a shell would make files of it that are no runs
PAGES = {".html": compare_page, ".svg": compare_svg}


def compare_runs(
    runs_given: Sequence[str], *, runs: Path = Path("runs"), price: float | None = None
) -> tuple[Group, ...]:
    """Compare runs, finished or not.

    Args:
        runs_given: run folders; names of folders in `runs` or of runs in MLflow, with *, ? and [] for several, which
            pass over range tests and runs that have not begun; ids of runs in MLflow.
        runs: folder of all runs, and of MLflow's SQLite store where MLFLOW_TRACKING_URI names no server.
        price: of a machine per hour in US dollars, for runs that were not told theirs.

    Returns: those of the same validation images together.
    Raises: ConfigError if a name names nothing, or fewer than two runs are named; TrackingError.
    """
    found: dict[str, tuple[str, RunHistory]] = {}  # by key, so that no run is there twice
    for given in runs_given:
        some = _named(given, runs)
        begun = [(name, history) for name, history in some if history.key]
        trainings = [(name, history) for name, history in begun if history.tags.get("kind") != "find-lr"]
        if not trainings:
            why = (
                "is a range test, which has no accuracy; its page in MLflow has its curve"
                if begun
                else "has not begun yet; wait for its first step"
            )
            raise ConfigError(f"{given} {why}. A pattern for several, such as {PATTERN}, passes over it")
        for name, history in trainings:
            found.setdefault(history.key, (name, history))
    if not 2 <= len(found) <= MOST:
        raise ConfigError(
            f"{' '.join(runs_given)} names {len(found)} run(s); name 2 to {MOST} to be compared, "
            f"such as {PATTERN}"
        )
    return compare(list(found.values()), price=price)


def check_page(out: Path) -> None:
    """Refuse a file that is no page or picture. Raises: ConfigError."""
    if out.suffix.lower() not in PAGES:
        raise ConfigError(f"--out {out} is neither {' nor '.join(PAGES)}; name such a file")
    if not out.parent.is_dir():
        raise ConfigError(f"--out {out}: there is no folder {out.parent}; make it first")


def write_comparison(groups: Sequence[Group], out: Path) -> None:
    """Write the comparison as one HTML file, or its curves as one SVG file. Raises: ConfigError."""
    check_page(out)
    try:
        write_text(out, PAGES[out.suffix.lower()](groups))
    except OSError as error:
        raise ConfigError(f"{out} cannot be written: {error.strerror or error}; name another --out") from None


def _named(given: str, runs: Path) -> list[tuple[str, RunHistory]]:
    if (Path(given) / JOURNAL).exists():
        return [_of_folder(Path(given))]
    folders = [path.parent for path in sorted(runs.glob(f"*/{JOURNAL}"))]
    here = [
        folder for folder in folders if fnmatchcase(folder.name, given) or fnmatchcase(str(folder), given)
    ]
    if here:
        return [_of_folder(folder) for folder in here]
    remote = [(history.name, history) for history in remote_histories(given, runs=runs)]
    if not remote:
        known = ", ".join(folder.name for folder in folders[-5:]) or "none"
        raise ConfigError(
            f"{given} is no run folder, and names no run in {runs} nor in MLflow; in {runs} there are, among others: "
            f"{known}"
        )
    return remote


def _of_folder(folder: Path) -> tuple[str, RunHistory]:
    return folder.resolve().name, read_journal(folder, empty=True)
