"""Checkpoints of a run that are complete or absent."""

from trainer.checkpoint._checkpoints import INTERVAL, KEEP, Checkpoints
from trainer.checkpoint._files import (
    BEGINNING,
    checkpoint_step,
    list_checkpoints,
    load_checkpoint,
    load_state,
    write_checkpoint,
)
from trainer.checkpoint._staging import Stateful

__all__ = [
    "BEGINNING",
    "INTERVAL",
    "KEEP",
    "Checkpoints",
    "Stateful",
    "checkpoint_step",
    "list_checkpoints",
    "load_checkpoint",
    "load_state",
    "write_checkpoint",
]
