"""Runs that outlive their machine: the newest state of a run folder, on S3 or on a disk that others share."""

from trainer.mirror._follow import Finish, Pace, State, follow, read_state, write_state
from trainer.mirror._lease import Taken
from trainer.mirror._mirror import LAST_SECONDS, Mirror, begins_anew, lock_mirror, prove, runs_in
from trainer.mirror._store import Gone, check_address, open_store

__all__ = [
    "LAST_SECONDS",
    "Finish",
    "Gone",
    "Mirror",
    "Pace",
    "State",
    "Taken",
    "begins_anew",
    "check_address",
    "follow",
    "lock_mirror",
    "open_store",
    "prove",
    "read_state",
    "runs_in",
    "write_state",
]
