"""What a machine clones: the repository that this folder was cloned from, at the commit that is here."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

from trainer.errors import ConfigError


def origin() -> str:
    """Address of this clone's origin, as anybody may clone it. Raises: ConfigError."""
    address = _git("remote", "get-url", "origin")
    if not address:
        raise ConfigError(
            "this folder is no clone with an origin; give --repository URL, for the machine to clone from"
        )
    # The machine has no key of yours: a public repository is cloned by https.
    return re.sub(r"^(?:ssh://)?git@([^:/]+)[:/]", r"https://\1/", address)


def pushed_commit() -> str:
    """The commit that is checked out here. Raises: ConfigError if it is nowhere else."""
    commit = _git("rev-parse", "HEAD")
    if not commit:
        raise ConfigError("this folder is no clone; give --revision COMMIT, for the machine to check out")
    if not _git("branch", "--remotes", "--contains", commit):
        raise ConfigError(f"the commit {commit[:12]} is only here; git push it, or give --revision COMMIT")
    return commit


def _git(*words: str) -> str:
    folder = Path(__file__).parents[2]
    try:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True).stdout.strip()
    except FileNotFoundError:
        return ""
