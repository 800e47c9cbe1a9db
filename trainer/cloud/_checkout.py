"""What a machine clones: the repository that this folder was cloned from, at the commit that is here."""

from __future__ import annotations

import logging
import os
import re
import subprocess
from pathlib import Path

from trainer.errors import ConfigError

logger = logging.getLogger(__name__)


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
    # Of all remotes, the machine knows origin alone.
    if not _git("branch", "--remotes", "--list", "origin/*", "--contains", commit):
        raise ConfigError(
            f"the commit {commit[:12]} is not at origin, as far as git knows; git push it, or say what the machine "
            "shall have: up --revision COMMIT, data --repository URL"
        )
    changed = [line[3:] for line in _git("status", "--porcelain", "--untracked-files=no").splitlines()]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        logger.warning("not committed, and so not on the machine: %s%s", ", ".join(changed[:3]), more)
    return commit


def require_clonable(repository: str) -> str:
    """`repository`, if git reads it as a machine does that knows nobody. Raises: ConfigError."""
    # By ssh it would be read with a key of this computer; a password is refused later, and not said.
    if not re.match(r"(https?|git|file)://[^@]*$", repository):
        return repository
    alone = {**os.environ, "GIT_TERMINAL_PROMPT": "0", "GIT_ASKPASS": "true", "SSH_ASKPASS": "true"}
    command = ["git", "-c", "credential.helper=", "ls-remote", "--quiet", repository, "HEAD"]
    try:
        done = subprocess.run(command, env=alone, capture_output=True, text=True, timeout=60)
    except FileNotFoundError:  # no git here; the machine has it
        return repository
    except subprocess.TimeoutExpired:
        raise ConfigError(f"{repository} does not answer git; is the address right?") from None
    if done.returncode:
        why = (done.stderr.strip().splitlines() or ["no reason given"])[-1].removeprefix("fatal: ")
        raise ConfigError(
            f"git cannot read {repository} without a password, as the machine must ({why[:200]}); make it public, or "
            "give --repository URL of a copy that is"
        )
    return repository


def _git(*words: str) -> str:
    folder = Path(__file__).parents[2]
    try:
        return subprocess.run(["git", "-C", folder, *words], capture_output=True, text=True).stdout.rstrip()
    except FileNotFoundError:
        return ""
